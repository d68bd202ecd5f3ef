//! Signals as something to read: signalfd(2).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

/// Blocks signals for the calling thread and returns a descriptor that they are read from, which
/// does not block. See signalfd(2).
///
/// What the caller executes inherits the blocked signals, unless it unblocks them.
///
/// # Errors
/// When a number is no signal, or there are no more descriptors.
pub fn divert(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the whole set that it is given.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: the set was initialized above; a bad number is refused with an error.
        if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: both calls read the set, which lives until they return; the old mask is not asked
    // for.
    let fd = unsafe {
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a program that is about to be started receive every signal again: a child inherits the signals that
/// [`divert`] holds back, and keeps them blocked through execve(2).
pub fn release_in(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt as _;
    let release = || {
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset(3) fills the whole set, which is only read after that.
        unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            if libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and execve; it calls only sigemptyset(3) and sigprocmask(2), which
    // signal-safety(7) allows there, and allocates nothing.
    unsafe { command.pre_exec(release) }
}
