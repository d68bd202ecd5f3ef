//! One process of a container: limits, identity, policy, program.

use std::ffi::CString;

use isle_sys::launch::{Instruction, SchedulerAttributes, Step, Strings};
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag,
    MemoryPolicyFlagType, MemoryPolicyModeType, PosixRlimitType, Process, Scheduler,
};

use super::mounts::inside;
use super::need::{Need, Needs};
use crate::{PlanError, capabilities};

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A compiled seccomp policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) program: Vec<Instruction>,
    pub(crate) flags: u64,
    pub(crate) listener: bool,
}

impl Policy {
    /// From the specification, or from what was compiled before.
    pub(crate) fn new(
        seccomp: Option<&LinuxSeccomp>,
        compiled: Option<&[isle_seccomp::Instruction]>,
    ) -> Result<Option<Policy>, PlanError> {
        const LOG: u64 = 1 << 1;
        const SPEC_ALLOW: u64 = 1 << 2;
        const NEW_LISTENER: u64 = 1 << 3;
        const WAIT_KILLABLE_RECV: u64 = 1 << 5;
        let own;
        let program = match (compiled, seccomp) {
            (Some(program), _) => program,
            (None, None) => return Ok(None),
            (None, Some(policy)) => {
                own = isle_seccomp::compile(policy).map_err(PlanError::Seccomp)?;
                &own
            }
        };
        let mut flags = 0;
        let mut listener = false;
        if let Some(policy) = seccomp {
            for flag in policy.flags().iter().flatten() {
                flags |= match flag {
                    LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
                    // one thread is all threads
                    LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
                    LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
                    LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
                };
            }
            listener = policy.default_action() == LinuxSeccompAction::ScmpActNotify
                || policy
                    .syscalls()
                    .iter()
                    .flatten()
                    .any(|call| call.action() == LinuxSeccompAction::ScmpActNotify);
            if listener {
                flags |= NEW_LISTENER;
                if policy.listener_path().is_none() {
                    return Err(PlanError::Missing {
                        field: "linux.seccomp.listenerPath",
                    });
                }
            }
        }
        Ok(Some(Policy {
            program: program
                .iter()
                .map(|i| Instruction {
                    code: i.code,
                    jt: i.jt,
                    jf: i.jf,
                    k: i.k,
                })
                .collect(),
            flags,
            listener,
        }))
    }

    fn step(self) -> Step {
        Step::Seccomp {
            program: self.program,
            flags: self.flags,
            listener: self.listener,
        }
    }
}

pub(crate) fn strings(field: &'static str, strings: &[String]) -> Result<Strings, PlanError> {
    let strings: Result<Vec<CString>, PlanError> = strings
        .iter()
        .map(|text| {
            CString::new(text.as_str())
                .map_err(|_| PlanError::invalid(field, text, "it holds a NUL byte"))
        })
        .collect();
    Ok(Strings::new(strings?))
}

fn candidates(process: &Process) -> Result<Vec<CString>, PlanError> {
    let program = process
        .args()
        .iter()
        .flatten()
        .next()
        .ok_or(PlanError::Missing {
            field: "process.args",
        })?;
    let c = |path: String| {
        CString::new(path.as_str())
            .map_err(|_| PlanError::invalid("process.args", path, "it holds a NUL byte"))
    };
    if program.contains('/') {
        return Ok(vec![c(program.clone())?]);
    }
    if program.is_empty() {
        return Err(PlanError::invalid(
            "process.args",
            "",
            "the name of the program is empty",
        ));
    }
    let path = process
        .env()
        .iter()
        .flatten()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| c(format!("{}/{program}", directory.trim_end_matches('/'))))
        .collect()
}

