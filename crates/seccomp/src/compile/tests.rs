//! Programs are run by an interpreter and compared with a direct reading of the policy.

use oci_spec::runtime::{LinuxSyscall, LinuxSyscallBuilder};
use proptest::prelude::*;

use super::*;
use crate::Profile;

/// What a system call looks like to a program, `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub number: u32,
    pub audit: u32,
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            NUMBER => self.number,
            ARCHITECTURE => self.audit,
            _ => {
                let at = usize::try_from(offset - ARGUMENTS).unwrap();
                let argument = self.arguments[at / 8];
                (if at % 8 == 0 {
                    argument & 0xffff_ffff
                } else {
                    argument >> 32
                }) as u32
            }
        }
    }
}

/// The kernel's interpreter, as far as seccomp programs need it.
pub(crate) fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let test = match code {
            0x20 => {
                accumulator = call.word(k);
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += usize::try_from(k).unwrap();
                continue;
            }
            0x06 => return k,
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            other => panic!("operation {other:#x}"),
        };
        at += usize::from(if test { jt } else { jf });
    }
}

/// The calls of an architecture, made once.
fn table(architecture: Architecture) -> &'static [(u32, &'static str)] {
    use std::sync::OnceLock;
    static TABLES: [OnceLock<Vec<(u32, &str)>>; 5] = [const { OnceLock::new() }; 5];
    TABLES[architecture as usize].get_or_init(|| architecture.calls())
}

/// The policy read directly, as the crate's documentation says it.
pub(crate) fn meaning(policy: &LinuxSeccomp, machine: Machine, call: &Call) -> u32 {
    let all = [
        Architecture::X86_64,
        Architecture::X86,
        Architecture::X32,
        Architecture::Aarch64,
        Architecture::Arm,
    ];
    let listed = architectures(policy, machine);
    let is_x32 = |a: &Architecture| {
        (*a == Architecture::X32) == (call.number >= X32_BIT && call.number != u32::MAX)
    };
    let Some(architecture) = all
        .into_iter()
        .find(|a| a.audit() == call.audit && (a.audit() != Architecture::X32.audit() || is_x32(a)))
    else {
        return action::KILL_PROCESS;
    };
    if !listed.contains(&architecture) {
        return action::KILL_PROCESS;
    }
    let default = action::value(policy.default_action(), policy.default_errno_ret()).unwrap();
    let calls = table(architecture);
    let rules = policy.syscalls().as_deref().unwrap_or_default();
    let named = |name: &str| {
        rules
            .iter()
            .any(|rule| rule.names().iter().any(|n| n == name))
    };
    let names: Vec<&str> = calls
        .iter()
        .filter(|(number, _)| *number == call.number)
        .map(|(_, name)| *name)
        .collect();
    let value = |rule: &LinuxSyscall| action::value(rule.action(), rule.errno_ret()).unwrap();
    let mut of_call = rules.iter().filter(|rule| {
        rule.names()
            .iter()
            .any(|name| names.contains(&name.as_str()))
    });
    if !names.iter().any(|name| named(name)) {
        let newest = calls
            .iter()
            .filter(|(number, name)| !architecture.is_private(*number) && named(name))
            .map(|(number, _)| *number)
            .max();
        return match newest {
            Some(newest) if call.number > newest => action::for_newer_calls(default),
            _ => default,
        };
    }
    let has_arguments = |rule: &&LinuxSyscall| rule.args().as_ref().is_some_and(|a| !a.is_empty());
    let holds = |comparison: &LinuxSeccompArg| {
        let argument = call.arguments[comparison.index()];
        let mut value = comparison.value();
        if comparison.op() == LinuxSeccompOperator::ScmpCmpMaskedEq {
            let mut wanted = comparison.value_two().unwrap_or(0);
            if architecture.is_32_bit() {
                wanted &= 0xffff_ffff;
            }
            return argument & value == wanted;
        }
        if architecture.is_32_bit() {
            value &= 0xffff_ffff;
        }
        match comparison.op() {
            LinuxSeccompOperator::ScmpCmpNe => argument != value,
            LinuxSeccompOperator::ScmpCmpLt => argument < value,
            LinuxSeccompOperator::ScmpCmpLe => argument <= value,
            LinuxSeccompOperator::ScmpCmpEq => argument == value,
            LinuxSeccompOperator::ScmpCmpGe => argument >= value,
            LinuxSeccompOperator::ScmpCmpGt => argument > value,
            LinuxSeccompOperator::ScmpCmpMaskedEq => unreachable!("above"),
        }
    };
    of_call
        .clone()
        .filter(has_arguments)
        .find(|rule| rule.args().iter().flatten().all(holds))
        .map(value)
        .or_else(|| of_call.rfind(|rule| !has_arguments(rule)).map(value))
        .unwrap_or(default)
}

