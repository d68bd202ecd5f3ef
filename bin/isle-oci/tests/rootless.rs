//! A user without privileges, and root of a user namespace, as rootless Podman is.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

const ISLE: &str = env!("CARGO_BIN_EXE_isle-oci");
/// Nobody's on any host, it is hoped.
const USER: u32 = 64_242;

/// Runs a script whose `$user` and `$oci` are the user's, in a mount namespace where /etc says that ids from 300000 on
/// are theirs; what it prints, or `None` where the host cannot do it.
fn told(script: &str) -> Option<String> {
    let can = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: making the scene needs root and busybox");
        return None;
    }
    if !can("unshare", &["--user", "--map-root-user", "true"]) {
        eprintln!("skipped: this host makes no user namespaces");
        return None;
    }
    if !Path::new("/usr/bin/newuidmap").exists() || !Path::new("/etc/subuid").exists() {
        eprintln!("skipped: newuidmap and /etc/subuid are not there (Debian package uidmap)");
        return None;
    }
    let directory = tempfile::Builder::new()
        .prefix("isle-oci-test-")
        .tempdir()
        .unwrap();
    let path = directory.path();
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, all).unwrap();
    fs::create_dir_all(path.join("rootfs/bin")).unwrap();
    for (from, to) in [("/bin/busybox", "rootfs/bin/busybox"), (ISLE, "isle-oci")] {
        assert!(can("cp", &[from, path.join(to).to_str().unwrap()]));
    }
    for name in ["sh", "sleep", "id", "cat", "test"] {
        std::os::unix::fs::symlink("busybox", path.join("rootfs/bin").join(name)).unwrap();
    }
    assert!(can(
        ISLE,
        &["spec", "--rootless", "--bundle", path.to_str().unwrap()]
    ));
    let text = fs::read(path.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!([
        "sh",
        "-c",
        "id; cat /proc/self/uid_map; test -c /dev/null && echo null"
    ]);
    let one = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    config["linux"]["uidMappings"] = one.clone();
    config["linux"]["gidMappings"] = one;
    let write =
        |name: &str, config: &Value| fs::write(path.join(name), config.to_string()).unwrap();
    write("one.json", &config);
    let mut range = config.clone();
    range["process"]["args"] = json!(["sleep", "1000"]);
    range["process"]["user"] = json!({"uid": 33, "gid": 33});
    let more = json!([
        {"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 300_000, "size": 1000},
    ]);
    range["linux"]["uidMappings"] = more.clone();
    range["linux"]["gidMappings"] = more;
    write("range.json", &range);
    range["linux"]["uidMappings"][1]["hostID"] = json!(1);
    write("foreign.json", &range);
    config["linux"]["resources"] = json!({"pids": {"limit": 10}});
    write("limits.json", &config);
    config["linux"].as_object_mut().unwrap().remove("resources");
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    linux["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != "user");
    write("inside.json", &config);
    let scene = format!(
        "set -e; cd {path}; chown -R {USER}:{USER} .
         (cat /etc/passwd; echo 'isle-test:x:{USER}:{USER}::/:/bin/sh') > passwd; echo 'isle-test:300000:65536' > ids
         mount --bind passwd /etc/passwd; mount --bind ids /etc/subuid; mount --bind ids /etc/subgid
         user='setpriv --reuid {USER} --regid {USER} --clear-groups'
         oci=\"$user {path}/isle-oci --root {path}/state\"
         {script}",
        path = path.display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &scene])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    Some(format!(
        "{}{error}",
        String::from_utf8(output.stdout).unwrap()
    ))
}

#[test]
fn a_user_runs_a_container_in_a_user_namespace_of_their_own() {
    let Some(text) = told("$oci run -f one.json a < /dev/null; ls state | wc -l") else {
        return;
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(
        words,
        ["uid=0", "gid=0", "0", "64242", "1", "null", "0"],
        "{text}"
    );
}

#[test]
fn root_of_a_user_namespace_runs_one_in_it() {
    let Some(text) =
        told("$user unshare -rm ./isle-oci --root state run -f inside.json a < /dev/null")
    else {
        return;
    };
    assert!(
        text.contains("uid=0 gid=0") && text.contains("null"),
        "{text}"
    );
}

#[test]
fn ids_that_are_the_users_can_be_entered_killed_and_deleted() {
    let script = "
        $oci create -f range.json a < /dev/null > log 2>&1 || { cat log >&2; exit 1; }
        $oci start a
        $oci exec a id; $oci exec -u 0 -g 7 a id
        $oci delete a 2> /dev/null || echo refused
        $oci kill a KILL
        until $oci state a | grep -q stopped; do sleep 0.01; done
        $oci delete a
        $oci create -f range.json b < /dev/null > log 2>&1; $oci start b; $oci delete --force b
        ls state | wc -l";
    let Some(text) = told(script) else { return };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        ["uid=33 gid=33", "uid=0 gid=33 groups=7", "refused", "0"],
        "{text}"
    );
}

#[test]
fn what_the_user_may_not_is_said() {
    let script = "
        $oci run -f inside.json a < /dev/null || true
        $oci run -f foreign.json a < /dev/null || true
        $oci run -f limits.json a < /dev/null || true";
    let Some(text) = told(script) else { return };
    for part in ["user namespaces alone", "/etc/subuid", "asks for limits"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
