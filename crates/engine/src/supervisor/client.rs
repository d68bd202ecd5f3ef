//! One client as its supervisor sees it: what it is here for, what it has sent, what it is still
//! to receive.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::poller::Interest;
use crate::protocol::{Decoder, HEADER, Header, MAX_STREAM_PAYLOAD};
use crate::{AttachRequest, WaitCondition};

/// The foreground client may have so much to receive before the instance has to wait for it.
pub(super) const FOREGROUND_HIGH: usize = 256 << 10;
/// The instance goes on when it has less than this.
pub(super) const FOREGROUND_LOW: usize = 64 << 10;
/// Any other client that has more than this to receive is given up.
pub(super) const ATTACHED_LIMIT: usize = 4 << 20;
/// Nothing more is read from a client that has so many bytes of answers to receive.
const ANSWERS_LIMIT: usize = 64 << 10;
/// So long a client may take to receive the last words that were meant for it, or to say what it
/// wants.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a client is here for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    /// Has not said so.
    New,
    /// Asks for one thing after the other.
    Asking,
    /// Exchanges standard streams.
    Attached {
        request: AttachRequest,
        /// It has started the instance and must not miss a byte; the instance waits for it.
        is_foreground: bool,
    },
    /// Has the streams of an exec.
    Session(u32),
    /// Is to be told when it has come to that.
    Waiting(WaitCondition),
    /// Has it stand still for as long as it is connected.
    Holding,
    /// Is to be told when it has stopped.
    Stopping,
    /// Is to be told when it runs again.
    Restarting,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    socket: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
    pub(super) role: Role,
    /// Nothing is taken from it until standard input has room again.
    pub(super) is_held: bool,
    /// It will be hung up on when it has received everything, at the latest then.
    pub(super) closing: Option<Instant>,
    pub(super) since: Instant,
    /// What the poller was told.
    pub(super) interest: Interest,
}

impl Client {
    pub(super) fn new(socket: UnixStream) -> io::Result<Client> {
        socket.set_nonblocking(true)?;
        Ok(Client {
            socket,
            decoder: Decoder::default(),
            out: Vec::new(),
            sent: 0,
            role: Role::New,
            is_held: false,
            closing: None,
            since: Instant::now(),
            interest: Interest::READ,
        })
    }

    pub(super) fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// Bytes that it has not received yet.
    pub(super) fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Asks faster than it receives the answers: it has to wait.
    pub(super) fn is_flooding(&self) -> bool {
        matches!(self.role, Role::New | Role::Asking) && self.pending() > ANSWERS_LIMIT
    }

    pub(super) fn wanted(&self) -> Interest {
        Interest {
            read: !self.is_held && !self.is_flooding() && self.closing.is_none(),
            write: self.pending() > 0,
        }
    }

    /// Reads what has arrived into the decoder; false when it has hung up.
    pub(super) fn fill(&mut self) -> bool {
        let mut bytes = [0; 8192];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    self.decoder.feed(&bytes[..count]);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Sends a whole frame, or keeps what does not fit for later.
    pub(super) fn send(&mut self, frame: &[u8]) {
        if self.closing.is_none() {
            self.send_pieces(&[], frame);
        }
    }

    /// Sends a piece of a stream, cut into frames.
    pub(super) fn send_stream(&mut self, kind: u8, bytes: &[u8]) {
        if self.closing.is_some() {
            return;
        }
        for piece in bytes.chunks(MAX_STREAM_PAYLOAD) {
            let length = piece.len();
            self.send_pieces(&Header { kind, length }.encode(), piece);
        }
    }

    fn send_pieces(&mut self, header: &[u8], payload: &[u8]) {
        let mut done = 0;
        if self.pending() == 0 {
            let pieces = [IoSlice::new(header), IoSlice::new(payload)];
            done = match rustix::io::writev(&self.socket, &pieces) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                // It has hung up; the poller will say so too.
                Err(_) => header.len() + payload.len(),
            };
        }
        let header_done = done.min(header.len());
        self.out.extend_from_slice(&header[header_done..]);
        self.out.extend_from_slice(&payload[done - header_done..]);
    }

    /// Sends a frame together with descriptors. Only when nothing else is on its way.
    pub(super) fn send_with(&mut self, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        debug_assert!(self.pending() == 0 && frame.len() > HEADER);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let pieces = [IoSlice::new(frame)];
        let done = sendmsg(&self.socket, &pieces, &mut ancillary, SendFlags::NOSIGNAL)?;
        self.out.extend_from_slice(&frame[done..]);
        Ok(())
    }

    /// Sends what is waiting, as far as it goes; false when it has hung up.
    pub(super) fn flush(&mut self) -> bool {
        while self.pending() > 0 {
            match rustix::io::write(&self.socket, &self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        if self.pending() == 0 {
            self.out = Vec::new();
            self.sent = 0;
        } else if self.sent > FOREGROUND_LOW {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        true
    }

    /// Nothing more is said to it than what is on its way already.
    pub(super) fn close_after_flush(&mut self, patience: Option<Duration>) {
        let far = Duration::from_secs(365 * 24 * 3600);
        let patience = patience.unwrap_or(far);
        self.closing.get_or_insert(Instant::now() + patience);
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
