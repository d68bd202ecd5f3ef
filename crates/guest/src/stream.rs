//! The host's end of a stream: bytes between a descriptor and the channel.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use isle_guest_protocol::{Incoming, Outgoing, WINDOW, WindowError};
use isle_sys::watched::Watched;
use rustix::event::epoll::EventFlags;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::Error;

/// Bytes that a socket of a terminal may hold which nobody has read.
const SOCKET_BYTES: u64 = 32 << 10;

/// What a descriptor is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pipe,
    Socket,
    /// A file: it never makes anybody wait, and cannot be polled.
    File,
}

/// Whether a descriptor is `/dev/null`.
pub(crate) fn is_null(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    })
}

/// One end of a standard stream.
#[derive(Debug)]
struct Descriptor {
    watched: Watched,
    kind: Kind,
}

impl Descriptor {
    fn new(fd: OwnedFd, token: u64) -> Result<Descriptor, Error> {
        let fail = Error::io("use a standard stream");
        let prepare = || -> std::io::Result<Descriptor> {
            let kind = match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
                FileType::Socket => Kind::Socket,
                FileType::RegularFile | FileType::BlockDevice => Kind::File,
                FileType::CharacterDevice if is_null(&fd) => Kind::File,
                _ => Kind::Pipe,
            };
            let watched = Watched::new(fd, token)?;
            Ok(Descriptor { watched, kind })
        };
        prepare().map_err(fail)
    }

    /// A file is always ready.
    fn watch(&mut self, epoll: &OwnedFd, wanted: EventFlags) {
        if self.kind != Kind::File {
            self.watched.watch(epoll, wanted);
        }
    }
}

/// Where the bytes of the guest go.
#[derive(Debug)]
enum Sink {
    Descriptor(Descriptor),
    /// Kept for the caller, up to so many.
    Memory {
        bytes: Vec<u8>,
        limit: usize,
    },
    /// Nobody reads them any more.
    Gone,
}

/// From the guest to the host.
#[derive(Debug)]
pub(crate) struct Outlet {
    incoming: Incoming,
    sink: Sink,
    /// Received, and not yet written.
    pending: VecDeque<u8>,
    /// Written, or thrown away.
    delivered: u64,
    /// The agent is to hear that nobody reads.
    is_closing: bool,
    is_over: bool,
    /// The end was passed on, and so much before it was not read then: it may be read by now, and may be lost with this
    /// process.
    unread: u64,
}

impl Outlet {
    /// Into a descriptor, from an offset on.
    pub(crate) fn to(fd: OwnedFd, token: u64, offset: u64) -> Result<Outlet, Error> {
        Ok(Outlet::into_sink(
            Sink::Descriptor(Descriptor::new(fd, token)?),
            offset,
        ))
    }

    /// Into memory.
    pub(crate) fn kept(limit: usize) -> Outlet {
        let bytes = Vec::new();
        Outlet::into_sink(Sink::Memory { bytes, limit }, 0)
    }

    /// To nobody.
    pub(crate) fn nowhere(offset: u64) -> Outlet {
        let mut outlet = Outlet::into_sink(Sink::Gone, offset);
        outlet.is_closing = true;
        outlet
    }

    fn into_sink(sink: Sink, offset: u64) -> Outlet {
        Outlet {
            incoming: Incoming::at(offset),
            sink,
            pending: VecDeque::new(),
            delivered: offset,
            is_closing: false,
            is_over: false,
            unread: 0,
        }
    }

    /// Takes a piece from the guest.
    pub(crate) fn accept(&mut self, offset: u64, piece: &[u8]) -> Result<(), WindowError> {
        self.incoming.accept(offset, piece.len())?;
        match &mut self.sink {
            Sink::Descriptor(_) => self.pending.extend(piece),
            Sink::Memory { bytes, limit } if bytes.len() + piece.len() <= *limit => {
                bytes.extend_from_slice(piece);
                self.delivered = self.incoming.received();
            }
            Sink::Memory { .. } => self.hang_up(),
            Sink::Gone => self.delivered = self.incoming.received(),
        }
        Ok(())
    }

    /// Throws away what comes from now on.
    pub(crate) fn give_up(&mut self, epoll: &OwnedFd) {
        if let Sink::Descriptor(to) = &mut self.sink {
            to.watch(epoll, EventFlags::empty());
        }
        self.hang_up();
    }

    fn hang_up(&mut self) {
        self.unread = 0;
        self.pending = VecDeque::new();
        self.sink = Sink::Gone;
        self.delivered = self.incoming.received();
        self.is_closing = !self.incoming.is_ended();
    }

