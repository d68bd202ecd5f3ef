//! When a machine can be copied.

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use isle_guest::Connection;
use rustix::event::{PollFd, PollFlags, poll};

/// Waits until the agent of a machine that boots can be copied: it has answered, and has nothing to do.
///
/// # Errors
/// When it does not answer in time, or says more than that.
pub fn is_ready(port: &UnixStream, deadline: Instant) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut guest = Connection::open(port.try_clone()?.into())?;
    guest.set_patience(deadline.saturating_duration_since(Instant::now()));
    guest.welcome()?;
    is_silent(port)
}

/// Waits a moment: everything that the agent wanted to say has been said.
///
/// # Errors
/// When it says something.
pub fn is_silent(port: &UnixStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut fds = [PollFd::from_borrowed_fd(port.as_fd(), PollFlags::IN)];
    let short = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    match poll(&mut fds, Some(&short)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) => Err(Box::new(io::Error::other(
            "the agent says more than it was asked",
        ))),
        Err(errno) => Err(Box::new(io::Error::from(errno))),
    }
}
