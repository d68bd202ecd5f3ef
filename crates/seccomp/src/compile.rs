//! From a policy to a program.
//!
//! The program finds the architecture, then the number by binary search over ranges of numbers that
//! are treated alike, then compares arguments where a rule asks for it. The kernel asks it once for
//! each number and remembers what is always allowed (kernel/seccomp.c, "action cache").

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
};

use crate::action;
use crate::architecture::{Architecture, X32_BIT};
use crate::assembly::{Assembly, Instruction, Label, Test};

/// Why a policy cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A comparison of an argument that does not exist.
    #[error("seccomp rule for {name:?} compares argument {index}: system calls have 0 to 5")]
    Argument {
        /// The system call.
        name: String,
        /// What was given.
        index: usize,
    },
    /// An error number that the kernel would change.
    #[error(
        "seccomp errnoRet {0} is out of range: expected 0 to 4095, or 65535 for SCMP_ACT_TRACE"
    )]
    Errno(u32),
    /// The default action, or the action for write(2), asks an agent.
    #[error("seccomp action SCMP_ACT_NOTIFY cannot be {place}: the runtime itself could not go on")]
    Notify {
        /// Where it was given.
        place: &'static str,
    },
    /// Isle does not know this machine's system call numbers.
    #[error("seccomp policies cannot be compiled for {0} machines: expected x86_64 or aarch64")]
    Machine(&'static str),
    /// The kernel takes 4096 instructions.
    #[error(
        "seccomp policy needs {0} instructions, the kernel takes 4096: leave rules with arguments out"
    )]
    TooLong(usize),
}

/// A kind of machine: which architectures its kernel can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86_64, with x86 and x32.
    X86_64,
    /// aarch64, with arm.
    Aarch64,
}

impl Machine {
    /// The machine that this runs on.
    ///
    /// # Errors
    /// [`CompileError::Machine`]
    pub fn this() -> Result<Machine, CompileError> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Machine::X86_64),
            "aarch64" => Ok(Machine::Aarch64),
            other => Err(CompileError::Machine(other)),
        }
    }

    fn native(self) -> Architecture {
        match self {
            Machine::X86_64 => Architecture::X86_64,
            Machine::Aarch64 => Architecture::Aarch64,
        }
    }

    fn can_meet(self, architecture: Architecture) -> bool {
        match self {
            Machine::X86_64 => matches!(
                architecture,
                Architecture::X86_64 | Architecture::X86 | Architecture::X32
            ),
            Machine::Aarch64 => {
                matches!(architecture, Architecture::Aarch64 | Architecture::Arm)
            }
        }
    }
}

/// Compiles a policy to the program that seccomp(2) takes, for this machine.
///
/// # Errors
/// [`CompileError`] for what the kernel does not have.
pub fn compile(policy: &LinuxSeccomp) -> Result<Vec<Instruction>, CompileError> {
    compile_for(policy, Machine::this()?)
}

/// As [`compile`], for another machine.
///
/// # Errors
/// As [`compile`].
pub fn compile_for(
    policy: &LinuxSeccomp,
    machine: Machine,
) -> Result<Vec<Instruction>, CompileError> {
    // The kernel's limit, BPF_MAXINSNS.
    const LONGEST: usize = 4096;
    let rules = Rules::of(policy)?;
    let mut audited: Vec<(u32, Vec<Range<'_>>)> = Vec::new();
    for architecture in architectures(policy, machine) {
        let ranges = rules.ranges(architecture);
        let audit = architecture.audit();
        match audited.iter_mut().find(|(known, _)| *known == audit) {
            Some((_, others)) => others.extend(ranges),
            None => audited.push((audit, ranges)),
        }
    }
    let mut assembly = Assembly::default();
    let mut at = assembly.end(action::KILL_PROCESS);
    // Written backwards: the native architecture comes first in the program.
    for (audit, mut ranges) in audited.into_iter().rev() {
        fill_gaps(&mut ranges);
        let search = search(&mut assembly, &ranges);
        let number = assembly.load(NUMBER, search);
        at = assembly.test(Test::Equal, audit, number, at);
    }
    let start = assembly.load(ARCHITECTURE, at);
    let program = assembly.finish(start);
    if program.len() > LONGEST {
        return Err(CompileError::TooLong(program.len()));
    }
    Ok(program)
}

// Offsets in `struct seccomp_data` of linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The listed architectures that this machine can meet, the native one first; that one alone if
/// none is listed.
fn architectures(policy: &LinuxSeccomp, machine: Machine) -> Vec<Architecture> {
    let mut found = Vec::new();
    for &listed in policy.architectures().iter().flatten() {
        let architecture = match listed {
            Arch::ScmpArchNative => Some(machine.native()),
            other => Architecture::from_oci(other),
        };
        if let Some(architecture) = architecture
            && machine.can_meet(architecture)
            && !found.contains(&architecture)
        {
            found.push(architecture);
        }
    }
    if policy.architectures().as_ref().is_none_or(Vec::is_empty) {
        found.push(machine.native());
    }
    found.sort_by_key(|&architecture| architecture != machine.native());
    found
}

/// What happens to one system call.
#[derive(Clone, Debug, Default, PartialEq)]
struct Verdict<'a> {
    /// Comparisons that must all hold, and what is returned then; in order.
    conditional: Vec<(&'a [LinuxSeccompArg], u32)>,
    /// What is returned otherwise.
    otherwise: u32,
}

/// FNV-1a: a thousand short names are looked up at each start of a container. A policy that collides
/// on purpose could only slow down the one who wrote it.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All rules of a policy by name.
struct Rules<'a> {
    by_name: HashMap<&'a str, Verdict<'a>, BuildHasherDefault<Fnv>>,
    default: u32,
}

