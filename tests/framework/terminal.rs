//! A program on a terminal of its own, and somebody who types and reads.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::PATIENCE;

/// The far end of a terminal.
#[derive(Debug)]
pub struct Terminal {
    text: String,
    child: Child,
    master: OwnedFd,
    /// Kept open, so that the terminal's settings can be asked for after the program has ended.
    slave: OwnedFd,
    transcript: String,
    /// Where in the transcript the next [`Terminal::expect`] begins.
    seen: usize,
}

impl Terminal {
    pub(crate) fn spawn(command: &Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("the host has pseudoterminals");
        grantpt(&master).expect("our own terminal");
        unlockpt(&master).expect("our own terminal");
        let name = ptsname(&master, Vec::new()).expect("our own terminal");
        let slave = rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .expect("our own terminal");
        let end = || Stdio::from(slave.try_clone().expect("descriptors are left"));
        // setsid(1) makes its standard input the controlling terminal, then becomes the program.
        let mut wrapper = Command::new("setsid");
        wrapper.arg("--ctty").arg(command.get_program());
        wrapper.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapper.env(name, value),
                None => wrapper.env_remove(name),
            };
        }
        wrapper.env("TERM", "xterm");
        let mut text = String::new();
        for argument in command.get_args() {
            let _ = write!(text, " {}", argument.to_string_lossy());
        }
        let child = wrapper
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid(1) is part of every Debian");
        let terminal = Terminal {
            text,
            child,
            master,
            slave,
            transcript: String::new(),
            seen: 0,
        };
        terminal.resize(24, 80);
        terminal
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn send(&self, text: &str) {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let count = rustix::io::write(&self.master, bytes).expect("the terminal is there");
            bytes = &bytes[count..];
        }
    }

    /// Changes the size of the window.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).expect("our own terminal");
    }

    /// Reads until this text appears, after what was expected before.
    ///
    /// # Panics
    /// When it does not appear.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.transcript[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "no {text:?} on the terminal of `isle{}`; it shows: {:?}",
                self.text,
                self.transcript
            );
            self.read(Duration::from_millis(50));
        }
    }

    /// Everything that has appeared.
    #[must_use]
    pub fn transcript(&mut self) -> &str {
        while self.read(Duration::ZERO) {}
        &self.transcript
    }

    fn read(&mut self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let timeout = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        if poll(&mut fds, Some(&timeout)).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        match rustix::io::read(self.master.as_fd(), &mut buffer) {
            Ok(count) if count > 0 => {
                let text = String::from_utf8_lossy(&buffer[..count]);
                self.transcript.push_str(&text);
                true
            }
            _ => false,
        }
    }

    /// Whether typed keys go to the program at once, without echo. A program must leave the
    /// terminal as it found it.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave)
            .expect("our own terminal")
            .local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO)
    }

    /// The pid of the program.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    /// Waits for the end of the program; its exit code.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                while self.read(Duration::ZERO) {}
                return status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!(
                    "`isle{}` does not end; its terminal shows {:?}",
                    self.text, self.transcript
                );
            }
            self.read(Duration::from_millis(20));
        }
    }
}
