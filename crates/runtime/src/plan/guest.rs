//! Plans that are made here and carried out in a virtual machine of ours, and plans for a user who is known
//! only there.

use std::ffi::CString;

use isle_sys::launch::{Step, Strings};
use oci_spec::runtime::{LinuxSeccompAction, Process, Spec};

use crate::users::User;
use crate::{PlanError, capabilities};

/// What only the host could do.
pub(super) fn refuse(spec: &Spec) -> Result<(), PlanError> {
    let fail = |field, value: &str, reason: &str| Err(PlanError::invalid(field, value, reason));
    if spec.hooks().is_some() {
        return fail(
            "hooks",
            "",
            "the programs of hooks are not in the virtual machine",
        );
    }
    if let Some(process) = spec.process() {
        refuse_labels(process)?;
    }
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    if let Some(label) = linux
        .mount_label()
        .as_deref()
        .filter(|label| !label.is_empty())
    {
        return fail(
            "linux.mountLabel",
            label,
            "a virtual machine has no SELinux",
        );
    }
    for namespace in linux.namespaces().iter().flatten() {
        if let Some(path) = namespace.path() {
            let path = path.to_string_lossy();
            return fail(
                "linux.namespaces.path",
                &path,
                "the namespace is not in the virtual machine",
            );
        }
    }
    if let Some(policy) = linux.seccomp() {
        let asks = |action| action == LinuxSeccompAction::ScmpActNotify;
        let mut calls = policy.syscalls().iter().flatten();
        if asks(policy.default_action()) || calls.any(|call| asks(call.action())) {
            return fail(
                "linux.seccomp",
                "SCMP_ACT_NOTIFY",
                "the one to notify is not in the virtual machine",
            );
        }
    }
    Ok(())
}

/// Labels of security modules that the guest does not have.
pub(super) fn refuse_labels(process: &Process) -> Result<(), PlanError> {
    let labels = [
        (
            "process.apparmorProfile",
            process.apparmor_profile(),
            "AppArmor",
        ),
        ("process.selinuxLabel", process.selinux_label(), "SELinux"),
    ];
    for (field, label, module) in labels {
        if let Some(label) = label.as_deref().filter(|label| !label.is_empty()) {
            let reason = format!("a virtual machine has no {module}");
            return Err(PlanError::invalid(field, label, reason));
        }
    }
    Ok(())
}

/// Makes the last steps of a process another user's. Only root keeps capabilities beyond execve(2); whoever
/// finds no `HOME` gets the user's.
pub(crate) fn run_as(steps: &mut [Step], user: &User) {
    // Who may gain privileges installs the seccomp policy with a capability that is kept until then.
    let is_free = !steps
        .iter()
        .any(|step| matches!(step, Step::NoNewPrivileges));
    let policy = steps
        .iter()
        .position(|step| matches!(step, Step::Seccomp { .. }));
    let policy = policy.filter(|_| is_free).unwrap_or(0);
    for (index, step) in steps.iter_mut().enumerate() {
        match step {
            Step::OwnStreams(uid) => *uid = user.uid,
            Step::User { uid, gid, groups } => {
                (*uid, *gid) = (user.uid, user.gid);
                *groups = Some(user.groups.clone());
            }
            Step::Capabilities {
                effective,
                permitted,
                ambient,
                ..
            } if user.uid != 0 => {
                let kept = |until: usize| {
                    if index < until {
                        capabilities::SYS_ADMIN
                    } else {
                        0
                    }
                };
                *ambient = 0;
                *permitted = kept(policy);
                *effective = if index + 1 == policy { kept(policy) } else { 0 };
            }
            Step::Execute { environment, .. } => {
                let is_home = |variable: &CString| variable.as_bytes().starts_with(b"HOME=");
                if !environment.as_slice().iter().any(is_home) {
                    let mut variables = environment.as_slice().to_vec();
                    variables.extend(CString::new(format!("HOME={}", user.home)));
                    *environment = Strings::new(variables);
                }
            }
            _ => {}
        }
    }
}