impl<'a> Rules<'a> {
    fn of(policy: &'a LinuxSeccomp) -> Result<Rules<'a>, CompileError> {
        if policy.default_action() == LinuxSeccompAction::ScmpActNotify {
            return Err(CompileError::Notify {
                place: "the default",
            });
        }
        let default = action::value(policy.default_action(), policy.default_errno_ret())?;
        let mut by_name: HashMap<&str, Verdict<'_>, _> =
            HashMap::with_capacity_and_hasher(512, BuildHasherDefault::default());
        for rule in policy.syscalls().iter().flatten() {
            let value = action::value(rule.action(), rule.errno_ret())?;
            let arguments = rule.args().as_deref().unwrap_or_default();
            for name in rule.names() {
                if rule.action() == LinuxSeccompAction::ScmpActNotify && name == "write" {
                    return Err(CompileError::Notify { place: "for write" });
                }
                if let Some(argument) = arguments.iter().find(|argument| argument.index() > 5) {
                    return Err(CompileError::Argument {
                        name: name.clone(),
                        index: argument.index(),
                    });
                }
                let verdict = by_name.entry(name).or_insert_with(|| Verdict {
                    conditional: Vec::new(),
                    otherwise: default,
                });
                if arguments.is_empty() {
                    verdict.otherwise = value;
                } else {
                    verdict.conditional.push((arguments, value));
                }
            }
        }
        Ok(Rules { by_name, default })
    }

    /// The numbers of one architecture, from 0 (or its own first one) up to its last.
    fn ranges(&self, architecture: Architecture) -> Vec<Range<'a>> {
        let (first, last) = match architecture {
            Architecture::X86_64 => (0, X32_BIT - 1),
            Architecture::X32 => (X32_BIT, u32::MAX - 1),
            _ => (0, u32::MAX),
        };
        let is_32_bit = architecture.is_32_bit();
        let mut calls = Vec::with_capacity(512);
        let mut newest = None;
        for (number, name) in architecture.calls() {
            if let Some(verdict) = self.by_name.get(name) {
                if !architecture.is_private(number) {
                    newest = newest.max(Some(number));
                }
                calls.push((number, verdict));
            }
        }
        // Of two names of one number (arm has such a pair) the last counts.
        calls.reverse();
        calls.sort_by_key(|(number, _)| *number);
        calls.dedup_by_key(|(number, _)| *number);
        let default = Verdict {
            conditional: Vec::new(),
            otherwise: self.default,
        };
        let newer = Verdict {
            conditional: Vec::new(),
            // A policy without any rule for this architecture is no older than its calls.
            otherwise: newest.map_or(self.default, |_| action::for_newer_calls(self.default)),
        };
        let mut ranges: Vec<Range<'a>> = Vec::with_capacity(calls.len());
        let mut push = |start: u32, verdict: &Verdict<'a>| {
            // The gap after a call has no number when the next call follows at once.
            if ranges.last().is_some_and(|last| last.start == start) {
                ranges.pop();
            }
            match ranges.last() {
                Some(last) if last.verdict == *verdict => {}
                _ => ranges.push(Range {
                    start,
                    verdict: verdict.clone(),
                    is_32_bit,
                }),
            }
        };
        let gap = |number: u32| {
            if newest.is_some_and(|newest| number <= newest) {
                &default
            } else {
                &newer
            }
        };
        push(first, gap(first));
        for (number, verdict) in calls {
            push(number, verdict);
            if number < last {
                push(number + 1, gap(number + 1));
            }
        }
        if architecture == Architecture::X86_64 {
            // -1 is no x32 call, though it has the bit: what a tracer writes to skip a call.
            ranges.push(Range {
                start: u32::MAX,
                verdict: newer.clone(),
                is_32_bit,
            });
        }
        ranges
    }
}

