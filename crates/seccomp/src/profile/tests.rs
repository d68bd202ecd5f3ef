use super::*;
use crate::compile::tests::{Call, run};
use crate::{Machine, compile_for};

const PEER: &str = "/usr/share/containers/seccomp.json";

fn situation(capabilities: &[&str]) -> Situation {
    Situation {
        capabilities: capabilities.iter().map(|&c| c.to_owned()).collect(),
        architecture: "amd64",
        kernel: (6, 1),
    }
}

/// What a profile does to calls of x86_64.
struct Effect(Vec<crate::Instruction>);

impl Effect {
    fn of(profile: &Profile, capabilities: &[&str]) -> Effect {
        let policy = profile.resolve_in(&situation(capabilities));
        Effect(compile_for(&policy, Machine::X86_64).unwrap())
    }

    fn call(&self, name: &str, arguments: [u64; 6]) -> u32 {
        let number = name.parse::<syscalls::x86_64::Sysno>().unwrap().id();
        let call = Call {
            number: number.cast_unsigned(),
            audit: 0xc000_003e,
            arguments,
        };
        run(&self.0, &call)
    }

    fn allows(&self, name: &str) -> bool {
        self.call(name, [0; 6]) == ALLOW
    }
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// What Docker gives a container.
const DOCKER: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

#[test]
fn the_default_refuses_what_has_hurt_hosts() {
    let effect = Effect::of(&Profile::docker_default(), &DOCKER);
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "userfaultfd",
        "add_key",
        "keyctl",
        "request_key",
        "bpf",
        "perf_event_open",
        "mount",
        "fsopen",
        "fsconfig",
        "move_mount",
        "open_tree",
        "unshare",
        "setns",
        "kexec_load",
        "init_module",
        "finit_module",
        "open_by_handle_at",
        "pivot_root",
        "swapon",
        "reboot",
        "settimeofday",
        "syslog",
    ] {
        assert_eq!(effect.call(name, [0; 6]), EPERM, "{name}");
    }
    let socket = |family| effect.call("socket", [family, 0, 0, 0, 0, 0]);
    assert_eq!(
        [socket(1), socket(2), socket(10), socket(16), socket(17)],
        [ALLOW; 5]
    );
    assert_eq!([socket(38), socket(40)], [EPERM; 2]);
    // The kernel looks at 32 bits.
    assert_eq!(
        [
            socket(0x1_0000_0026),
            socket(0x1_0000_0028),
            socket(1 << 63)
        ],
        [EPERM; 3]
    );
    let clone = |flags| effect.call("clone", [flags, 0, 0, 0, 0, 0]);
    assert_eq!(clone(17), ALLOW);
    for flag in [
        0x2_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(clone(flag | 17), EPERM, "{flag:#x}");
    }
    assert_eq!(effect.call("clone3", [0; 6]), ENOSYS);
    // newer than the policy
    assert_eq!(effect.call("file_setattr", [0; 6]), ENOSYS);
}

#[test]
fn the_default_allows_what_programs_do() {
    let effect = Effect::of(&Profile::docker_default(), &DOCKER);
    for name in [
        "read",
        "write",
        "openat",
        "openat2",
        "execve",
        "execveat",
        "mmap",
        "futex",
        "epoll_pwait2",
        "statx",
        "rseq",
        "landlock_create_ruleset",
        "seccomp",
        "chroot",
        "ptrace",
        "personality",
        "arch_prctl",
        "copy_file_range",
        "memfd_create",
        "pidfd_open",
        "close_range",
        "mknod",
    ] {
        assert!(effect.allows(name), "{name}");
    }
}

