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

/// Gives the calling process, which has one thread, a user namespace without maps, in which it has all capabilities, and a
/// copy of the mount namespace that belongs to it. See user_namespaces(7).
///
/// # Errors
/// `EPERM`, `ENOSPC`: the host does not let users make such namespaces. `EINVAL`: there are other threads.
pub fn unshare_user_and_mounts() -> io::Result<()> {
    // SAFETY: unshare takes no pointers.
    match unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs something in a new network namespace, which is there as long as somebody holds it: in a thread of its own, which ends
/// with it.
///
/// # Errors
/// When no thread can be started, or without `CAP_SYS_ADMIN`.
///
/// # Panics
/// When `run` does.
pub fn in_new_network<T: Send>(run: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_thread(
        // SAFETY: unshare takes no pointers; the calling thread alone is moved, which ends here.
        || unsafe { libc::unshare(libc::CLONE_NEWNET) },
        run,
    )
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
    in_thread(
        // SAFETY: setns takes numbers only; the calling thread alone is moved, which ends here.
        || unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) },
        run,
    )
}

/// Moves a thread that is made for it, and runs something there.
fn in_thread<T: Send>(
    go: impl FnOnce() -> libc::c_int + Send,
    run: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || match go() {
            0 => Ok(run()),
            _ => Err(io::Error::last_os_error()),
        })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
