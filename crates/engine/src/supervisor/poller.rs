//! One epoll(7) for everything that the supervisor waits for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What a descriptor is to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    /// New clients.
    Listener,
    /// SIGTERM and its like.
    Signals,
    /// The instance's process has ended.
    Ended,
    /// Its standard output, or terminal.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Its standard input takes more.
    Stdin,
    /// The health check has ended.
    CheckEnded,
    /// The health check says something.
    CheckOutput,
    /// The back end has something to do.
    Backend,
    /// The keeper of networks tells something.
    Keeper,
    /// A client.
    Client(u32),
    /// The process of an exec has ended.
    SessionEnded(u32),
    /// Output of an exec that nobody listens to: standard output, or terminal.
    SessionStdout(u32),
    /// Its standard error.
    SessionStderr(u32),
}

impl Token {
    const SIMPLE: [Token; 10] = [
        Token::Listener,
        Token::Signals,
        Token::Ended,
        Token::Stdout,
        Token::Stderr,
        Token::Stdin,
        Token::CheckEnded,
        Token::CheckOutput,
        Token::Backend,
        Token::Keeper,
    ];

    fn encode(self) -> u64 {
        let with = |kind: u64, number: u32| (kind << 32) | u64::from(number);
        match self {
            Token::Client(number) => with(1, number),
            Token::SessionEnded(number) => with(2, number),
            Token::SessionStdout(number) => with(3, number),
            Token::SessionStderr(number) => with(4, number),
            simple => {
                let at = Token::SIMPLE.iter().position(|known| *known == simple);
                at.expect("all others are simple") as u64
            }
        }
    }

    fn decode(data: u64) -> Token {
        let number = data as u32;
        match data >> 32 {
            0 => Token::SIMPLE[number as usize % Token::SIMPLE.len()],
            1 => Token::Client(number),
            2 => Token::SessionEnded(number),
            3 => Token::SessionStdout(number),
            _ => Token::SessionStderr(number),
        }
    }
}

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) token: Token,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
}

/// The epoll instance.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Interest {
    pub(super) const READ: Interest = Interest {
        read: true,
        write: false,
    };
    pub(super) const WRITE: Interest = Interest {
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
const AT_ONCE: usize = 32;

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(AT_ONCE),
        })
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, fd, data, interest.flags())?)
    }

    pub(super) fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::modify(&self.epoll, fd, data, interest.flags())?)
    }

    /// Harmless when it is not there.
    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready or the deadline has come.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Vec<Ready>> {
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
                token: Token::decode(event.data.u64()),
                is_readable: is_over || flags.contains(EventFlags::IN),
                is_writable: is_over || flags.contains(EventFlags::OUT),
            }
        };
        Ok(self.events.iter().map(ready).collect())
    }
}
