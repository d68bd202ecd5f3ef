//! System calls from inside, made without a C library or shell in between: what the default policy
//! and the default capabilities refuse, and that it is they who refuse it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::Command;

use isle_tests::{Level, Need, World};

isle_tests::stories! {
    the_default_refuses_what_has_hurt_hosts [Need::Compiler],
    without_a_policy_the_kernel_itself_answers [Need::Isle, Need::Compiler],
    a_capability_brings_its_calls_back [Need::Isle, Need::Compiler],
    an_exec_is_under_the_same_policy [Need::Compiler],
    a_release_agent_cannot_be_set [Need::Isle],
    control_groups_of_the_host_are_out_of_sight [Need::Isle],
}

const EPERM: &str = "1";
const ENOSYS: &str = "38";

/// Builds the probe; returns its folder, to be mounted.
fn probe(world: &World) -> String {
    let source = world.file("probe/probe.c", include_str!("probe.c"));
    let folder = world.files().join("probe");
    let status = Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .arg(folder.join("probe"))
        .arg(source)
        .status();
    assert!(status.expect("cc runs").success(), "the probe is built");
    folder.to_string_lossy().into_owned()
}

/// What the kernel said to each call.
fn answers(output: &str) -> BTreeMap<String, String> {
    output
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, answer)| (name.to_owned(), answer.to_owned()))
        .collect()
}

fn inside(world: &World, flags: &[&str]) -> BTreeMap<String, String> {
    let volume = format!("{}:/probe:ro", probe(world));
    let image = world.busybox();
    let mut arguments = vec!["run", "--rm", "--network", "none", "-v", &volume];
    arguments.extend(flags);
    arguments.extend([image.as_str(), "/probe/probe"]);
    answers(&world.isle(arguments).succeeds())
}

/// Refused by the default policy whatever the capabilities are, and not by the kernel itself when
/// it is asked without a policy.
const NEVER: [&str; 7] = [
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
];

fn assert_refused(answers: &BTreeMap<String, String>) {
    let allowed = ["socket_unix", "socket_inet", "socket_netlink"];
    for (name, answer) in answers {
        let expected = match name.as_str() {
            name if allowed.contains(&name) => "0",
            // Glibc then takes clone(2), whose flags the policy can see.
            "clone3" => ENOSYS,
            _ => EPERM,
        };
        assert_eq!(answer, expected, "{name}: {answers:?}");
    }
    assert!(answers.len() > 35, "{answers:?}");
}

fn the_default_refuses_what_has_hurt_hosts(world: &World) {
    assert_refused(&inside(world, &[]));
}

fn without_a_policy_the_kernel_itself_answers(world: &World) {
    let answers = inside(world, &["--security-opt", "seccomp=unconfined"]);
    // So the refusals above are the policy's.
    for name in NEVER {
        if answers[name] != ENOSYS {
            assert_ne!(answers[name], EPERM, "{name}: {answers:?}");
        }
    }
    assert_eq!(answers["clone3"], "22", "{answers:?}");
    assert_ne!(answers["socket_alg"], EPERM, "{answers:?}");
    // And these are held by the missing capabilities alone.
    for name in [
        "fsopen",
        "fsmount",
        "move_mount",
        "pivot_root",
        "swapoff",
        "acct",
        "syslog",
    ] {
        // A guest's kernel has been built without what nobody asks for.
        let is_missing = world.level() == Level::Vm && answers[name] == ENOSYS;
        assert!(answers[name] == EPERM || is_missing, "{name}: {answers:?}");
    }
}

fn a_capability_brings_its_calls_back(world: &World) {
    let answers = inside(world, &["--cap-add", "SYS_ADMIN"]);
    for name in ["fsopen", "unshare", "clone_newuser"] {
        assert_eq!(answers[name], "0", "{name}: {answers:?}");
    }
    for name in NEVER {
        assert_eq!(answers[name], EPERM, "{name}: {answers:?}");
    }
    for name in ["socket_alg", "socket_vsock", "init_module", "kexec_load"] {
        assert_eq!(answers[name], EPERM, "{name}: {answers:?}");
    }
}

fn an_exec_is_under_the_same_policy(world: &World) {
    let volume = format!("{}:/probe:ro", probe(world));
    let image = world.busybox();
    world
        .isle([
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "held",
            "-v",
            &volume,
            &image,
            "sleep",
            "1000",
        ])
        .succeeds();
    let output = world.isle(["exec", "held", "/probe/probe"]).succeeds();
    world.isle(["rm", "-f", "held"]).succeeds();
    assert_refused(&answers(&output));
}

/// What CVE-2022-0492 and the escapes before it needed: the file `release_agent` of a version 1
/// hierarchy's root, writable.
fn a_release_agent_cannot_be_set(world: &World) {
    let image = world.busybox();
    let script = "for file in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release); do \
        echo /x > $file && echo written $file; done 2>/dev/null; \
        mkdir /tmp/c; mount -t cgroup -o rdma cgroup /tmp/c && echo mounted; \
        mount -t cgroup -o memory cgroup /tmp/c && echo mounted; \
        mount -t cgroup2 cgroup /tmp/c && echo mounted; \
        mount -o remount,rw /sys/fs/cgroup && echo remounted; true";
    let run = |flags: &[&str]| {
        let mut arguments = vec!["run", "--rm", "--network", "none"];
        arguments.extend(flags);
        arguments.extend([image.as_str(), "sh", "-c", script]);
        world.isle(arguments).run().stdout()
    };
    assert_eq!(run(&[]), "");
    // Without the policy the capabilities hold; CVE-2022-0492 was a way round them by a user
    // namespace, so that is tried too.
    assert_eq!(run(&["--security-opt", "seccomp=unconfined"]), "");
    let inner = format!(
        "unshare -Urm sh -c '{}' 2>/dev/null; true",
        script.replace('\'', "")
    );
    let text = world
        .script(
            &[
                "--rm",
                "--network",
                "none",
                "--security-opt",
                "seccomp=unconfined",
            ],
            &inner,
        )
        .run()
        .stdout();
    assert!(!text.contains("written"), "{text}");
}

fn control_groups_of_the_host_are_out_of_sight(world: &World) {
    let image = world.busybox();
    let text = world
        .isle([
            "run",
            "--rm",
            "--network",
            "none",
            &image,
            "cat",
            "/proc/self/cgroup",
        ])
        .succeeds();
    for line in text.lines() {
        assert!(line.ends_with(":/"), "{text}");
    }
    // What is mounted is the instance's own group: its limit, not the host's.
    let text = world
        .script(
            &["--rm", "--network", "none", "--pids-limit", "42"],
            "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null",
        )
        .run()
        .stdout();
    assert_eq!(text.trim(), "42");
}