fn resource_limits(process: &Process) -> Result<Vec<Step>, PlanError> {
    let mut steps: Vec<Step> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let (resource, name) = match limit.typ() {
            PosixRlimitType::RlimitCpu => (0, "RLIMIT_CPU"),
            PosixRlimitType::RlimitFsize => (1, "RLIMIT_FSIZE"),
            PosixRlimitType::RlimitData => (2, "RLIMIT_DATA"),
            PosixRlimitType::RlimitStack => (3, "RLIMIT_STACK"),
            PosixRlimitType::RlimitCore => (4, "RLIMIT_CORE"),
            PosixRlimitType::RlimitRss => (5, "RLIMIT_RSS"),
            PosixRlimitType::RlimitNproc => (6, "RLIMIT_NPROC"),
            PosixRlimitType::RlimitNofile => (7, "RLIMIT_NOFILE"),
            PosixRlimitType::RlimitMemlock => (8, "RLIMIT_MEMLOCK"),
            PosixRlimitType::RlimitAs => (9, "RLIMIT_AS"),
            PosixRlimitType::RlimitLocks => (10, "RLIMIT_LOCKS"),
            PosixRlimitType::RlimitSigpending => (11, "RLIMIT_SIGPENDING"),
            PosixRlimitType::RlimitMsgqueue => (12, "RLIMIT_MSGQUEUE"),
            PosixRlimitType::RlimitNice => (13, "RLIMIT_NICE"),
            PosixRlimitType::RlimitRtprio => (14, "RLIMIT_RTPRIO"),
            PosixRlimitType::RlimitRttime => (15, "RLIMIT_RTTIME"),
        };
        if limit.soft() > limit.hard() {
            return Err(PlanError::invalid(
                "process.rlimits",
                format!("{name} {}:{}", limit.soft(), limit.hard()),
                "the soft limit is above the hard one",
            ));
        }
        if steps
            .iter()
            .any(|step| matches!(step, Step::ResourceLimit { resource: other, .. } if *other == resource))
        {
            return Err(PlanError::invalid(
                "process.rlimits",
                name,
                "it is given twice",
            ));
        }
        steps.push(Step::ResourceLimit {
            resource,
            name: name.into(),
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(steps)
}

fn scheduler(scheduler: &Scheduler) -> Result<Step, PlanError> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = scheduler.priority().unwrap_or(0);
    Ok(Step::Scheduler(SchedulerAttributes {
        size: 0,
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| {
            PlanError::invalid(
                "process.scheduler.priority",
                priority.to_string(),
                "it is negative",
            )
        })?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    }))
}

/// A list like `0-3,7` as a bit mask, see cpuset(7), "List format".
pub(crate) fn number_list(field: &'static str, text: &str) -> Result<Vec<u64>, PlanError> {
    const HIGHEST: usize = 8191;
    let fail = || {
        PlanError::invalid(
            field,
            text,
            "expected a list like 0-3,7 of numbers up to 8191",
        )
    };
    let mut mask = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| fail());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > HIGHEST {
            return Err(fail());
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        for number in first..=last {
            mask[number / 64] |= 1 << (number % 64);
        }
    }
    Ok(mask)
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Step, PlanError> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
    });
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(nodes) => number_list("linux.memoryPolicy.nodes", nodes)?,
    };
    Ok(Step::MemoryPolicy {
        mode: mode | flags,
        nodes,
    })
}

/// The file that tells whether an LSM is at work, and its name.
const APPARMOR: (&str, &str) = ("/sys/module/apparmor/parameters/enabled", "AppArmor");
const SELINUX: (&str, &str) = ("/sys/fs/selinux/enforce", "SELinux");

