//! Giving blocks of a file system back: FITRIM, see ioctl_fitrim(2) and fstrim(8).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IOWR('X', 121, struct fstrim_range)`
const FITRIM: libc::Ioctl = 0xc018_5879_u32 as libc::Ioctl;

/// `struct fstrim_range`
#[repr(C)]
struct Range {
    start: u64,
    length: u64,
    least: u64,
}

/// Tells the device of a file system which blocks no file has; how many bytes these are.
///
/// # Errors
/// When the file system or its device cannot do that.
pub fn trim(directory: impl AsFd) -> io::Result<u64> {
    let mut range = Range {
        start: 0,
        length: u64::MAX,
        least: 0,
    };
    // SAFETY: the kernel reads and writes the structure, which lives until the call returns.
    match unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), FITRIM, &raw mut range) } {
        0 => Ok(range.length),
        _ => Err(io::Error::last_os_error()),
    }
}
