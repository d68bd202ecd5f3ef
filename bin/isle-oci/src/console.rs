//! Terminals: handing a master to the caller, or standing between it and the caller's own terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, bail};
use isle_runtime::Child;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::{OptionalActions, Termios, Winsize};

/// Sends the master to `--console-socket`, as runc does: its name as data, the descriptor beside.
pub(crate) fn send(socket: &Path, master: &OwnedFd) -> anyhow::Result<()> {
    let fail = || format!("cannot send the terminal to {}", socket.display());
    let stream = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .with_context(fail)?;
    let address = SocketAddrUnix::new(socket).with_context(fail)?;
    rustix::net::connect(&stream, &address).with_context(fail)?;
    isle_runtime::send_descriptor(&stream, b"/dev/ptmx", master).with_context(fail)
}

/// What a container with a terminal needs from its caller, checked before anything is made.
pub(crate) fn check(
    terminal: bool,
    socket: Option<&Path>,
    is_foreground: bool,
) -> anyhow::Result<()> {
    match (terminal, socket, is_foreground) {
        (true, None, false) => bail!(
            "the process wants a terminal: give --console-socket, or set process.terminal to false"
        ),
        (false, Some(_), _) => bail!(
            "--console-socket is given, but the process has no terminal: set process.terminal to \
             true, or leave the flag out"
        ),
        _ => Ok(()),
    }
}

/// Rows and columns of our own terminal.
pub(crate) fn own_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdin()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// The caller's terminal in raw mode; as it was again when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Raw {
        let stdin = io::stdin();
        let Ok(before) = rustix::termios::tcgetattr(&stdin) else {
            return Raw(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        match rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw) {
            Ok(()) => Raw(Some(before)),
            Err(_) => Raw(None),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Copies what can be read at once; false: there will be no more.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<bool> {
    let mut buffer = [0_u8; 8192];
    let count = match rustix::io::read(from, &mut buffer) {
        // a master says so when the last slave is closed
        Err(rustix::io::Errno::IO) | Ok(0) => return Ok(false),
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(true),
        other => other?,
    };
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}

/// Stands between our terminal and the container's until its process ends. The size of our terminal
/// is followed by looking at it: twice a second costs nothing and needs no signal handler.
pub(crate) fn relay(child: &Child, master: &OwnedFd) -> io::Result<()> {
    let _raw = Raw::new();
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut reads_stdin = true;
    let mut size = None;
    let tick = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 500_000_000,
    };
    loop {
        if let Some(now) = own_size()
            && size != Some(now)
        {
            size = Some(now);
            let _ = rustix::termios::tcsetwinsize(
                master,
                Winsize {
                    ws_row: now.0,
                    ws_col: now.1,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                },
            );
        }
        let mut events = vec![
            PollFd::new(&child.pidfd, PollFlags::IN),
            PollFd::new(master, PollFlags::IN),
        ];
        if reads_stdin {
            events.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut events, Some(&tick)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = events.iter().map(|e| !e.revents().is_empty()).collect();
        if ready[1] && !copy(master.as_fd(), stdout.as_fd())? {
            break;
        }
        if ready.get(2) == Some(&true) {
            reads_stdin = copy(stdin.as_fd(), master.as_fd())?;
        }
        if ready[0] && !ready[1] {
            break;
        }
    }
    Ok(())
}
