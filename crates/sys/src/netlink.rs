//! Options of sockets that speak to the kernel, see netlink(7), "Socket options".

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// What is refused is answered with the reason in words, and with the header alone of what was
/// refused: `NETLINK_EXT_ACK`, `NETLINK_CAP_ACK`.
///
/// # Errors
/// When the descriptor is no such socket.
pub fn explain(socket: impl AsFd) -> io::Result<()> {
    set(&socket, libc::NETLINK_CAP_ACK, 1)?;
    set(&socket, libc::NETLINK_EXT_ACK, 1)
}

/// What happens to a group comes to this socket: `NETLINK_ADD_MEMBERSHIP`.
///
/// # Errors
/// `EPERM` where the group is not for everyone.
pub fn join(socket: impl AsFd, group: u32) -> io::Result<()> {
    set(&socket, libc::NETLINK_ADD_MEMBERSHIP, group)
}

fn set(socket: &impl AsFd, option: libc::c_int, value: u32) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads four bytes of `value`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            descriptor,
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
