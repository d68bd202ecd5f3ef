//! What the kernel tells about the process behind a pidfd: `PIDFD_GET_INFO` (linux/pidfd.h).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `struct pidfd_info` of linux/pidfd.h in its first size, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`
const EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`
const GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;

/// How a process has ended that was collected already, as waitpid(2) writes it; also of one that
/// is not the caller's child. `None` while it has not, and on Linux before 6.15.
///
/// # Errors
/// When the descriptor is no pidfd.
pub fn exit_status(pidfd: impl AsFd) -> io::Result<Option<i32>> {
    let mut info = Info {
        mask: EXIT,
        ..Info::default()
    };
    // SAFETY: the kernel writes at most the 64 bytes that the number of the request gives it,
    // into `info`, which is that large and lives until the call returns.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO, &raw mut info) };
    if result == 0 {
        return Ok((info.mask & EXIT != 0).then_some(info.exit_code));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // An old kernel, or nothing is known of it.
        Some(libc::ENOTTY | libc::EINVAL | libc::ESRCH) => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn the_end_of_a_collected_process_is_still_known() {
        assert_eq!(size_of::<Info>(), 64);
        let mut child = Command::new("sh").args(["-c", "exit 9"]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        match exit_status(&pidfd).unwrap() {
            Some(status) => assert_eq!(status, 9 << 8),
            None => eprintln!("skipped: PIDFD_INFO_EXIT needs Linux 6.15"),
        }
    }

    #[test]
    fn what_is_no_pidfd_knows_nothing() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(exit_status(&null).unwrap(), None);
    }
}
