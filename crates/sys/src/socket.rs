//! What a socket tells about itself: SIOCOUTQ, see unix(7) and tcp(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// How much was sent that the other end has not read, in units of the kernel's own; 0: all was read.
///
/// # Errors
/// When the descriptor is no socket that can tell.
pub fn unsent(socket: impl AsFd) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int to `count`, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    match result {
        0 => Ok(u64::from(count.unsigned_abs())),
        _ => Err(io::Error::last_os_error()),
    }
}