/// Numbers from `start` up to the next range.
#[derive(Clone, Debug)]
struct Range<'a> {
    start: u32,
    verdict: Verdict<'a>,
    is_32_bit: bool,
}

/// Sorts the ranges of the architectures that share an audit architecture. What belongs to none of
/// those listed is killed.
fn fill_gaps(ranges: &mut Vec<Range<'_>>) {
    let killed = |start| Range {
        start,
        verdict: Verdict {
            conditional: Vec::new(),
            otherwise: action::KILL_PROCESS,
        },
        is_32_bit: false,
    };
    let has_low = ranges.iter().any(|range| range.start < X32_BIT);
    let has_x32 = ranges
        .iter()
        .any(|range| (X32_BIT..u32::MAX).contains(&range.start));
    let has_minus_one = ranges.iter().any(|range| range.start == u32::MAX);
    if !has_low {
        ranges.push(killed(0));
    }
    // `has_minus_one`: x86_64 is there, and ends where x32 begins.
    if has_minus_one && !has_x32 {
        ranges.push(killed(X32_BIT));
    }
    if has_x32 && !has_minus_one {
        ranges.push(killed(u32::MAX));
    }
    ranges.sort_by_key(|range| range.start);
}

/// Finds the range of the number in the accumulator.
fn search(assembly: &mut Assembly, ranges: &[Range<'_>]) -> Label {
    match ranges {
        [] => assembly.end(action::KILL_PROCESS),
        [range] => verdict(assembly, &range.verdict, range.is_32_bit),
        _ => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let no = search(assembly, below);
            let yes = search(assembly, above);
            assembly.test(Test::GreaterOrEqual, above[0].start, yes, no)
        }
    }
}

fn verdict(assembly: &mut Assembly, verdict: &Verdict<'_>, is_32_bit: bool) -> Label {
    let mut at = assembly.end(verdict.otherwise);
    for (comparisons, value) in verdict.conditional.iter().rev() {
        let fail = at;
        at = assembly.end(*value);
        for comparison in comparisons.iter().rev() {
            at = compare(assembly, comparison, is_32_bit, at, fail);
        }
    }
    at
}

/// Compares an argument of 64 bits: the upper half, and where that does not decide, the lower.
fn compare(
    assembly: &mut Assembly,
    comparison: &LinuxSeccompArg,
    is_32_bit: bool,
    holds: Label,
    fails: Label,
) -> Label {
    use LinuxSeccompOperator as Operator;
    let index = u32::try_from(comparison.index()).expect("at most 5");
    let low = ARGUMENTS + 8 * index; // both kinds of machines are little-endian
    let high = low + 4;
    let (mask, value) = operands(comparison, is_32_bit);
    let halves = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
    let ((mask_high, mask_low), (value_high, value_low)) = (halves(mask), halves(value));
    let (holds, fails, test, strictly) = match comparison.op() {
        Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => (holds, fails, Test::Equal, None),
        Operator::ScmpCmpNe => (fails, holds, Test::Equal, None),
        Operator::ScmpCmpGt => (holds, fails, Test::Greater, Some(Test::Greater)),
        Operator::ScmpCmpGe => (holds, fails, Test::GreaterOrEqual, Some(Test::Greater)),
        // a < b is not (a >= b)
        Operator::ScmpCmpLt => (fails, holds, Test::GreaterOrEqual, Some(Test::Greater)),
        Operator::ScmpCmpLe => (fails, holds, Test::Greater, Some(Test::Greater)),
    };
    let mut at = assembly.test(test, value_low, holds, fails);
    if mask_low != u32::MAX {
        at = assembly.and(mask_low, at);
    }
    at = assembly.load(low, at);
    if mask_high == 0 && value_high == 0 {
        return at;
    }
    at = assembly.test(Test::Equal, value_high, at, fails);
    if let Some(test) = strictly {
        at = assembly.test(test, value_high, holds, at);
    }
    if mask_high != u32::MAX {
        at = assembly.and(mask_high, at);
    }
    assembly.load(high, at)
}

/// Mask and value of a comparison. Arguments of 32 bits are compared with values of 32 bits, as
/// libseccomp does: a profile writes -1 with 64.
fn operands(comparison: &LinuxSeccompArg, is_32_bit: bool) -> (u64, u64) {
    let (mask, value) = match comparison.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (comparison.value(), comparison.value_two().unwrap_or(0))
        }
        _ => (u64::MAX, comparison.value()),
    };
    if is_32_bit {
        (mask, value & 0xffff_ffff)
    } else {
        (mask, value)
    }
}

#[cfg(test)]
pub(crate) mod tests;