/// What is written to `/proc/self` before the process loses the right to: the OOM score and the
/// LSM label that execve(2) will give.
pub(crate) fn about_self(process: &Process, needs: &mut Needs) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::new();
    if let Some(score) = process.oom_score_adj() {
        if !(-1000..=1000).contains(&score) {
            return Err(PlanError::invalid(
                "process.oomScoreAdj",
                score.to_string(),
                "it is from -1000 to 1000",
            ));
        }
        steps.push(Step::WriteProc {
            proc: needs.add(Need::Proc),
            path: c"self/oom_score_adj".to_owned(),
            bytes: score.to_string().into_bytes(),
            purpose: format!("set oom_score_adj to {score}"),
        });
    }
    let labels = [
        (
            process.apparmor_profile(),
            "process.apparmorProfile",
            APPARMOR,
            "exec ",
            c"self/attr/apparmor/exec",
        ),
        (
            process.selinux_label(),
            "process.selinuxLabel",
            SELINUX,
            "",
            c"self/attr/exec",
        ),
    ];
    for (label, field, (file, name), prefix, path) in labels {
        let Some(label) = label.as_deref().filter(|label| !label.is_empty()) else {
            continue;
        };
        // AppArmor says Y or N; SELinux's file is there only when it is at work.
        if !std::fs::read(file).is_ok_and(|text| !text.starts_with(b"N")) {
            return Err(PlanError::Unavailable {
                field,
                value: label.to_owned(),
                feature: name,
            });
        }
        let path = if path == c"self/attr/apparmor/exec"
            && !std::path::Path::new("/proc/self/attr/apparmor/exec").exists()
        {
            c"self/attr/exec"
        } else {
            path
        };
        steps.push(Step::WriteProc {
            proc: needs.add(Need::Proc),
            path: path.to_owned(),
            bytes: format!("{prefix}{label}").into_bytes(),
            purpose: format!("set the {name} label {label:?}"),
        });
    }
    Ok(steps)
}

/// What the caller knows about the process beyond its specification.
pub(crate) struct Setting<'a> {
    pub(crate) linux: Option<&'a Linux>,
    pub(crate) policy: Option<Policy>,
    pub(crate) preserve_fds: u32,
    /// setgroups(2) is refused.
    pub(crate) no_groups: bool,
    /// Run in the container once it is started.
    pub(crate) start_hooks: Vec<Step>,
}