    /// Writes what the descriptor takes.
    pub(crate) fn flush(&mut self, epoll: &OwnedFd) {
        if let Sink::Descriptor(to) = &mut self.sink {
            let mut is_gone = false;
            let mut is_full = false;
            while !self.pending.is_empty() && !is_full && !is_gone {
                let (piece, _) = self.pending.as_slices();
                let written = match to.kind {
                    Kind::Socket => send(&to.watched.fd, piece, SendFlags::NOSIGNAL),
                    Kind::Pipe | Kind::File => rustix::io::write(&to.watched.fd, piece),
                };
                match written {
                    Ok(count) => {
                        self.pending.drain(..count);
                        self.delivered += count as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => is_full = true,
                    Err(_) => is_gone = true,
                }
            }
            if is_gone {
                to.watch(epoll, EventFlags::empty());
                self.hang_up();
            } else {
                let wanted = match self.pending.is_empty() {
                    true => EventFlags::empty(),
                    false => EventFlags::OUT,
                };
                to.watch(epoll, wanted);
                if self.pending.is_empty() && self.pending.capacity() > WINDOW / 2 {
                    self.pending = VecDeque::new();
                }
            }
        }
        if self.incoming.is_ended() && self.pending.is_empty() && !self.is_over {
            self.is_over = true;
            self.unread = self.delivered - self.consumed();
            if let Sink::Descriptor(to) = &mut self.sink {
                to.watch(epoll, EventFlags::empty());
                if to.kind == Kind::Socket {
                    let _ = rustix::net::shutdown(&to.watched.fd, rustix::net::Shutdown::Write);
                }
                self.sink = Sink::Gone;
            }
        }
    }

    /// Up to where a reader has taken it.
    fn consumed(&self) -> u64 {
        let Sink::Descriptor(to) = &self.sink else {
            return self.delivered - self.unread;
        };
        match to.kind {
            Kind::File => self.delivered,
            Kind::Pipe => match rustix::io::ioctl_fionread(&to.watched.fd) {
                Ok(unread) => self.delivered.saturating_sub(unread),
                Err(_) => self.delivered,
            },
            Kind::Socket => match isle_sys::socket::unsent(&to.watched.fd) {
                Ok(0) | Err(_) => self.delivered,
                Ok(_) => self.delivered.saturating_sub(SOCKET_BYTES),
            },
        }
    }

    /// An acknowledgement that is due.
    pub(crate) fn due(&mut self) -> Option<u64> {
        if self.incoming.acked() == self.incoming.received() {
            return None;
        }
        let consumed = self.consumed();
        if consumed <= self.incoming.acked() {
            return None;
        }
        self.incoming.mark_acked(consumed);
        Some(consumed)
    }

    /// Whoever reads has said that it has read all that there was.
    pub(crate) fn mark_read(&mut self) {
        self.unread = 0;
    }

    /// Whether the agent is to be told that nobody reads; once.
    pub(crate) fn take_closing(&mut self) -> bool {
        std::mem::take(&mut self.is_closing)
    }

    /// Whether something was received and not passed on.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether its end has come and was passed on.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// What was kept in memory; `None` when it was too much.
    pub(crate) fn take_kept(&mut self) -> Option<Vec<u8>> {
        match &mut self.sink {
            Sink::Memory { bytes, .. } => Some(std::mem::take(bytes)),
            _ => None,
        }
    }

    /// No more will come: the guest is lost.
    pub(crate) fn lose(&mut self, epoll: &OwnedFd) {
        if !self.incoming.is_ended() {
            let _ = self.incoming.accept(self.incoming.received(), 0);
        }
        self.flush(epoll);
    }
}

/// From the host to the guest.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub(crate) outgoing: Outgoing,
    source: Option<Descriptor>,
}

impl Inlet {
    /// From a descriptor, at an offset.
    pub(crate) fn from(fd: OwnedFd, token: u64, offset: u64) -> Result<Inlet, Error> {
        Ok(Inlet {
            outgoing: Outgoing::at(offset),
            source: Some(Descriptor::new(fd, token)?),
        })
    }

    /// Reads as much as may be on its way, and asks to be called again when there is more.
    pub(crate) fn fill(&mut self, epoll: &OwnedFd) {
        let Some(source) = &mut self.source else {
            return;
        };
        let mut buffer = [0; 16 << 10];
        let mut is_ended = false;
        let mut is_empty = false;
        while !is_empty && !is_ended && self.outgoing.room() > 0 {
            let most = self.outgoing.room().min(buffer.len());
            match rustix::io::read(&source.watched.fd, &mut buffer[..most]) {
                Ok(0) => is_ended = true,
                Ok(count) => self.outgoing.push(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => is_empty = true,
                // The other end of a socket was reset; nothing more will come.
                Err(_) => is_ended = true,
            }
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

    /// Nobody will take more of it.
    pub(crate) fn close(&mut self, epoll: &OwnedFd) {
        if let Some(mut source) = self.source.take() {
            source.watch(epoll, EventFlags::empty());
        }
        self.outgoing.discard();
    }

    /// Whether the source is still there.
    pub(crate) fn is_open(&self) -> bool {
        self.source.is_some()
    }
}

/// A pair of connected sockets, of which ours holds little that was not read.
pub(crate) fn terminal_pair() -> Result<(OwnedFd, OwnedFd), Error> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
    let pair = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_send_buffer_size(ours.as_fd(), SOCKET_BYTES as usize / 2)?;
        Ok((ours, theirs))
    };
    pair().map_err(Error::io("make the sockets of a terminal"))
}
