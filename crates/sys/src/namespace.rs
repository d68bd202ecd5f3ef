//! Namespaces of the calling thread: unshare(2).

use std::io;

/// Gives the calling thread, and it alone, a copy of the mount namespace and a working directory
/// of its own. See unshare(2), `CLONE_NEWNS`.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: unshare takes no pointers. The thread's mounts, root and working directory become its
    // own; no memory and no descriptor does (that would be CLONE_FILES).
    match unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_FS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
