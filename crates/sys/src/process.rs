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