#[test]
fn a_capability_brings_its_calls_back() {
    for (capability, name) in [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "unshare"),
        ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_BPF", "bpf"),
        ("CAP_SYS_TIME", "settimeofday"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYSLOG", "syslog"),
    ] {
        assert!(
            !Effect::of(&Profile::docker_default(), &[]).allows(name),
            "{name}"
        );
        assert!(
            Effect::of(&Profile::docker_default(), &[capability]).allows(name),
            "{name}"
        );
    }
    let admin = Effect::of(&Profile::docker_default(), &["CAP_SYS_ADMIN"]);
    assert_eq!(admin.call("clone", [0x1000_0000, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(admin.call("io_uring_setup", [0; 6]), EPERM);
}

/// Podman's default is older and a little wider; but neither may lack what ordinary programs need,
/// and ours must refuse all that it refuses, but for a few calls that Docker allows.
#[test]
fn the_default_is_no_wider_than_a_peers() {
    let json = match std::fs::read_to_string(PEER) {
        Ok(json) => json,
        Err(error) => {
            eprintln!("skipped the_default_is_no_wider_than_a_peers: {PEER}: {error}");
            return;
        }
    };
    let peer = Profile::parse(&json).unwrap();
    let ours = Profile::docker_default();
    let mut wider = Vec::new();
    let mut narrower = Vec::new();
    let (ours, peers) = (Effect::of(&ours, &DOCKER), Effect::of(&peer, &DOCKER));
    for number in 0..450 {
        let Some(call) = syscalls::x86_64::Sysno::new(number) else {
            continue;
        };
        match (ours.allows(call.name()), peers.allows(call.name())) {
            (true, false) => wider.push(call.name()),
            (false, true) => narrower.push(call.name()),
            _ => {}
        }
    }
    // Newer than that profile, or allowed by Docker's.
    let known = ["vmsplice", "io_pgetevents", "uretprobe", "futex_waitv"];
    wider.retain(|name| !known.contains(name));
    assert!(wider.is_empty(), "wider than {PEER}: {wider:?}");
    // Docker refuses these without a capability.
    for name in [
        "mount",
        "umount2",
        "unshare",
        "keyctl",
        "pivot_root",
        "clone3",
    ] {
        assert!(narrower.contains(&name), "{name}: {narrower:?}");
    }
}

#[test]
fn conditions_decide_which_rules_count() {
    let json = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "everyone reads"},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A", "CAP_B"]}},
            {"names": ["open"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_A"]}},
            {"names": ["close"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["stat"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
            {"names": ["fstat"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.10"}},
            {"names": ["lstat"], "action": "SCMP_ACT_ERRNO", "errno": "EACCES", "args": null}
        ]
    }"#;
    let profile = Profile::parse(json).unwrap();
    let allowed = |capabilities: &[&str]| -> Vec<String> {
        let policy = profile.resolve_in(&situation(capabilities));
        policy
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|call| call.names().clone())
            .collect()
    };
    assert_eq!(allowed(&[]), ["read", "open", "fstat", "lstat"]);
    assert_eq!(allowed(&["CAP_A"]), ["read", "fstat", "lstat"]);
    assert_eq!(
        allowed(&["CAP_A", "CAP_B"]),
        ["read", "write", "fstat", "lstat"]
    );
    let policy = profile.resolve_in(&situation(&[]));
    assert_eq!(
        policy.architectures().as_deref(),
        Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..])
    );
    assert_eq!(Effect::of(&profile, &[]).call("lstat", [0; 6]), 0x0005_000d);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (json, text) in [
        (
            "",
            "invalid seccomp profile at line 1, column 0: EOF while parsing a value",
        ),
        (
            "{}",
            "invalid seccomp profile at line 1, column 2: missing field `defaultAction`",
        ),
        (
            "{\"defaultAction\": \"SCMP_ACT_ALLOW\",\n \"sycalls\": []}",
            "invalid seccomp profile at line 2, column 10: unknown field `sycalls`, expected one of `defaultAction`, `defaultErrnoRet`, `defaultErrno`, `architectures`, `archMap`, `flags`, `listenerPath`, `listenerMetadata`, `syscalls`",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
            "invalid seccomp profile: architectures \"1 entries\": architectures or archMap, not both",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"}]}"#,
            "invalid seccomp profile: syscalls[0].errno \"EWHAT\": the name of an error like EPERM",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
                "includes": {"minKernel": "x"}}]}"#,
            "invalid seccomp profile: syscalls[0].includes.minKernel \"x\": a kernel version like 4.8",
        ),
    ] {
        assert_eq!(
            Profile::parse(json).unwrap_err().to_string(),
            text,
            "{json}"
        );
    }
    let unknown = Profile::parse(r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#).unwrap_err();
    assert!(unknown.to_string().contains("SCMP_ACT_MAYBE"), "{unknown}");
}

#[test]
fn kernel_releases_are_read() {
    assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(version("5.10+"), Some((5, 10)));
    assert_eq!(version("x"), None);
}