/// The last steps of every process, from limits to execve(2).
pub(crate) fn last_steps(process: &Process, setting: Setting<'_>) -> Result<Vec<Step>, PlanError> {
    let mut steps = resource_limits(process)?;
    if let Some(scheduling) = process.scheduler() {
        steps.push(scheduler(scheduling)?);
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = i32::try_from(priority.priority())
            .ok()
            .filter(|level| (0..8).contains(level))
            .ok_or_else(|| {
                PlanError::invalid(
                    "process.ioPriority.priority",
                    priority.priority().to_string(),
                    "it is from 0 to 7",
                )
            })?;
        steps.push(Step::IoPriority(class << 13 | level));
    }
    if let Some(linux) = setting.linux {
        if let Some(personality) = linux.personality() {
            if let Some(flag) = personality.flags().iter().flatten().next() {
                return Err(PlanError::invalid(
                    "linux.personality.flags",
                    flag,
                    "the runtime specification defines none",
                ));
            }
            steps.push(Step::Personality(match personality.domain() {
                LinuxPersonalityDomain::PerLinux => 0,
                LinuxPersonalityDomain::PerLinux32 => 8,
            }));
        }
        if let Some(policy) = linux.memory_policy() {
            steps.push(memory_policy(policy)?);
        }
    }
    let user = process.user();
    steps.push(Step::OwnStreams(user.uid()));
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(PlanError::invalid(
            "process.cwd",
            cwd.to_string_lossy(),
            "it is not absolute",
        ));
    }
    let has_no_new_privileges = process.no_new_privileges() == Some(true);
    if has_no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    let capabilities = process.capabilities().as_ref();
    let set = |of: fn(
        &oci_spec::runtime::LinuxCapabilities,
    ) -> &Option<oci_spec::runtime::Capabilities>| {
        capabilities::bits(capabilities.and_then(|all| of(all).as_ref()))
    };
    steps.push(Step::BoundingSet(set(|all| all.bounding())));
    steps.push(Step::User {
        uid: user.uid(),
        gid: user.gid(),
        groups: match user.additional_gids().clone().unwrap_or_default() {
            none if none.is_empty() && setting.no_groups => None,
            groups => Some(groups),
        },
    });
    let (effective, permitted) = (set(|all| all.effective()), set(|all| all.permitted()));
    let (inheritable, ambient) = (set(|all| all.inheritable()), set(|all| all.ambient()));
    if effective & !permitted != 0 {
        return Err(PlanError::invalid(
            "process.capabilities.effective",
            capabilities::names(effective & !permitted),
            "it is not among the permitted ones",
        ));
    }
    // The kernel lets no other capability be ambient. `runc spec` writes them into every
    // configuration all the same (it took the inheritable set out for CVE-2022-29162 and left this
    // one), and runc starts such a container without them.
    let ambient = ambient & permitted & inheritable;
    // Without no_new_privs only CAP_SYS_ADMIN may install a policy: it is permitted until then.
    let installing = match &setting.policy {
        Some(_) if !has_no_new_privileges => capabilities::SYS_ADMIN,
        _ => 0,
    };
    let sets = |more_effective, more_permitted| Step::Capabilities {
        effective: effective | more_effective,
        permitted: permitted | more_permitted,
        inheritable,
        ambient,
    };
    steps.push(sets(0, installing));
    steps.push(Step::Umask(user.umask().unwrap_or(0o022)));
    steps.push(Step::WorkingDirectory(
        CString::new(cwd.to_string_lossy().as_bytes()).map_err(|_| {
            PlanError::invalid("process.cwd", cwd.to_string_lossy(), "it holds a NUL byte")
        })?,
    ));
    steps.push(Step::FindProgram {
        name: process
            .args()
            .iter()
            .flatten()
            .next()
            .cloned()
            .unwrap_or_default(),
        candidates: candidates(process)?,
    });
    // A policy may know nothing of the system calls that this runtime makes, so it comes last; but a
    // listener is wanted before the container is started.
    let has_listener = setting
        .policy
        .as_ref()
        .is_some_and(|policy| policy.listener);
    let mut install = Vec::new();
    if let Some(policy) = setting.policy {
        match installing {
            0 => install.push(policy.step()),
            bit => install.extend([sets(bit, bit), policy.step(), sets(0, 0)]),
        }
    }
    if has_listener {
        steps.append(&mut install);
    }
    let close_from = 3_u32.saturating_add(setting.preserve_fds);
    steps.push(Step::AwaitStart {
        listener: None,
        close_from,
    });
    steps.extend(setting.start_hooks);
    steps.push(Step::CloseFrom(close_from));
    steps.append(&mut install);
    let none = Vec::new();
    steps.push(Step::Execute {
        arguments: strings("process.args", process.args().as_ref().unwrap_or(&none))?,
        environment: strings("process.env", process.env().as_ref().unwrap_or(&none))?,
    });
    Ok(steps)
}

/// The working directory is made where the image lacks it.
pub(crate) fn working_directory(process: &Process) -> Result<Option<Step>, PlanError> {
    let path = inside("process.cwd", process.cwd())?;
    Ok((!path.is_empty()).then_some(Step::Directory(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_lists_become_masks() {
        assert_eq!(number_list("x", "0-3,7").unwrap(), [0b1000_1111]);
        assert_eq!(number_list("x", "64").unwrap(), [0, 1]);
        for text in ["", "a", "3-1", "0-99999", "1,,2", "-1"] {
            number_list("x", text).unwrap_err();
        }
    }

    #[test]
    fn a_program_without_slash_is_looked_for_in_path() {
        let mut process = Process::default();
        process.set_args(Some(vec!["sh".to_owned()]));
        process.set_env(Some(vec!["PATH=/a:/b/::".to_owned()]));
        let found = candidates(&process).unwrap();
        assert_eq!(found, [c"/a/sh".to_owned(), c"/b/sh".to_owned()]);
        process.set_args(Some(vec!["./sh".to_owned()]));
        assert_eq!(candidates(&process).unwrap(), [c"./sh".to_owned()]);
        process.set_args(None);
        assert!(matches!(
            candidates(&process),
            Err(PlanError::Missing { .. })
        ));
    }
}
