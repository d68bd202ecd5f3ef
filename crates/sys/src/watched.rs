//! A descriptor that never blocks, in an epoll(7) as long as somebody waits for it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// It, and what is waited for.
#[derive(Debug)]
pub struct Watched {
    /// The descriptor.
    pub fd: OwnedFd,
    token: u64,
    interest: EventFlags,
}

impl Watched {
    /// Makes it one that never blocks. The token comes with its events.
    ///
    /// # Errors
    /// When the descriptor has no flags, see fcntl(2).
    pub fn new(fd: OwnedFd, token: u64) -> io::Result<Watched> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Watched {
            fd,
            token,
            interest: EventFlags::empty(),
        })
    }

    /// Waits for this from now on, in the same epoll(7) always; for nothing: is not in it.
    pub fn watch(&mut self, epoll: &OwnedFd, wanted: EventFlags) {
        if wanted == self.interest {
            return;
        }
        let data = EventData::new_u64(self.token);
        // These fail when there is no memory left or the descriptor cannot be polled; then it is looked at
        // whenever anything else happens.
        let _ = match (self.interest.is_empty(), wanted.is_empty()) {
            (true, _) => epoll::add(epoll, &self.fd, data, wanted),
            (_, true) => epoll::delete(epoll, &self.fd),
            _ => epoll::modify(epoll, &self.fd, data, wanted),
        };
        self.interest = wanted;
    }
}
