//! One epoll(7) for everything that an event loop waits for.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::watched::Watched;

/// What a descriptor is to its loop, in the 64 bits that the kernel keeps beside it.
pub trait Token: Copy {
    /// The bits.
    fn encode(self) -> u64;

    /// What [`Token::encode`] made them of.
    fn decode(data: u64) -> Self;
}

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready<T> {
    /// Which it is.
    pub token: T,
    /// There is something to read, or the end.
    pub is_readable: bool,
    /// There is room, or nobody reads any more.
    pub is_writable: bool,
}

/// What to wait for. That the other end is gone is told in any case, as readable and writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Something to read.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Something to read alone.
    pub const READ: Interest = Interest {
        read: true,
        write: false,
    };
    /// Room to write alone.
    pub const WRITE: Interest = Interest {
        read: false,
        write: true,
    };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// Events that are taken at once; more come with the next call.
const AT_ONCE: usize = 64;

/// The epoll instance.
pub struct Poller<T> {
    epoll: OwnedFd,
    events: Vec<Event>,
    token: PhantomData<T>,
}

impl<T: Token> Poller<T> {
    /// One that waits for nothing yet.
    ///
    /// # Errors
    /// See epoll_create(2).
    pub fn new() -> io::Result<Poller<T>> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(AT_ONCE),
            token: PhantomData,
        })
    }

    /// Waits for this descriptor from now on.
    ///
    /// # Errors
    /// See epoll_ctl(2): it is waited for already, or cannot be.
    pub fn add(&self, fd: impl AsFd, token: T, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, fd, data, interest.flags())?)
    }

    /// Waits for something else of it.
    ///
    /// # Errors
    /// See epoll_ctl(2): it is not waited for.
    pub fn modify(&self, fd: impl AsFd, token: T, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::modify(&self.epoll, fd, data, interest.flags())?)
    }

    /// Not any more. Harmless when it is not there.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// For a descriptor that is waited for now and then: [`Poller::watch`].
    ///
    /// # Errors
    /// As [`Watched::new`].
    pub fn watched(fd: OwnedFd, token: T) -> io::Result<Watched> {
        Watched::new(fd, token.encode())
    }

    /// Waits for this from now on. One that nothing is wanted of is not looked at, not even whether it is gone.
    pub fn watch(&self, watched: &mut Watched, interest: Interest) {
        watched.watch(&self.epoll, interest.flags());
    }

    /// Waits until something is ready or the deadline has come.
    ///
    /// # Errors
    /// See epoll_wait(2). A signal is none.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Vec<Ready<T>>> {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        self.events.clear();
        let into = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, into, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |event: &Event| {
            let flags = event.flags;
            let is_over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            Ready {
                token: T::decode(event.data.u64()),
                is_readable: is_over || flags.contains(EventFlags::IN),
                is_writable: is_over || flags.contains(EventFlags::OUT),
            }
        };
        Ok(self.events.iter().map(ready).collect())
    }
}
