//! A terminal of the host whose other end is in the guest: a pair, of which the engine has the master, and what stands for
//! the guest's master beside the slave.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use super::wire::Size;

/// Makes a pair: master and slave. The slave carries bytes as they are: the guest's terminal is one already.
pub(super) fn pair(size: Option<Size>) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(&slave)?;
    modes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    if let Some((rows, columns)) = size {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size)?;
    }
    Ok((master, slave))
}

/// The size that the engine has given a terminal.
pub(super) fn size(slave: impl AsFd) -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(slave).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Makes it the terminal of this process, which hears (`SIGWINCH`) when its size changes.
pub(super) fn take(slave: impl AsFd) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(slave)?;
    Ok(())
}

/// Carries bytes both ways in the background, until it is stopped.
#[derive(Debug)]
pub(super) struct Relay {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Relay {
    pub(super) fn start(slave: OwnedFd, guest: OwnedFd) -> io::Result<Relay> {
        for fd in [&slave, &guest] {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = std::thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(move || carry(slave.as_fd(), guest.as_fd(), stopped.as_fd()))?;
        Ok(Relay { stop, thread })
    }

    /// Passes on what the guest has said until now.
    pub(super) fn finish(self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}

/// Bytes on their way in one direction.
#[derive(Default)]
struct Way {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Way {
    fn read(&mut self, from: BorrowedFd<'_>) {
        let mut buffer = [0; 8192];
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => self.is_over = true,
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.is_over = true,
        }
    }

    fn write(&mut self, to: BorrowedFd<'_>) {
        match rustix::io::write(to, &self.bytes) {
            Ok(count) => drop(self.bytes.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.bytes.clear();
                self.is_over = true;
            }
        }
    }

    fn wants_more(&self) -> bool {
        !self.is_over && self.bytes.is_empty()
    }
}

fn carry(slave: BorrowedFd<'_>, guest: BorrowedFd<'_>, stop: BorrowedFd<'_>) {
    let (mut input, mut output) = (Way::default(), Way::default());
    let mut is_stopped = false;
    let mut is_input_closed = false;
    loop {
        if input.is_over && input.bytes.is_empty() && !is_input_closed {
            // Who lets the terminal go.
            is_input_closed = true;
            let _ = rustix::net::shutdown(guest, rustix::net::Shutdown::Write);
        }
        if output.is_over && output.bytes.is_empty() {
            return;
        }
        let mut of_slave = PollFlags::empty();
        let mut of_guest = PollFlags::empty();
        of_slave.set(PollFlags::IN, input.wants_more() && !is_stopped);
        of_slave.set(PollFlags::OUT, !output.bytes.is_empty());
        of_guest.set(PollFlags::IN, output.wants_more());
        of_guest.set(PollFlags::OUT, !input.bytes.is_empty());
        // Nothing asked: a hang-up would be told again and again.
        let mut fds = Vec::with_capacity(3);
        fds.push(PollFd::from_borrowed_fd(
            stop,
            if is_stopped {
                PollFlags::empty()
            } else {
                PollFlags::IN
            },
        ));
        for (fd, flags) in [(slave, of_slave), (guest, of_guest)] {
            if !flags.is_empty() {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        // What waits to be read by the engine is waited for; what the guest has not said is not.
        let now = rustix::event::Timespec::default();
        let timeout = (is_stopped && output.bytes.is_empty()).then_some(&now);
        match poll(&mut fds, timeout) {
            Ok(0) if is_stopped => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        is_stopped |= fds[0].revents().contains(PollFlags::IN);
        if !input.bytes.is_empty() {
            input.write(guest);
        } else if of_slave.contains(PollFlags::IN) {
            input.read(slave);
        }
        if !output.bytes.is_empty() {
            output.write(slave);
        } else if of_guest.contains(PollFlags::IN) {
            output.read(guest);
        }
    }
}
