//! In whose name something is done on the host.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::request::Caller;
use crate::spawn::CAPABILITIES;

fn raise(set: CapabilitySet) -> Result<(), Errno> {
    let permitted = CapabilitySet::from_bits_truncate(CAPABILITIES);
    set_capabilities(
        None,
        CapabilitySets {
            effective: set,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )
}

fn become_caller(uid: u32, gid: u32) -> Result<(), Errno> {
    isle_sys::credentials::set_filesystem_ids(uid, gid)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))
}

/// Does something that makes a file, which is then the caller's, with the caller's mask of permissions. Whether the caller may has been
/// decided by the guest's kernel, from the same owners, modes and access control lists.
pub(crate) fn as_caller<T>(
    caller: Caller,
    umask: u32,
    action: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    if (caller.uid, caller.gid) == (0, 0) {
        return action();
    }
    let outcome = become_caller(caller.uid, caller.gid)
        .and_then(|()| raise(CapabilitySet::from_bits_truncate(CAPABILITIES)))
        .and_then(|()| action());
    become_caller(0, 0)?;
    outcome
}

/// Does something that takes set-user-id bits away from a file, as it does for users without privileges.
pub(crate) fn without_privileges<T>(
    applies: bool,
    action: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    if !applies {
        return action();
    }
    let all = CapabilitySet::from_bits_truncate(CAPABILITIES);
    raise(all - CapabilitySet::FSETID)?;
    let outcome = action();
    raise(all)?;
    outcome
}