/// Numbers and values where something can change.
fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..4,
        Just(0xffff_ffff),
        Just(0x1_0000_0000),
        Just(0x1_0000_0001),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

fn any_argument() -> impl Strategy<Value = LinuxSeccompArg> {
    use LinuxSeccompOperator as Op;
    let operator = prop::sample::select(vec![
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpEq,
        Op::ScmpCmpGe,
        Op::ScmpCmpGt,
        Op::ScmpCmpMaskedEq,
    ]);
    (0_usize..3, edge(), edge(), operator).prop_map(|(index, value, two, op)| {
        oci_spec::runtime::LinuxSeccompArgBuilder::default()
            .index(index)
            .value(value)
            .value_two(two)
            .op(op)
            .build()
            .unwrap()
    })
}

fn any_action() -> impl Strategy<Value = LinuxSeccompAction> {
    prop::sample::select(vec![
        LinuxSeccompAction::ScmpActAllow,
        LinuxSeccompAction::ScmpActErrno,
        LinuxSeccompAction::ScmpActKill,
        LinuxSeccompAction::ScmpActKillProcess,
        LinuxSeccompAction::ScmpActTrap,
        LinuxSeccompAction::ScmpActTrace,
        LinuxSeccompAction::ScmpActLog,
    ])
}

const NAMES: [&str; 10] = [
    "read",
    "openat",
    "ioctl",
    "socket",
    "clone",
    "clone3",
    "cacheflush",
    "stat64",
    "file_setattr",
    "no_such_call",
];

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    (
        prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..4),
        any_action(),
        prop::option::of(0_u32..100),
        prop::collection::vec(any_argument(), 0..3),
    )
        .prop_map(|(names, action, errno, arguments)| {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            let mut call = LinuxSyscallBuilder::default()
                .names(names)
                .action(action)
                .build()
                .unwrap();
            call.set_errno_ret(errno).set_args(Some(arguments));
            call
        })
}

fn any_policy() -> impl Strategy<Value = LinuxSeccomp> {
    let architecture = prop::sample::select(vec![
        Arch::ScmpArchNative,
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX86,
        Arch::ScmpArchX32,
        Arch::ScmpArchAarch64,
        Arch::ScmpArchArm,
        Arch::ScmpArchS390x,
    ]);
    (
        any_action(),
        prop::collection::vec(architecture, 0..4),
        prop::collection::vec(any_rule(), 0..6),
    )
        .prop_map(|(action, architectures, rules)| {
            let mut policy = LinuxSeccomp::default();
            policy
                .set_default_action(action)
                .set_architectures(Some(architectures))
                .set_syscalls(Some(rules));
            policy
        })
}

