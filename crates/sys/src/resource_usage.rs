//! CPU time of processes: getrusage(2).

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// CPU time, in user space and in the kernel together, of all children of this process that have
/// ended and been waited for, and of theirs.
///
/// # Errors
/// None that getrusage(2) documents for `RUSAGE_CHILDREN`.
pub fn of_children() -> io::Result<Duration> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` is writable and as large as the structure that getrusage(2) fills.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getrusage(2) returned 0, so it has filled the whole structure.
    let usage = unsafe { usage.assume_init() };
    Ok(duration(usage.ru_utime) + duration(usage.ru_stime))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_child_that_computes_is_counted_once_it_was_waited_for() {
        let before = super::of_children().unwrap();
        let status = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"])
            .status()
            .unwrap();
        assert!(status.success());
        assert!(super::of_children().unwrap() > before);
    }
}
