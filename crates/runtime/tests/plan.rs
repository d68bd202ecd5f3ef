//! Plans as text: what would be done, without doing it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use isle_runtime::{Options, Plan};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "web",
        "process": {
            "user": {"uid": 33, "gid": 33},
            "args": ["nginx", "-g", "daemon off;"],
            "env": ["PATH=/usr/sbin:/usr/bin", "HOME=/"],
            "cwd": "/srv",
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048}],
            "noNewPrivileges": true,
            "oomScoreAdj": 100,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/data/../volume", "type": "bind", "source": "/srv/volume", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "uts"}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
        },
    })
}

fn plan(config: Value) -> String {
    let options = Options {
        id: "id".to_owned(),
        bundle: "/bundle".into(),
        ..Options::default()
    };
    let spec = serde_json::from_value(config).unwrap();
    Plan::new(&spec, options).unwrap().to_string()
}

#[test]
fn a_usual_container() {
    assert_eq!(
        plan(config()),
        "\
make the process with namespaces: mount, pid, network, uts
make a session
make the session keyring _ses.id
bring the loopback interface up
set the host name \"web\"
set how mounts of the host propagate
attach the root file system at /
mount proc on /proc
mount tmpfs on /dev
mount tree 1 on /volume
make the device /dev/null
make the device /dev/zero
make the device /dev/full
make the device /dev/random
make the device /dev/urandom
make the device /dev/tty
link /dev/fd to /proc/self/fd
link /dev/stdin to /proc/self/fd/0
link /dev/stdout to /proc/self/fd/1
link /dev/stderr to /proc/self/fd/2
link /dev/core to /proc/kcore
link /dev/ptmx to pts/ptmx
set the sysctl net.ipv4.ip_unprivileged_port_start to \"0\"
set oom_score_adj to 100
make the directory /srv
make /proc/sys read-only
mask /proc/kcore
change the root of the mount namespace
set the attributes of the root mount
set RLIMIT_NOFILE to 1024 (hard 2048)
give the standard streams to user 33
set no_new_privs
set the bounding set of capabilities
become user 33 and group 33
set the capabilities
set the file mode creation mask 0022
change to the working directory \"/srv\"
find \"nginx\" in PATH
wait for the start
close the descriptors from 3 on
execute \"nginx\"
"
    );
}

#[test]
fn a_policy_comes_last_whether_or_not_privileges_can_be_gained() {
    let end = |no_new_privileges: bool, action: &str| {
        let mut config = config();
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/listener",
            "syscalls": [{"names": ["mkdir"], "action": action}],
        });
        let text = plan(config);
        let lines = text.lines().skip_while(|line| !line.starts_with("find"));
        let words = lines.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
        words.collect::<Vec<_>>().join(", ")
    };
    let deny = "SCMP_ACT_ERRNO";
    assert_eq!(
        end(true, deny),
        "find \"nginx\", wait for, close the, install the, execute \"nginx\""
    );
    assert_eq!(
        end(false, deny),
        "find \"nginx\", wait for, close the, set the, install the, set the, execute \"nginx\""
    );
    assert_eq!(
        end(false, "SCMP_ACT_NOTIFY"),
        "find \"nginx\", set the, install the, set the, wait for, close the, execute \"nginx\""
    );
}

#[test]
fn namespaces_that_only_children_enter_take_a_second_clone() {
    let mut config = config();
    config["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "user"}, {"type": "uts"}, {"type": "time"},
        {"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "network", "path": "/proc/1/ns/net"},
    ]);
    config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    config["linux"]["gidMappings"] = config["linux"]["uidMappings"].clone();
    config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 5}});
    let text = plan(config);
    let lines: Vec<&str> = text.lines().take(10).collect();
    assert_eq!(
        lines,
        [
            "make the process with namespaces: ",
            "enter namespaces: pid",
            "enter namespaces: network",
            "make namespaces: time",
            "set the offsets of the clocks",
            "make the process with namespaces: user, mount, uts",
            "wait for the parent process",
            "become root of the user namespace",
            "set whether the process can be traced",
            "make a session",
        ]
    );
    assert!(text.contains("mount tree 5 on /dev/null"), "{text}");
}

#[test]
fn what_is_wrong_is_named_with_what_it_may_be() {
    let fail = |pointer: &str, value: Value| {
        let mut config = config();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        let spec = serde_json::from_value(config).unwrap();
        Plan::new(&spec, Options::default())
            .unwrap_err()
            .to_string()
    };
    for (pointer, value, expected) in [
        (
            "/process/args",
            json!([]),
            "the specification has no process.args",
        ),
        (
            "/process/cwd",
            json!("a"),
            "invalid process.cwd \"a\": it is not absolute",
        ),
        (
            "/process/oomScoreAdj",
            json!(5000),
            "invalid process.oomScoreAdj \"5000\": it is from -1000 to 1000",
        ),
        (
            "/hostname",
            json!("x".repeat(65)),
            "it is longer than 64 bytes",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "it belongs to the whole host and no namespace",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.shmmax": "1"}),
            "it belongs to the ipc namespace, which the container shares",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}]),
            "a mount namespace of its own",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "mount"}]),
            "given twice",
        ),
        (
            "/mounts",
            json!([{"destination": "/", "type": "tmpfs"}]),
            "the root file system comes from `root`",
        ),
        (
            "/mounts",
            json!([{"destination": "/a"}]),
            "a mount has a type",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "bind", "source": "/b", "options": ["tmpcopyup"]}]),
            "it is for tmpfs only",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
            "the soft limit is above the hard one",
        ),
    ] {
        let text = fail(pointer, value);
        assert!(text.contains(expected), "{pointer}: {text}");
    }
}
