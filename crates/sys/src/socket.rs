//! What rustix lacks for sockets: SIOCOUTQ, see unix(7) and tcp(7); SO_BINDTODEVICE, see socket(7).

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

/// Only what comes in by a link reaches the socket from now on, and what is sent goes out by it. It is the link's number
/// that is kept: another link of the same name is another one.
///
/// # Errors
/// `ENODEV`: there is no such link. `EPERM`: the socket belongs to a link already, and `CAP_NET_RAW` is missing.
pub fn bind_to_link(socket: impl AsFd, link: &str) -> io::Result<()> {
    let name = link.as_bytes();
    let length = libc::socklen_t::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads as many bytes of the name as it is long; it need not end with a zero byte.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
