//! One epoll(7) for everything that the keeper waits for, and what it waits for in time.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use isle_sys::watched::Watched;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What a descriptor, or a point in time, is to the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Token {
    /// Supervisors come.
    Supervisors,
    /// A supervisor.
    Supervisor(u32),
    /// SIGTERM.
    Signals,
    /// Nobody is there any more.
    Grace,
    /// Questions in datagrams.
    Datagrams(u32),
    /// Questions by TCP: connections come.
    Streams(u32),
    /// A connection.
    Stream(u32),
    /// A question that was passed on.
    Asked(u32),
    /// Connections come to a published port on `::1`.
    Loopback(u32),
    /// The end of such a connection at the host's program.
    Near(u32),
    /// Its end at the instance.
    Far(u32),
    /// Datagrams come to a published port on `::1`.
    LoopbackDatagrams(u32),
    /// And answers of the instance to one sender.
    LoopbackSender(u32),
    /// Links or tables of the kernel have changed.
    Watch,
    /// The moment to look whether that concerns us.
    Repair,
    /// The kernel has refused packets.
    Log,
    /// The moment to tell how often.
    Refusals,
    /// Nothing has happened for a while.
    Rest,
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Token::Supervisors => (0, 0),
            Token::Supervisor(number) => (1, number),
            Token::Signals => (2, 0),
            Token::Grace => (3, 0),
            Token::Datagrams(number) => (4, number),
            Token::Streams(number) => (5, number),
            Token::Stream(number) => (6, number),
            Token::Asked(number) => (7, number),
            Token::Loopback(number) => (8, number),
            Token::Near(number) => (9, number),
            Token::Far(number) => (10, number),
            Token::Watch => (11, 0),
            Token::Repair => (12, 0),
            Token::Log => (13, 0),
            Token::Refusals => (14, 0),
            Token::Rest => (15, 0),
            Token::LoopbackDatagrams(number) => (16, number),
            Token::LoopbackSender(number) => (17, number),
        };
        (kind << 32) | u64::from(number)
    }

    fn decode(data: u64) -> Token {
        let number = data as u32;
        match data >> 32 {
            0 => Token::Supervisors,
            1 => Token::Supervisor(number),
            2 => Token::Signals,
            3 => Token::Grace,
            4 => Token::Datagrams(number),
            5 => Token::Streams(number),
            6 => Token::Stream(number),
            7 => Token::Asked(number),
            8 => Token::Loopback(number),
            9 => Token::Near(number),
            10 => Token::Far(number),
            11 => Token::Watch,
            12 => Token::Repair,
            13 => Token::Log,
            14 => Token::Refusals,
            15 => Token::Rest,
            16 => Token::LoopbackDatagrams(number),
            _ => Token::LoopbackSender(number),
        }
    }
}

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
}

/// What to wait for. That the other end is gone is told in any case, as readable and writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Interest {
    pub(crate) const READ: Interest = Interest {
        read: true,
        write: false,
    };
    pub(crate) const WRITE: Interest = Interest {
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

/// The epoll instance and the clock.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
    deadlines: BTreeSet<(Instant, Token)>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(AT_ONCE),
            deadlines: BTreeSet::new(),
        })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, fd, data, interest.flags())?)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::modify(&self.epoll, fd, data, interest.flags())?)
    }

    /// For a descriptor that is waited for now and then: [`Poller::watch`].
    pub(crate) fn watched(fd: OwnedFd, token: Token) -> io::Result<Watched> {
        Watched::new(fd, token.encode())
    }

    /// Waits for this from now on. One that nothing is wanted of is not looked at, not even whether it is gone.
    pub(crate) fn watch(&self, watched: &mut Watched, interest: Interest) {
        watched.watch(&self.epoll, interest.flags());
    }

    /// Wakes for `token` at that time, once.
    pub(crate) fn at(&mut self, time: Instant, token: Token) {
        self.deadlines.insert((time, token));
    }

    /// Not any more. Harmless when it was not to.
    pub(crate) fn not_at(&mut self, time: Instant, token: Token) {
        self.deadlines.remove(&(time, token));
    }

    /// Waits until something is ready or a time has come. Returns both.
    pub(crate) fn wait(&mut self) -> io::Result<(Vec<Ready>, Vec<Token>)> {
        let timeout = self.deadlines.first().map(|(deadline, _)| {
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
        let ready = self.events.iter().map(ready).collect();
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some((time, token)) = self.deadlines.first().copied()
            && time <= now
        {
            self.deadlines.pop_first();
            due.push(token);
        }
        Ok((ready, due))
    }
}
