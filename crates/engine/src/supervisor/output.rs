//! What the instance says goes to its log and to those who are attached; what they say goes to
//! it.
//!
//! Nobody but the foreground client of `run` can make the instance wait: it gets every byte, so
//! when it has [`FOREGROUND_HIGH`] bytes to receive, the instance's output is left where it is
//! until it has received most of them. Every other client that lags is given up.

use std::collections::BTreeMap;
use std::io;

use jiff::Timestamp;

use super::client::{ATTACHED_LIMIT, Client, FOREGROUND_HIGH, FOREGROUND_LOW, PATIENCE, Role};
use super::owner::Supervisor;
use super::poller::{Interest, Token};
use super::streams::{Got, read};
use crate::log::{Stream, Writer};
use crate::protocol::{Cause, Failed, answer, kind};

/// One read.
const PIECE: usize = 64 << 10;
/// So many reads before others have their turn.
const PIECES_AT_ONCE: usize = 8;
/// The most that is read after the end: what fits into the largest pipe of an unprivileged user.
const LEFT_BEHIND: usize = 1 << 20;

impl Supervisor {
    /// Reads output that is there.
    pub(super) fn read_output(&mut self, token: Token) {
        for _ in 0..PIECES_AT_ONCE {
            if self.is_flow_stopped || !self.read_piece(token) {
                return;
            }
        }
    }

    /// Reads what a process that has ended has left behind.
    pub(super) fn drain_output(&mut self) {
        for token in [Token::Stdout, Token::Stderr] {
            // Others may hold the stream and write without end.
            for _ in 0..LEFT_BEHIND / PIECE {
                if !self.read_piece(token) {
                    break;
                }
            }
        }
        if let Some(log) = &mut self.log {
            let result = log.end_lines(Timestamp::now());
            self.complain_about_log(result);
        }
    }

    /// False when nothing more is there.
    fn read_piece(&mut self, token: Token) -> bool {
        let Some(run) = &mut self.run else {
            return false;
        };
        let (source, stream) = match token {
            Token::Stderr => (&mut run.stderr, Stream::Stderr),
            _ => (&mut run.stdout, Stream::Stdout),
        };
        let Some(fd) = source else { return false };
        if self.buffer.is_empty() {
            self.buffer = vec![0; PIECE];
            self.tidy_at.get_or_insert_with(|| {
                // `disturbed` for its own sake would move the time further with each piece.
                std::time::Instant::now() + std::time::Duration::from_secs(1)
            });
        }
        match read(&*fd, &mut self.buffer) {
            Got::Nothing => false,
            Got::End => {
                if let Some(fd) = source.take() {
                    self.poller.remove(fd);
                }
                false
            }
            Got::Bytes(count) => {
                let bytes = &self.buffer[..count];
                let result = deliver(&mut self.log, &mut self.clients, stream, bytes);
                self.complain_about_log(result);
                self.regulate();
                true
            }
        }
    }

    fn complain_about_log(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.complain("write the log", &error);
        }
    }

    /// Stops reading output when the foreground client has too much to receive, and goes on when
    /// it has received enough.
    pub(super) fn regulate(&mut self) {
        let most = self
            .clients
            .values()
            .filter(|client| {
                let is_foreground = matches!(
                    client.role,
                    Role::Attached {
                        is_foreground: true,
                        ..
                    }
                );
                is_foreground && client.closing.is_none()
            })
            .map(Client::pending)
            .max()
            .unwrap_or(0);
        let stop = match self.is_flow_stopped {
            true => most > FOREGROUND_LOW,
            false => most > FOREGROUND_HIGH,
        };
        if stop == self.is_flow_stopped {
            return;
        }
        self.is_flow_stopped = stop;
        let Some(run) = &self.run else { return };
        for (fd, token) in [(&run.stdout, Token::Stdout), (&run.stderr, Token::Stderr)] {
            let Some(fd) = fd else { continue };
            let result = match stop {
                // Not just without interest: a hang-up would be reported all the same.
                true => {
                    self.poller.remove(fd);
                    Ok(())
                }
                false => self.poller.add(fd, token, Interest::READ),
            };
            if let Err(error) = result {
                self.complain("watch its output", &error);
            }
        }
    }

    /// Hands on what clients have sent to standard input.
    pub(super) fn feed_stdin(&mut self) {
        let Some(run) = &mut self.run else { return };
        let closed = run.stdin.flush();
        if let (Some(closed), true) = (closed, run.stdin.is_watched) {
            self.poller.remove(closed);
            run.stdin.is_watched = false;
        }
        let is_waiting = run.stdin.is_waiting();
        if is_waiting != run.stdin.is_watched {
            let result = match (run.stdin.fd(), is_waiting) {
                (Some(fd), true) => self.poller.add(fd, Token::Stdin, Interest::WRITE),
                (Some(fd), false) => {
                    self.poller.remove(fd);
                    Ok(())
                }
                (None, _) => Ok(()),
            };
            run.stdin.is_watched = is_waiting;
            if let Err(error) = result {
                self.complain("watch its input", &error);
            }
        }
        self.release_senders();
    }
}

/// Gives one piece of output to all who are to have it.
fn deliver(
    log: &mut Option<Writer>,
    clients: &mut BTreeMap<u32, Client>,
    stream: Stream,
    bytes: &[u8],
) -> io::Result<()> {
    for client in clients.values_mut() {
        let Role::Attached {
            request,
            is_foreground,
        } = client.role
        else {
            continue;
        };
        let (is_wanted, kind) = match stream {
            Stream::Stdout => (request.stdout, kind::STDOUT),
            Stream::Stderr => (request.stderr, kind::STDERR),
        };
        if !is_wanted {
            continue;
        }
        client.send_stream(kind, bytes);
        if !is_foreground && client.pending() > ATTACHED_LIMIT {
            let failed = Failed {
                message: format!(
                    "detached: {} MiB of output were not received in time; `logs` has them",
                    ATTACHED_LIMIT >> 20
                ),
                exit_code: 1,
                cause: Cause::Failed,
            };
            client.send(&answer(kind::FAILED, &failed));
            client.close_after_flush(Some(PATIENCE));
        }
    }
    match log {
        Some(log) => log.write(stream, bytes, Timestamp::now()),
        None => Ok(()),
    }
}
