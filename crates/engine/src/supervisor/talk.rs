//! What clients ask for, and what they are told.

use std::io;
use std::os::fd::AsFd;

use isle_types::Signal;
use rustix::net::sockopt::socket_peercred;

use super::client::{Client, PATIENCE, Role};
use super::ledger::{Note, chain};
use super::owner::{MOST_CLIENTS, Supervisor};
use super::poller::{Ready, Token};
use crate::AttachRequest;
use crate::backend::inside::{Answer, Carry, Question};
use crate::protocol::{
    Attached, Cause, Failed, MAX_PAYLOAD, ProtocolError, Request, Stop, Update, answer, kind, put,
    stats_frame,
};
use crate::session::WindowSize;
use crate::state::{Status, StatusEvent};

/// Why a request cannot be met.
struct Refusal {
    message: String,
    cause: Cause,
}

fn refusal(cause: Cause, message: impl Into<String>) -> Refusal {
    Refusal {
        message: message.into(),
        cause,
    }
}

fn not_running() -> Refusal {
    refusal(Cause::NotRunning, "the instance does not run")
}

impl Supervisor {
    /// Takes in new clients.
    pub(super) fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.complain("accept a client", &error);
                    return;
                }
            };
            let is_trusted = socket_peercred(&socket)
                .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
            // Too many, or a stranger: hung up on.
            if !is_trusted || self.clients.len() >= MOST_CLIENTS {
                continue;
            }
            if let Ok(client) = Client::new(socket) {
                let number = self.number();
                self.admit(number, client);
            }
        }
    }

    /// Serves a client from now on.
    pub(super) fn admit(&mut self, number: u32, mut client: Client) {
        client.interest = client.wanted();
        let added = self
            .poller
            .add(&client, Token::Client(number), client.interest);
        match added {
            Ok(()) => drop(self.clients.insert(number, client)),
            Err(error) => self.complain("watch a client", &error),
        }
    }

    /// A client has sent something, takes more, or has hung up.
    pub(super) fn serve(&mut self, number: u32, ready: Ready) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        if ready.is_writable {
            if !client.flush() {
                self.dismiss(number);
                return;
            }
            // It may have asked for more before it had to wait.
            self.serve_requests(number);
        }
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        if ready.is_readable {
            let wants = client.wanted().read;
            if wants && client.fill() {
                self.serve_requests(number);
            } else if wants || client.pending() == 0 {
                // Hung up, or broken while we did not listen.
                self.dismiss(number);
                return;
            }
        }
        self.regulate();
    }

    /// Meets the requests that have arrived completely.
    fn serve_requests(&mut self, number: u32) {
        loop {
            let Some(client) = self.clients.get_mut(&number) else {
                return;
            };
            if !client.wanted().read {
                return;
            }
            match client.decoder().next() {
                Ok(Some(request)) => self.meet(number, request),
                Ok(None) => return,
                Err(error) => self.end_conversation(number, &error),
            }
        }
    }

    fn end_conversation(&mut self, number: u32, error: &ProtocolError) {
        let failed = Failed {
            message: chain(error),
            exit_code: 125,
            cause: Cause::Failed,
        };
        if let Some(client) = self.clients.get_mut(&number) {
            client.send(&answer(kind::FAILED, &failed));
            client.close_after_flush(Some(PATIENCE));
        }
    }

    /// A client has gone: nothing else changes, but for what hangs on it alone.
    pub(super) fn dismiss(&mut self, number: u32) {
        let Some(client) = self.clients.remove(&number) else {
            return;
        };
        self.poller.remove(&client);
        match client.role {
            Role::Session(session) => self.abandon_session(session),
            Role::Attached { request, .. } if request.stdin => {
                self.end_stdin();
            }
            Role::Holding => {
                if let Err(refusal) = self.let_go() {
                    self.complain("thaw it", &refusal.message);
                }
            }
            _ => {}
        }
        self.regulate();
    }

    /// Sends what clients are to receive, hangs up on those that are through, and keeps the
    /// poller's view of them right.
    pub(super) fn tend_clients(&mut self) {
        let now = std::time::Instant::now();
        let is_over = self.over_since.is_some();
        let mut through = Vec::new();
        for (number, client) in &mut self.clients {
            let is_alive = client.pending() == 0 || client.flush();
            let has_all = client.pending() == 0;
            let is_late = match client.closing {
                Some(at) => at <= now,
                None => client.role == Role::New && client.since + PATIENCE <= now,
            };
            let is_through = has_all && client.closing.is_some();
            let is_idle = is_over && has_all && !matches!(client.role, Role::Session(_));
            if !is_alive || is_late || is_through || is_idle {
                through.push(*number);
                continue;
            }
            let wanted = client.wanted();
            if wanted != client.interest {
                client.interest = wanted;
                let _ = self.poller.modify(&*client, Token::Client(*number), wanted);
            }
        }
        for number in through {
            self.dismiss(number);
        }
        self.regulate();
    }

    /// Standard input has room again: senders may go on.
    pub(super) fn release_senders(&mut self) {
        let is_full = self.run.as_ref().is_some_and(|run| run.stdin.is_full());
        if is_full {
            return;
        }
        let held: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, client)| client.is_held)
            .map(|(number, _)| *number)
            .collect();
        for number in held {
            if let Some(client) = self.clients.get_mut(&number) {
                client.is_held = false;
            }
            self.serve_requests(number);
        }
    }

    fn meet(&mut self, number: u32, request: Request) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        if client.role == Role::New {
            client.role = Role::Asking;
        }
        let role = client.role;
        let result = match (role, request) {
            (Role::Attached { request, .. }, Request::Stdin(bytes)) => {
                if request.stdin {
                    self.take_stdin(number, &bytes);
                }
                return;
            }
            (Role::Attached { request, .. }, Request::CloseStdin) => {
                if request.stdin {
                    self.end_stdin();
                }
                return;
            }
            (Role::Attached { .. }, Request::Resize(size)) => {
                let _ = self.resize(size);
                return;
            }
            (Role::Attached { .. }, Request::Signal(signal)) => {
                let _ = self.signal(signal);
                return;
            }
            (Role::Session(session), Request::Signal(signal)) => {
                self.signal_session(session, signal);
                return;
            }
            (Role::Session(session), Request::Resize(size)) => {
                self.resize_session(session, size);
                return;
            }
            (Role::Asking, Request::Attach(request)) => self.attach(number, request),
            (Role::Asking, Request::Exec(exec)) => match self.must_run() {
                Ok(()) => {
                    self.exec(number, &exec);
                    return;
                }
                Err(refusal) => Err(refusal),
            },
            (Role::Asking, Request::Ask(question)) => self.ask_inside(&question),
            (Role::Asking, Request::Carry(what)) => match self.carry(number, &what) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            (Role::Asking, Request::Signal(signal)) => self.signal(signal).map(|()| done()),
            (Role::Asking, Request::Stop(stop)) => {
                self.stop(number, stop);
                return;
            }
            (Role::Asking, Request::Restart(stop)) => {
                self.restart(number, stop);
                return;
            }
            (Role::Asking, Request::Pause) => self.pause().map(|()| done()),
            (Role::Asking, Request::Resume) => self.resume().map(|()| done()),
            (Role::Asking, Request::Hold) => self.hold(number).map(|()| done()),
            (Role::Holding, Request::Resume) => {
                self.role(number, Role::Asking);
                self.let_go().map(|()| done())
            }
            (Role::Asking, Request::Update(update)) => self.update(&update).map(|()| done()),
            (Role::Asking, Request::Networks(networks)) => self
                .change_networks(&networks)
                .map(|()| done())
                .map_err(|error| refusal(Cause::Failed, error.message)),
            (Role::Asking, Request::Stats) => self.stats(),
            (Role::Asking, Request::Resize(size)) => self.resize(size).map(|()| done()),
            (Role::Asking, Request::Wait(condition)) => {
                self.role(number, Role::Waiting(condition));
                return;
            }
            (_, request) => Err(refusal(
                Cause::Failed,
                format!(
                    "a frame of kind {} does not fit into this conversation",
                    request.encode()[2]
                ),
            )),
        };
        let frame = match result {
            Ok(frame) => frame,
            Err(refusal) => answer(
                kind::FAILED,
                &Failed {
                    message: refusal.message,
                    exit_code: 1,
                    cause: refusal.cause,
                },
            ),
        };
        if let Some(client) = self.clients.get_mut(&number) {
            client.send(&frame);
        }
    }

    fn role(&mut self, number: u32, role: Role) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.role = role;
        }
    }

    fn must_run(&self) -> Result<(), Refusal> {
        match (&self.run, self.state.status) {
            (Some(_), Status::Paused) => Err(refusal(
                Cause::Paused,
                "the instance is paused; unpause it first",
            )),
            (Some(_), _) => Ok(()),
            (None, _) => Err(not_running()),
        }
    }

    fn attach(&mut self, number: u32, request: AttachRequest) -> Result<Vec<u8>, Refusal> {
        self.must_run()?;
        let mut logged_until = None;
        if let (true, Some(log)) = (request.replay_log, &mut self.log) {
            // What waits for its line end is to be replayed too.
            let _ = log.end_lines(jiff::Timestamp::now());
            logged_until = log.newest();
        }
        let is_foreground = false;
        self.role(
            number,
            Role::Attached {
                request,
                is_foreground,
            },
        );
        self.note(Note::new("attach"));
        Ok(answer(kind::ATTACHED, &Attached { logged_until }))
    }

    /// Its sender has ended standard input, or has gone: so has the input, unless it is kept for
    /// later clients.
    fn end_stdin(&mut self) {
        match &mut self.run {
            Some(run) if run.stdin_once => run.stdin.close(),
            _ => return,
        }
        self.feed_stdin();
    }

    fn take_stdin(&mut self, number: u32, bytes: &[u8]) {
        let Some(run) = &mut self.run else { return };
        run.stdin.push(bytes);
        self.feed_stdin();
        let is_full = self.run.as_ref().is_some_and(|run| run.stdin.is_full());
        if let (true, Some(client)) = (is_full, self.clients.get_mut(&number)) {
            client.is_held = true;
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Refusal> {
        let Some(run) = &self.run else {
            return Err(not_running());
        };
        // What ends it by the user's wish is not undone by the restart policy, as with Docker.
        let is_end = signal == Signal::KILL || signal == self.settings.stop_signal;
        self.backend
            .signal(&run.process, signal)
            .map_err(|error| refusal(Cause::Failed, format!("cannot send {signal}: {error}")))?;
        if is_end {
            self.state.is_stopped_by_user = true;
        }
        if signal == Signal::KILL && self.is_paused() {
            // Frozen processes die only when they are thawed.
            let _ = self.resume();
        }
        let note = Note::new("kill").with("signal", signal.number());
        match is_end {
            // Written with the end that follows.
            true => self.notes.push(note),
            false => self.note(note),
        }
        Ok(())
    }

    fn stop(&mut self, number: u32, stop: Stop) {
        self.role(number, Role::Stopping);
        self.state.is_stopped_by_user = true;
        self.start_again = false;
        if self.restart_at.is_some() {
            self.cancel_restart();
            return;
        }
        self.begin_stop(
            stop.signal.unwrap_or(self.settings.stop_signal),
            stop.timeout.unwrap_or(self.settings.stop_timeout),
        );
    }

    fn restart(&mut self, number: u32, stop: Stop) {
        self.role(number, Role::Restarting);
        if self.restart_at.is_some() {
            self.restart_at = Some(std::time::Instant::now());
            return;
        }
        self.start_again = true;
        self.begin_stop(
            stop.signal.unwrap_or(self.settings.stop_signal),
            stop.timeout.unwrap_or(self.settings.stop_timeout),
        );
    }

    fn pause(&mut self) -> Result<(), Refusal> {
        self.run.as_ref().ok_or_else(not_running)?;
        let next = self
            .state
            .status
            .next(StatusEvent::Pause)
            .map_err(|_| refusal(Cause::Paused, "the instance is paused already"))?;
        self.backend
            .pause()
            .map_err(|error| refusal(Cause::Failed, format!("cannot freeze it: {error}")))?;
        self.state.status = next;
        self.notes.push(Note::new("pause"));
        self.save();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Refusal> {
        self.run.as_ref().ok_or_else(not_running)?;
        let next = self
            .state
            .status
            .next(StatusEvent::Resume)
            .map_err(|_| refusal(Cause::NotPaused, "the instance is not paused"))?;
        self.backend
            .resume()
            .map_err(|error| refusal(Cause::Failed, format!("cannot thaw it: {error}")))?;
        self.state.status = next;
        self.notes.push(Note::new("unpause"));
        self.save();
        Ok(())
    }

    /// Pauses it until this client, and all others who hold it, let go or hang up: a client that is
    /// killed leaves nothing frozen.
    fn hold(&mut self, number: u32) -> Result<(), Refusal> {
        if !(self.is_held() && self.is_paused()) {
            self.pause()?;
        }
        self.role(number, Role::Holding);
        Ok(())
    }

    fn is_held(&self) -> bool {
        let mut clients = self.clients.values();
        clients.any(|client| client.role == Role::Holding)
    }

    /// One who held it holds it no more.
    fn let_go(&mut self) -> Result<(), Refusal> {
        match self.is_held() || !self.is_paused() {
            true => Ok(()),
            false => self.resume(),
        }
    }

    fn update(&mut self, update: &Update) -> Result<(), Refusal> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            refusal(Cause::Failed, format!("cannot {what}: {error}"))
        };
        if self.run.is_some() {
            self.backend
                .update(&update.resources)
                .map_err(|error| failed("change the limits", &error))?;
        }
        self.disturbed();
        self.ledger
            .update(&update.resources, update.restart)
            .map_err(|error| failed("write the new limits", &error))?;
        if let Some(restart) = update.restart {
            self.settings.restart = restart;
        }
        Ok(())
    }

    fn stats(&mut self) -> Result<Vec<u8>, Refusal> {
        self.run.as_ref().ok_or_else(not_running)?;
        let stats = self.backend.stats();
        stats
            .map(|stats| stats_frame(&stats))
            .map_err(|error| refusal(Cause::Failed, format!("cannot read its use: {error}")))
    }

    /// What its level says of its files and processes.
    fn ask_inside(&mut self, question: &Question) -> Result<Vec<u8>, Refusal> {
        self.must_run()?;
        self.disturbed();
        let Some(mut inside) = self.backend.inside() else {
            let reason = "the host itself sees the files of this instance";
            return Err(refusal(Cause::Unsupported, reason));
        };
        let answer = inside.ask(question);
        let answer = answer.map_err(|error| inside_refused(&error))?;
        Ok(answer_in_parts(&answer))
    }

    fn carry(&mut self, number: u32, what: &Carry) -> Result<(), Refusal> {
        self.must_run()?;
        self.begin_carrying(number, what)
            .map_err(|error| inside_refused(&error))
    }

    fn resize(&mut self, size: WindowSize) -> Result<(), Refusal> {
        let run = self.run.as_ref().ok_or_else(not_running)?;
        let terminal = run
            .terminal
            .as_ref()
            .ok_or_else(|| refusal(Cause::Failed, "the instance has no terminal"))?;
        self.backend
            .resize(&run.process, terminal.as_fd(), size)
            .map_err(|error| refusal(Cause::Failed, format!("cannot resize: {error}")))
    }
}

fn inside_refused(error: &io::Error) -> Refusal {
    let cause = match error.kind() {
        io::ErrorKind::NotFound => Cause::NoSuchPath,
        io::ErrorKind::NotADirectory => Cause::NotADirectory,
        _ => Cause::Failed,
    };
    refusal(cause, chain(error))
}

/// An answer that may be longer than a frame.
fn answer_in_parts(answer: &Answer) -> Vec<u8> {
    let text = serde_json::to_vec(answer).expect("answers have string keys only");
    let mut frames = Vec::new();
    let mut rest = text.as_slice();
    while let Some((part, after)) = rest.split_at_checked(MAX_PAYLOAD) {
        put(&mut frames, kind::PART, part);
        rest = after;
    }
    put(&mut frames, kind::ANSWERED, rest);
    frames
}

fn done() -> Vec<u8> {
    answer(kind::DONE, &())
}
