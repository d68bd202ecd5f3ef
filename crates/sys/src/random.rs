//! The kernel's random numbers: RNDADDENTROPY and RNDRESEEDCRNG, see random(4).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOW('R', 0x03, int[2])`
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `_IO('R', 0x07)`
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` with room for a seed.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    seed: [u8; 32],
}

/// Mixes a seed in that nobody else knows, and lets everything that is drawn from now on depend on it.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn seed(seed: &[u8; 32]) -> io::Result<()> {
    let device = File::options().write(true).open("/dev/urandom")?;
    let pool = Pool {
        entropy_bits: 256,
        bytes: 32,
        seed: *seed,
    };
    // SAFETY: the kernel reads `bytes` bytes after the two numbers, which are there; it writes nothing.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) };
    if added != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
