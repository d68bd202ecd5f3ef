//! One stream of a task: between a pipe or terminal and the channel.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use isle_guest_protocol::{ACK_EVERY, Incoming, Outgoing};
use isle_sys::watched::Watched;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

/// What of a stream may still come when its process has ended, at most: what a pipe holds.
const PIPE_BYTES: u64 = 64 << 10;

/// From a process to the host.
pub(crate) struct Output {
    source: Option<Watched>,
    pub(crate) outgoing: Outgoing,
    /// Once the process has ended: up to where what it has written itself may reach.
    drain_to: Option<u64>,
    /// Everything up to here is to be sent before the end of the process is told.
    told_after: Option<u64>,
    /// Nobody reads it.
    is_closed: bool,
}

impl Output {
    pub(crate) fn new(fd: OwnedFd, token: u64) -> io::Result<Output> {
        Ok(Output {
            source: Some(Watched::new(fd, token)?),
            outgoing: Outgoing::default(),
            drain_to: None,
            told_after: None,
            is_closed: false,
        })
    }

    /// Reads as much as may be on its way, and asks to be called again when there is more.
    pub(crate) fn fill(&mut self, epoll: &OwnedFd, buffer: &mut [u8]) {
        let Some(source) = &mut self.source else {
            return;
        };
        let mut is_ended = false;
        let mut is_empty = false;
        while !is_empty && !is_ended && self.outgoing.room() > 0 {
            let most = self.outgoing.room().min(buffer.len());
            match rustix::io::read(&source.fd, &mut buffer[..most]) {
                Ok(0) => is_ended = true,
                Ok(count) => {
                    self.outgoing.push(&buffer[..count]);
                    // More would have come with it.
                    is_empty = count < most && self.drain_to.is_none();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => is_empty = true,
                // EIO: nobody has the terminal open any more.
                Err(_) => is_ended = true,
            }
            if self.drain_to.is_some_and(|to| self.outgoing.total() >= to) {
                break;
            }
        }
        if let Some(to) = self.drain_to
            && (is_empty || is_ended || self.outgoing.total() >= to)
        {
            self.drain_to = None;
            self.told_after = Some(self.outgoing.total());
        }
        let wanted = match !is_ended && self.outgoing.room() > 0 {
            true => EventFlags::IN,
            false => EventFlags::empty(),
        };
        source.watch(epoll, wanted);
        if is_ended {
            self.source = None;
            self.outgoing.end();
        }
    }

    /// The process has ended: what it has written is still there.
    pub(crate) fn drain(&mut self, epoll: &OwnedFd, buffer: &mut [u8]) {
        match self.source {
            Some(_) => {
                self.drain_to = Some(self.outgoing.total() + PIPE_BYTES);
                self.fill(epoll, buffer);
            }
            None => self.told_after = Some(self.outgoing.total()),
        }
    }

    /// Whether the end of the process may be told.
    pub(crate) fn is_drained(&self) -> bool {
        self.is_closed || self.told_after.is_some_and(|to| self.outgoing.sent() >= to)
    }

    /// Nobody reads it any more: the writer hears so.
    pub(crate) fn close(&mut self, epoll: &OwnedFd) {
        self.is_closed = true;
        self.hang_up(epoll);
    }

    /// Lets the descriptor go.
    pub(crate) fn hang_up(&mut self, epoll: &OwnedFd) {
        if let Some(mut source) = self.source.take() {
            source.watch(epoll, EventFlags::empty());
        }
        self.outgoing.end();
        self.drain_to = None;
        self.told_after.get_or_insert(self.outgoing.total());
    }

    pub(crate) fn terminal(&self) -> Option<&OwnedFd> {
        self.source.as_ref().map(|source| &source.fd)
    }
}

/// From the host to a process.
pub(crate) struct Input {
    sink: Option<Watched>,
    pub(crate) incoming: Incoming,
    pending: VecDeque<u8>,
}

impl Input {
    pub(crate) fn new(fd: OwnedFd, token: u64) -> io::Result<Input> {
        Ok(Input {
            sink: Some(Watched::new(fd, token)?),
            incoming: Incoming::default(),
            pending: VecDeque::new(),
        })
    }

    /// Takes a piece. One that breaks the rules is thrown away: the host end is at fault, and will find that the
    /// stream stands still.
    pub(crate) fn accept(&mut self, offset: u64, piece: &[u8]) {
        if self.incoming.accept(offset, piece.len()).is_ok() && self.sink.is_some() {
            self.pending.extend(piece);
        }
    }

    /// Writes what the process takes. `true`: the input is over.
    pub(crate) fn flush(&mut self, epoll: &OwnedFd) -> bool {
        let Some(sink) = &mut self.sink else {
            self.pending = VecDeque::new();
            return false;
        };
        let mut is_gone = false;
        let mut is_full = false;
        while !self.pending.is_empty() && !is_full && !is_gone {
            match rustix::io::write(&sink.fd, self.pending.as_slices().0) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => is_full = true,
                // The process has closed it.
                Err(_) => is_gone = true,
            }
        }
        let is_over = is_gone || (self.pending.is_empty() && self.incoming.is_ended());
        let wanted = match self.pending.is_empty() || is_over {
            true => EventFlags::empty(),
            false => EventFlags::OUT,
        };
        sink.watch(epoll, wanted);
        if is_over {
            self.sink = None;
            self.pending = VecDeque::new();
        }
        is_over
    }

    /// An acknowledgement that is due.
    pub(crate) fn due(&mut self) -> Option<u64> {
        let taken = self.incoming.received() - self.pending.len() as u64;
        let ahead = taken - self.incoming.acked();
        if ahead == 0 || (ahead < ACK_EVERY && !self.pending.is_empty()) {
            return None;
        }
        self.incoming.mark_acked(taken);
        Some(taken)
    }
}
