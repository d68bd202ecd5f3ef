//! What the parent of a container's processes needs.

use std::io;

/// Makes the calling process invisible to ptrace(2) and its files in `/proc` root's, see
/// `PR_SET_DUMPABLE` in prctl(2).
///
/// # Errors
/// Never in practice.
pub fn set_not_dumpable() -> io::Result<()> {
    // SAFETY: this prctl takes numbers only.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The ids by which the calling thread, and it alone, is known to file systems from now on: those
/// of the files that it makes. Leaving 0 takes the effective capabilities away that are about
/// files, see setfsuid(2) and capabilities(7), "Effect of user ID changes on capabilities".
///
/// # Errors
/// `EPERM` when the thread may not have them.
pub fn set_file_ids(uid: u32, gid: u32) -> io::Result<()> {
    // Both calls answer with the id before, whatever happens; an impossible id changes nothing.
    // SAFETY: these calls take numbers only, and act upon the calling thread alone.
    let set = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        let group = libc::syscall(libc::SYS_setfsgid, u32::MAX);
        let user = libc::syscall(libc::SYS_setfsuid, u32::MAX);
        (user, group)
    };
    // The kernel answers with a signed number of 32 bits.
    match set.0 as u32 == uid && set.1 as u32 == gid {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}
