//! Named places where a test can make the store fail or die.
//!
//! In the tests of this crate, `ISLE_FAILPOINT=<name>:<n>:<error|kill>` makes the n-th passage
//! (from 1) of the named place return an input/output error, or kill the process with SIGKILL. In
//! every other build [`hit`] is empty.

use std::io;

#[cfg(not(test))]
#[inline(always)]
#[expect(clippy::unnecessary_wraps, reason = "fails in tests")]
pub(crate) const fn hit(_name: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use armed::hit;

#[cfg(test)]
pub(crate) mod armed {
    use super::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub(crate) fn hit(name: &str) -> io::Result<()> {
        let Ok(wanted) = std::env::var("ISLE_FAILPOINT") else {
            return Ok(());
        };
        let mut parts = wanted.split(':');
        let (Some(place), Some(count), Some(action)) = (parts.next(), parts.next(), parts.next())
        else {
            panic!("ISLE_FAILPOINT must be name:n:action, not {wanted}");
        };
        if place != name && place != "any" {
            return Ok(());
        }
        let passed = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
        if passed != count.parse::<u64>().unwrap() {
            return Ok(());
        }
        match action {
            "kill" => {
                let me = rustix::process::getpid();
                rustix::process::kill_process(me, rustix::process::Signal::KILL)?;
                loop {
                    std::thread::park();
                }
            }
            _ => Err(io::Error::from_raw_os_error(28)),
        }
    }
}
