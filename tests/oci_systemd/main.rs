//! `isle-oci --systemd-cgroup` below a real systemd: a virtual machine of Isle's whose first process is systemd, on
//! version 2 control groups, is the host here.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use isle_tests::{Level, Need, World, wait_for};
use serde_json::json;

isle_tests::stories! {
    only Level::Vm;
    systemd_makes_and_knows_the_control_group [Need::Isle],
    exec_joins_beside_an_init_that_has_made_groups [Need::Isle],
}

/// The program that is tested: beside `isle`, as both are built.
fn isle_oci() -> PathBuf {
    match std::env::var_os("ISLE_OCI_BIN") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/isle-oci"),
    }
}

/// A machine under systemd, with `isle-oci` and a bundle in `/share`.
fn boot(world: &World, script: &str) {
    let image = world.image("systemd");
    world.file("share/test.sh", script);
    let share = world.files().join("share");
    fs::copy(isle_oci(), share.join("isle-oci")).expect("isle-oci was built");
    let config = json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "1000"], "env": ["PATH=/bin"],
        },
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": "isletest.slice:engine:c1",
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}],
            "resources": {
                "memory": {"limit": 67_108_864}, "pids": {"limit": 50},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
            },
        },
    });
    world.file("share/config.json", config.to_string());
    let volume = format!("{}:/share", share.display());
    world
        .isle([
            "run",
            "-d",
            "--name",
            "host",
            "--privileged",
            "--network",
            "none",
            "-m",
            "1g",
            "--tmpfs",
            "/run",
            "-v",
            &volume,
            &image,
        ])
        .succeeds();
    wait_for("systemd has started", || {
        let state = world
            .isle(["exec", "host", "systemctl", "is-system-running"])
            .run()
            .stdout();
        ["running", "degraded"].contains(&state.trim())
    });
}

const SCRIPT: &str = r#"
set -e
mkdir -p /tmp/b/rootfs/bin; cp /share/config.json /tmp/b; cp /bin/busybox /tmp/b/rootfs/bin/sleep
oci="/share/isle-oci --systemd-cgroup"; scope=engine-c1.scope; group=/sys/fs/cgroup/isletest.slice/$scope
show() { systemctl show $scope -p "$1" --value; }
$oci create -b /tmp/b c1 < /dev/null > /tmp/out 2>&1 || { cat /tmp/out; exit 1; }
$oci start c1
echo "slice $(show Slice), $(show ActiveState), delegated $(show Delegate)"
echo "limits $(show MemoryMax) $(show TasksMax) $(show CPUWeight) $(show CPUQuotaPerSecUSec)"
echo "files $(cat $group/memory.max) $(cat $group/pids.max) $(cat $group/cpu.max) $(wc -l < $group/cgroup.procs)"
$oci update --memory 100m --pids-limit 60 c1
systemctl daemon-reload
echo "updated $(show MemoryMax) $(show TasksMax) $(cat $group/memory.max) $(cat $group/pids.max)"
$oci pause c1; grep -q 'frozen 1' $group/cgroup.events; $oci resume c1
$oci delete --force c1
echo "gone $(show LoadState) $(ls -d $group 2> /dev/null)"
$oci create -b /tmp/b c1 < /dev/null > /tmp/out 2>&1; $oci delete --force c1
sed -i 's/isletest.slice:engine:c1/no-slice:engine:c1/' /tmp/b/config.json
$oci create -b /tmp/b c2 2>&1 < /dev/null || true
"#;

fn systemd_makes_and_knows_the_control_group(world: &World) {
    boot(world, SCRIPT);
    let output = world
        .isle(["exec", "host", "sh", "/share/test.sh"])
        .succeeds();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "slice isletest.slice, active, delegated yes",
            "limits 67108864 50 59 500ms",
            "files 67108864 50 50000 100000 1",
            "updated 104857600 60 104857600 60",
            "gone not-found ",
        ],
        "{output}"
    );
    assert!(
        lines[5].contains("\"no-slice\" is not the name of a slice"),
        "{output}"
    );
}

fn exec_joins_beside_an_init_that_has_made_groups(world: &World) {
    boot(world, "");
    let group = world
        .isle(["exec", "host", "cat", "/proc/self/cgroup"])
        .succeeds();
    assert_eq!(group.trim(), "0::/init.scope");
}