fn any_call() -> impl Strategy<Value = Call> {
    let audit = prop::sample::select(vec![
        Architecture::X86_64.audit(),
        Architecture::X86.audit(),
        Architecture::Aarch64.audit(),
        Architecture::Arm.audit(),
        0x16,
    ]);
    let number = prop_oneof![
        0_u32..480,
        (0_u32..600).prop_map(|number| number | X32_BIT),
        0x000f_0000_u32..0x000f_0008,
        Just(u32::MAX),
        any::<u32>(),
    ];
    let named = (0_usize..NAMES.len(), 0_usize..5).prop_map(|(name, architecture)| {
        let architecture = [
            Architecture::X86_64,
            Architecture::X86,
            Architecture::X32,
            Architecture::Aarch64,
            Architecture::Arm,
        ][architecture];
        let calls = table(architecture);
        let number = calls.iter().find(|call| call.1 == NAMES[name]);
        (architecture.audit(), number.map_or(7, |call| call.0))
    });
    (prop_oneof![(audit, number), named], edge(), edge(), edge()).prop_map(
        |((audit, number), a, b, c)| Call {
            number,
            audit,
            arguments: [a, b, c, 0, 0, 0],
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn programs_do_what_policies_say(
        policy in any_policy(),
        calls in prop::collection::vec(any_call(), 1..40),
        is_x86 in any::<bool>(),
    ) {
        let machine = if is_x86 { Machine::X86_64 } else { Machine::Aarch64 };
        let program = compile_for(&policy, machine).unwrap();
        for call in calls {
            prop_assert_eq!(
                run(&program, &call),
                meaning(&policy, machine, &call),
                "{:?} under {:?}", call, policy
            );
        }
    }
}

#[test]
fn the_default_policy_means_the_same_for_every_number() {
    let policy = Profile::docker_default().resolve(&Default::default());
    let program = compile_for(&policy, Machine::X86_64).unwrap();
    for audit in [Architecture::X86_64.audit(), Architecture::X86.audit()] {
        for number in (0..700).chain((0..700).map(|n| n | X32_BIT)) {
            // socket, clone and personality of either architecture; the rest has no comparisons
            let arguments: &[u64] = match number & !X32_BIT {
                41 | 56 | 135 | 120 | 136 | 359 => {
                    &[0, 1, 16, 38, 39, 40, 46, 0x1_0000_0026, NEW_USER, u64::MAX]
                }
                _ => &[0],
            };
            for &argument in arguments {
                let call = Call {
                    number,
                    audit,
                    arguments: [argument; 6],
                };
                assert_eq!(
                    run(&program, &call),
                    meaning(&policy, Machine::X86_64, &call),
                    "{call:?}"
                );
            }
        }
    }
}

/// `CLONE_NEWUSER`
const NEW_USER: u64 = 0x1000_0000;

#[test]
fn jumps_stay_inside_the_program() {
    let policy = Profile::docker_default().resolve(&Default::default());
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let program = compile_for(&policy, machine).unwrap();
        for (at, instruction) in program.iter().enumerate() {
            let is_end = instruction.code == 0x06;
            let farthest = match instruction.code {
                0x05 => usize::try_from(instruction.k).unwrap(),
                _ => usize::from(instruction.jt.max(instruction.jf)),
            };
            assert!(is_end || at + 1 + farthest < program.len());
        }
    }
}

#[test]
fn what_the_kernel_does_not_have_is_an_error() {
    let policy = |json: &str| serde_json::from_str::<LinuxSeccomp>(json).unwrap();
    for (json, text) in [
        (
            r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
            "seccomp action SCMP_ACT_NOTIFY cannot be the default: the runtime itself could not go on",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}"#,
            "seccomp errnoRet 4096 is out of range: expected 0 to 4095, or 65535 for SCMP_ACT_TRACE",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
            "seccomp rule for \"read\" compares argument 6: system calls have 0 to 5",
        ),
    ] {
        let error = compile_for(&policy(json), Machine::X86_64).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn one_number_may_have_two_names() {
    let policy: LinuxSeccomp = serde_json::from_str(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["sync_file_range2", "arm_sync_file_range", "read"], "action": "SCMP_ACT_ALLOW"}],
            "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]}"#,
    )
    .unwrap();
    let program = compile_for(&policy, Machine::Aarch64).unwrap();
    let answer = |number| {
        let call = Call {
            number,
            audit: Architecture::Arm.audit(),
            arguments: [0; 6],
        };
        run(&program, &call)
    };
    assert_eq!(answer(341), 0x7fff_0000);
    assert_eq!(answer(340), 0x0005_0001);
    // newer than all that the policy names
    assert_eq!(answer(342), 0x0005_0026);
}

#[test]
fn an_empty_policy_is_its_default() {
    let policy: LinuxSeccomp =
        serde_json::from_str(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    let program = compile_for(&policy, Machine::X86_64).unwrap();
    let call = |audit, number| Call {
        number,
        audit,
        arguments: [0; 6],
    };
    let native = Architecture::X86_64.audit();
    assert_eq!(run(&program, &call(native, 1)), 0x7fff_0000);
    assert_eq!(run(&program, &call(native, u32::MAX)), 0x7fff_0000);
    assert_eq!(run(&program, &call(native, X32_BIT)), action::KILL_PROCESS);
    assert_eq!(
        run(&program, &call(Architecture::X86.audit(), 1)),
        action::KILL_PROCESS
    );
}
