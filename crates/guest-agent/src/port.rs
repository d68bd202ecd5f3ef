//! The agent's end of the port: bytes in, frames out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use isle_guest_protocol::frame::{self, Inbox, kind};
use isle_guest_protocol::{Assembly, MAX_REQUEST, encode};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Bytes that wait for the port before streams have to wait too.
const OUTBOX_LIMIT: usize = 64 << 10;

/// The port.
pub(crate) struct Port {
    fd: OwnedFd,
    inbox: Inbox,
    outbox: Vec<u8>,
    written: usize,
    pub(crate) requests: Assembly,
    /// Nothing is said before a host end has said hello.
    pub(crate) is_greeted: bool,
}

impl Port {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Port> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Port {
            fd,
            inbox: Inbox::default(),
            outbox: Vec::with_capacity(2 * OUTBOX_LIMIT),
            written: 0,
            requests: Assembly::new(MAX_REQUEST),
            is_greeted: false,
        })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A new host end: what was to be said to the old one is void.
    pub(crate) fn greet(&mut self) {
        self.outbox.clear();
        self.written = 0;
        self.requests.reset();
        self.is_greeted = true;
    }

    /// Raw bytes, without a frame.
    pub(crate) fn put_raw(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    /// Queues a message.
    pub(crate) fn put<T: serde::Serialize>(&mut self, kind: u8, id: u32, message: &T) {
        if self.is_greeted {
            frame::put(&mut self.outbox, kind, id, &encode(message));
        }
    }

    /// Whether pieces of streams may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.is_greeted && self.outbox.len() - self.written < OUTBOX_LIMIT
    }

    /// Queues a piece of a stream.
    pub(crate) fn put_piece(&mut self, is_stderr: bool, task: u32, offset: u64, piece: &[u8]) {
        let kind = match is_stderr {
            true => kind::STDERR,
            false => kind::STDOUT,
        };
        frame::put_piece(&mut self.outbox, kind, task, offset, piece);
    }

    /// Takes what frames are read from; to be given back.
    pub(crate) fn take_inbox(&mut self) -> Inbox {
        std::mem::take(&mut self.inbox)
    }

    pub(crate) fn give_inbox(&mut self, inbox: Inbox) {
        self.inbox = inbox;
    }

    /// Reads what has come, as much as fits. `false`: there is nothing more.
    pub(crate) fn read(&self, inbox: &mut Inbox) -> bool {
        let room = inbox.room().min(32 << 10);
        let tail = inbox.tail();
        tail.reserve(room);
        loop {
            let space = rustix::buffer::spare_capacity(tail);
            return match rustix::io::read(&self.fd, space) {
                // Nobody is at the other end; somebody may come.
                Ok(0) => false,
                Ok(_) => true,
                Err(Errno::INTR) => continue,
                // Nothing there; or the port is gone, and then nothing comes any more.
                Err(_) => false,
            };
        }
    }

    /// Writes what the port takes.
    pub(crate) fn write(&mut self) {
        while self.written < self.outbox.len() {
            match rustix::io::write(&self.fd, &self.outbox[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if self.written == self.outbox.len() {
            self.outbox.clear();
            self.written = 0;
        } else if self.written > OUTBOX_LIMIT {
            self.outbox.drain(..self.written);
            self.written = 0;
        }
    }

    /// Whether something waits to be written.
    pub(crate) fn is_waiting(&self) -> bool {
        self.written < self.outbox.len()
    }
}
