//! The process that stands in for a container on the host, and the one that stands in for a further process of it: what
//! the engine waits for, signals, and finds namespaces and files by. They only pass on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};

use super::terminal::{self, Relay};
use super::wire::{self, Answer, Request};

/// The exit code when whoever holds the machine has gone without a word.
const LOST: u8 = 255;

/// All signals that somebody may send on purpose.
pub(super) fn all_signals() -> io::Result<OwnedFd> {
    // Those of the kernel about this process itself (SIGILL, SIGSEGV, …) are as they are; 9, 19 and 32 to 34 cannot be had.
    let mut numbers = vec![1, 2, 3, 6, 10, 12, 13, 14, 15, 16, 17, 18];
    numbers.extend(20..=31);
    numbers.extend(35..=64);
    isle_sys::signals::divert(&numbers)
}

/// The signals that have come.
pub(super) fn come(signals: BorrowedFd<'_>) -> Vec<i32> {
    // struct signalfd_siginfo: 128 bytes that begin with the number.
    let mut buffer = [0; 128 * 8];
    let count = rustix::io::read(signals, &mut buffer).unwrap_or(0);
    buffer[..count]
        .chunks_exact(128)
        .map(|one| i32::from_ne_bytes([one[0], one[1], one[2], one[3]]))
        .collect()
}

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;

/// The container's own: standard input is the socket of whoever holds the machine.
pub(super) fn container() -> ExitCode {
    let _ = rustix::thread::set_name(c"isle-stand-in");
    let stdin = io::stdin();
    let Ok(signals) = all_signals() else {
        return ExitCode::from(LOST);
    };
    pass_on(stdin.as_fd(), signals.as_fd(), &mut |_| {})
}

/// A further process's: the connection, and for one with a terminal that and what stands for the guest's.
pub(super) fn further(
    connection: BorrowedFd<'_>,
    terminal: Option<(OwnedFd, OwnedFd)>,
) -> ExitCode {
    let run = || -> io::Result<ExitCode> {
        let signals = all_signals()?;
        let Some((slave, guest)) = terminal else {
            return Ok(pass_on(connection, signals.as_fd(), &mut |_| {}));
        };
        let kept = slave.try_clone()?;
        let _ = terminal::take(&slave);
        let relay = Relay::start(slave, guest)?;
        let mut resized = |socket: BorrowedFd<'_>| {
            if let Some(size) = terminal::size(&kept) {
                let _ = wire::send(socket, &Request::Resize { size }, &[]);
            }
        };
        resized(connection);
        let code = pass_on(connection, signals.as_fd(), &mut resized);
        relay.finish();
        Ok(code)
    };
    run().unwrap_or(ExitCode::from(LOST))
}

fn pass_on(
    socket: BorrowedFd<'_>,
    signals: BorrowedFd<'_>,
    resized: &mut dyn FnMut(BorrowedFd<'_>),
) -> ExitCode {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(socket, PollFlags::IN),
            PollFd::from_borrowed_fd(signals, PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[1].revents().is_empty() {
            for signal in come(signals) {
                match signal {
                    SIGCHLD => {}
                    SIGWINCH => resized(socket),
                    signal => drop(wire::send(socket, &Request::Signal { signal }, &[])),
                }
            }
        }
        if !fds[0].revents().is_empty() {
            return match wire::receive(socket) {
                Ok(Some((Answer::Ended { code }, _))) => ExitCode::from(code),
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => ExitCode::from(LOST),
            };
        }
    }
}
