//! Namespaces of a thread: unshare(2), setns(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

/// Runs something in another network namespace: in a thread of its own, which ends with it. What
/// it opens there (a socket) stays in that namespace. See setns(2), `CLONE_NEWNET`.
///
/// # Errors
/// When no thread can be started, or the namespace may not be entered (`CAP_SYS_ADMIN`).
///
/// # Panics
/// When `run` does.
pub fn in_network<T: Send>(
    namespace: BorrowedFd<'_>,
    run: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            // SAFETY: setns takes numbers only; the calling thread alone is moved, which ends here.
            match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
                0 => Ok(run()),
                _ => Err(io::Error::last_os_error()),
            }
        })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
