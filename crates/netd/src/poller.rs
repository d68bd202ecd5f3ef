//! Everything that the keeper waits for, and what it waits for in time.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use isle_sys::poller;
use isle_sys::watched::Watched;

pub(crate) use isle_sys::poller::Interest;

pub(crate) type Ready = poller::Ready<Token>;

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

impl poller::Token for Token {
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

/// The epoll instance and the clock.
pub(crate) struct Poller {
    descriptors: poller::Poller<Token>,
    deadlines: BTreeSet<(Instant, Token)>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller {
            descriptors: poller::Poller::new()?,
            deadlines: BTreeSet::new(),
        })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        self.descriptors.add(fd, token, interest)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        self.descriptors.modify(fd, token, interest)
    }

    /// For a descriptor that is waited for now and then: [`Poller::watch`].
    pub(crate) fn watched(fd: OwnedFd, token: Token) -> io::Result<Watched> {
        poller::Poller::watched(fd, token)
    }

    /// Waits for this from now on. One that nothing is wanted of is not looked at, not even whether it is gone.
    pub(crate) fn watch(&self, watched: &mut Watched, interest: Interest) {
        self.descriptors.watch(watched, interest);
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
        let next = self.deadlines.first().map(|(deadline, _)| *deadline);
        let ready = self.descriptors.wait(next)?;
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
