//! What a seccomp program returns, see "filter return values" of seccomp(2).

use oci_spec::runtime::LinuxSeccompAction;

use crate::CompileError;

pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Larger ones the kernel would replace by this in silence (`MAX_ERRNO`).
const LARGEST_ERRNO: u32 = 4095;

/// `SECCOMP_RET_ERRNO` with `ENOSYS`.
pub(crate) const NO_SUCH_CALL: u32 = ERRNO | ENOSYS;

/// The value for an action. `errno`: the error of `SCMP_ACT_ERRNO` (EPERM if not given), or the
/// message of `SCMP_ACT_TRACE`.
pub(crate) fn value(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, CompileError> {
    let data = |largest| {
        let data = errno.unwrap_or(EPERM);
        if data > largest {
            return Err(CompileError::Errno(data));
        }
        Ok(data)
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data(LARGEST_ERRNO)?,
        LinuxSeccompAction::ScmpActTrace => TRACE | data(0xffff)?,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    })
}

/// What a call that is newer than the policy gets, where the default is `value`.
pub(crate) fn for_newer_calls(value: u32) -> u32 {
    if value & 0xffff_0000 == ERRNO {
        NO_SUCH_CALL
    } else {
        value
    }
}
