//! Device rules in version 2: a program that the kernel asks at each open(2) and mknod(2).
//!
//! `BPF_PROG_TYPE_CGROUP_DEVICE`, see `Documentation/admin-guide/cgroup-v2.rst` "Device controller"
//! and `struct bpf_cgroup_dev_ctx` of linux/bpf.h.

use std::os::fd::AsFd;

use isle_sys::bpf::{self, Instruction};

use crate::Error;
use crate::directory::Directory;
use crate::plan::devices::{Access, DeviceRules, Kind};

// Operation codes of linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_SET: u8 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn instruction(code: u8, register: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset,
        immediate,
    }
}

/// Compiles rules. The last one that names a device decides, for each kind of access by itself; so
/// they are asked from the last to the first.
fn compile(rules: &DeviceRules) -> Vec<Instruction> {
    let load = |register: u8, offset: i16| {
        // the destination is in the low half, the source in the high half
        instruction(LOAD_WORD, register | (CONTEXT << 4), offset, 0)
    };
    let mut program = vec![
        // access_type: the access in the upper 16 bits, the kind in the lower
        load(KIND, 0),
        load(ACCESS, 0),
        instruction(AND, KIND, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.rules().iter().rev() {
        let verdict = [
            instruction(MOVE, VERDICT, 0, i32::from(rule.is_allowed)),
            instruction(EXIT, 0, 0, 0),
        ];
        let access = i32::from(rule.access.bits());
        let mut body = Vec::with_capacity(4);
        match (rule.access == Access::ALL, rule.is_allowed) {
            (true, _) => {}
            // Take away what is allowed here; go on with the rest, if any.
            (false, true) => {
                body.push(instruction(AND, ACCESS, 0, !access));
                body.push(instruction(JUMP_NOT_EQUAL, ACCESS, 2, 0));
            }
            (false, false) => {
                body.push(instruction(JUMP_SET, ACCESS, 1, access));
                body.push(instruction(JUMP, 0, 2, 0));
            }
        }
        body.extend(verdict);
        let mut conditions = Vec::with_capacity(3);
        if let Some(kind) = rule.kind {
            let kind = match kind {
                Kind::Block => 1,     // BPF_DEVCG_DEV_BLOCK
                Kind::Character => 2, // BPF_DEVCG_DEV_CHAR
            };
            conditions.push((KIND, kind));
        }
        if let Some(major) = rule.major {
            conditions.push((MAJOR, major.cast_signed()));
        }
        if let Some(minor) = rule.minor {
            conditions.push((MINOR, minor.cast_signed()));
        }
        let is_last = conditions.is_empty() && rule.access == Access::ALL;
        let mut to_skip = conditions.len() + body.len();
        for (register, value) in conditions {
            to_skip -= 1;
            let offset = i16::try_from(to_skip).expect("a rule has at most 7 instructions");
            program.push(instruction(JUMP_NOT_EQUAL, register, offset, value));
        }
        program.extend(body);
        if is_last {
            // The kernel refuses programs with instructions that cannot be reached.
            return program;
        }
    }
    program.push(instruction(MOVE, VERDICT, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0));
    program
}

/// Attaches the program for these rules, in place of the one that was attached before.
pub(crate) fn attach(directory: &Directory, rules: &DeviceRules) -> Result<(), Error> {
    let fail = |operation| {
        let path = directory.path.clone();
        move |source| Error::DeviceProgram {
            operation,
            path,
            source,
        }
    };
    let program = bpf::load_cgroup_device(&compile(rules)).map_err(fail("load"))?;
    let old = bpf::cgroup_device_programs(directory.as_fd()).map_err(fail("query"))?;
    bpf::attach_cgroup_device(directory.as_fd(), program.as_fd()).map_err(fail("attach"))?;
    // The kernel asks all programs of a group, and one denial counts: an old one must go, and only
    // after the new one is in force.
    for id in old {
        let old = bpf::program_by_id(id).map_err(fail("open"))?;
        bpf::detach_cgroup_device(directory.as_fd(), old.as_fd()).map_err(fail("detach"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::devices::DeviceRules;
    use oci_spec::runtime::LinuxDeviceCgroup;
    use proptest::prelude::*;

    fn rules(json: &str) -> DeviceRules {
        let devices: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        DeviceRules::new(&devices).unwrap()
    }

    /// What the kernel's interpreter does with the operations used here.
    fn run(program: &[Instruction], context: [u32; 3]) -> bool {
        let mut registers = [0_i64; 6];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: names,
                offset,
                immediate,
            } = program[at];
            let register = usize::from(names & 0xf);
            let value = i64::from(immediate);
            at += 1;
            let mut jump = false;
            match code {
                LOAD_WORD => {
                    registers[register] = i64::from(context[usize::try_from(offset).unwrap() / 4]);
                    continue;
                }
                AND => registers[register] &= value,
                SHIFT_RIGHT => registers[register] >>= value,
                MOVE => registers[register] = value,
                JUMP_NOT_EQUAL => jump = registers[register] != value,
                JUMP_SET => jump = registers[register] & value != 0,
                JUMP => jump = true,
                EXIT => return registers[0] != 0,
                other => panic!("operation {other:#x}"),
            }
            if jump {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    /// What the rules say, access by access.
    fn expected(rules: &DeviceRules, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        [1, 2, 4]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                rules
                    .rules()
                    .iter()
                    .rev()
                    .find(|rule| {
                        rule.kind.is_none_or(|k| k == kind)
                            && rule.major.is_none_or(|m| m == major)
                            && rule.minor.is_none_or(|m| m == minor)
                            && rule.access.bits() & bit != 0
                    })
                    .is_some_and(|rule| rule.is_allowed)
            })
    }

    #[test]
    fn allowing_everything_is_eight_instructions() {
        assert_eq!(
            compile(&rules(r#"[{"allow": true, "access": "rwm"}]"#)).len(),
            8
        );
    }

    fn any_rule() -> impl Strategy<Value = String> {
        (
            any::<bool>(),
            prop::sample::select(vec!["a", "b", "c"]),
            -1_i64..3,
            -1_i64..3,
            prop::sample::select(vec!["r", "w", "m", "rw", "rm", "wm", "rwm"]),
        )
            .prop_map(|(allow, kind, major, minor, access)| {
                format!(
                    r#"{{"allow":{allow},"type":"{kind}","major":{major},"minor":{minor},"access":"{access}"}}"#
                )
            })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_do(
            list in prop::collection::vec(any_rule(), 1..8),
            kind in 1_u32..3, major in 0_u32..3, minor in 0_u32..10, access in 1_u8..8,
        ) {
            let rules = rules(&format!("[{}]", list.join(",")));
            let program = compile(&rules);
            let context = [(u32::from(access) << 16) | kind, major, minor];
            let kind = if kind == 1 { Kind::Block } else { Kind::Character };
            prop_assert_eq!(
                run(&program, context),
                expected(&rules, kind, major, minor, access),
                "{}", rules
            );
        }
    }
}
