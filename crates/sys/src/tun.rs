//! Virtual network cards: tun(4), see `Documentation/networking/tuntap.rst` of the kernel.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// What goes with a card of frames (a tap).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Each frame is preceded by `struct virtio_net_hdr` (`IFF_VNET_HDR`).
    pub has_header: bool,
}

/// Makes a tap of that name, at most 15 bytes, in the network namespace of the calling thread, or
/// attaches to one that is there and has no one. It goes when the descriptor is closed.
///
/// # Errors
/// When the kernel has none, the name is taken, or `CAP_NET_ADMIN` is missing.
pub fn tap(name: &str, offloads: Offloads) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if offloads.has_header {
        flags |= libc::IFF_VNET_HDR;
    }
    // SAFETY: ifreq holds numbers and bytes, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes `request`, which lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    match result {
        0 => Ok(file.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
