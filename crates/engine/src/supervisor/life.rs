//! How an instance begins, ends, and begins again.

use std::io;
use std::time::{Duration, Instant};

use isle_types::Signal;
use jiff::Timestamp;

use super::client::{Client, PATIENCE, Role};
use super::health::Monitor;
use super::ledger::Note;
use super::owner::{Run, Supervisor};
use super::poller::{Interest, Token};
use super::restart::restarts;
use super::streams::{self, STDERR, STDOUT, Stdin};
use super::{address, identity};
use crate::WaitCondition;
use crate::backend::{Ended, Process, StartError, Stdio};
use crate::protocol::{Cause, Failed, Start, Started, answer, exit_frame, kind};
use crate::session::WindowSize;
use crate::state::{Exit, ExitReason, MemoryOf, StatusEvent};

/// An error of a system call on the way to a start.
pub(super) fn cannot(what: &str) -> impl FnOnce(io::Error) -> StartError {
    let what = what.to_owned();
    move |error| StartError {
        message: format!("cannot {what}: {error}"),
        exit_code: 125,
    }
}

impl Supervisor {
    /// The first start, which the client asks for: it hears how that went before anybody else.
    pub(super) fn start_first(&mut self, start: &Start, client: Client) {
        let number = self.number();
        let result = self.listen().and_then(|()| self.start(start.window));
        match result {
            Ok(pid) => {
                self.state.restart_count = 0;
                self.notes.push(Note::new("start"));
                let notes = std::mem::take(&mut self.notes);
                if let Err(error) = self.ledger.save(&self.state, &notes) {
                    self.abandon(client, &cannot("write the state")(io::Error::other(error)));
                    return;
                }
                self.welcome(number, client, start, pid);
            }
            Err(error) => self.give_up(Some(client), &error),
        }
    }

    fn welcome(&mut self, number: u32, mut client: Client, start: &Start, pid: i32) {
        client.send(&answer(kind::STARTED, &Started { pid }));
        match start.attach {
            Some(request) => {
                client.role = Role::Attached {
                    request,
                    is_foreground: true,
                };
                if let Some(run) = &mut self.run {
                    run.stdin_once = request.stdin && !self.settings.has_terminal;
                }
                self.admit(number, client);
            }
            // It has heard what it wanted to.
            None => {
                client.flush();
            }
        }
    }

    fn listen(&mut self) -> Result<(), StartError> {
        let listener = address::listen(&self.directory).map_err(cannot("listen for clients"))?;
        let added = self.poller.add(&listener, Token::Listener, Interest::READ);
        added.map_err(cannot("wait for clients"))?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Makes the streams and starts the process.
    pub(super) fn start(&mut self, window: Option<WindowSize>) -> Result<i32, StartError> {
        let no_streams = || cannot("make the standard streams");
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        let stdio = match self.settings.has_terminal {
            true => Stdio::Terminal { size: window },
            false => {
                let theirs = match self.settings.open_stdin {
                    true => {
                        let (ours, theirs) = streams::pipe(false).map_err(no_streams())?;
                        stdin = Some(ours);
                        theirs
                    }
                    false => streams::null().map_err(no_streams())?,
                };
                let make = |name| streams::make_fifo(&self.directory, name).map_err(no_streams());
                let (our_stdout, their_stdout) = make(STDOUT)?;
                let (our_stderr, their_stderr) = make(STDERR)?;
                (stdout, stderr) = (Some(our_stdout), Some(our_stderr));
                Stdio::Streams {
                    stdin: theirs,
                    stdout: their_stdout,
                    stderr: their_stderr,
                }
            }
        };
        // From here on there is something to clean up if we are killed.
        identity::announce(&self.directory).map_err(cannot("write to the run directory"))?;
        let mut process = self.start_connected(stdio)?;
        self.watch_keeper();
        let mut terminal = None;
        if let Some(master) = process.terminal.take() {
            let clone = || -> io::Result<_> {
                rustix::io::ioctl_fionbio(&master, true)?;
                Ok((master.try_clone()?, master.try_clone()?))
            };
            let (first, second) = clone().map_err(no_streams())?;
            stdin = self.settings.open_stdin.then_some(first);
            terminal = Some(second);
            stdout = Some(master);
        }
        self.watch_backend()
            .map_err(cannot("watch what it runs in"))?;
        let pid = process.pid;
        if let Err(error) = identity::write(&self.directory, pid) {
            self.complain("note which process it is", &error);
        }
        let run = Run {
            process,
            started: Instant::now(),
            stdout,
            stderr,
            terminal,
            stdin: Stdin::new(stdin),
            stdin_once: false,
            is_adopted: false,
        };
        self.take_on(run).map_err(cannot("watch the process"))?;
        Ok(pid)
    }

    /// Hears from now on when the back end has something to do.
    fn watch_backend(&self) -> io::Result<()> {
        match self.backend.watch() {
            Some(fd) => self.poller.add(fd, Token::Backend, Interest::READ),
            None => Ok(()),
        }
    }

    /// Looks after a run from now on.
    pub(super) fn take_on(&mut self, run: Run) -> io::Result<()> {
        self.poller
            .add(&run.process.ended, Token::Ended, Interest::READ)?;
        for (fd, token) in [(&run.stdout, Token::Stdout), (&run.stderr, Token::Stderr)] {
            if let Some(fd) = fd {
                self.poller.add(fd, token, Interest::READ)?;
            }
        }
        self.is_flow_stopped = false;
        let state = &mut self.state;
        if let Ok(status) = state.status.next(StatusEvent::Start) {
            state.status = status;
        }
        if !run.is_adopted {
            state.started_at = Some(Timestamp::now());
            state.is_stopped_by_user = false;
            state.health = None;
        }
        state.pid = Some(run.process.pid);
        state.accelerator = self.backend.accelerator();
        state.networks = self.wiring.connected();
        state.ports = self.wiring.ports();
        state.exit = None;
        let check = self.settings.health_check.as_ref();
        if let Some((monitor, health)) = check.and_then(|check| Monitor::new(check, run.started)) {
            self.monitor = Some(monitor);
            state.health.get_or_insert(health);
        }
        self.run = Some(run);
        Ok(())
    }

    /// Goes on where a supervisor that was killed has stopped. `None`: the process has ended too.
    pub(super) fn take_over(&mut self, process: Option<Process>) {
        if let Err(error) = self.listen() {
            self.complain("take over", &error);
        }
        let adopted = process.map(|process| self.adopt(process));
        match adopted {
            Some(Ok(())) => self.save(),
            lost => {
                if let Some(Err(error)) = lost {
                    self.complain("take over the process", &error);
                    let _ = self.backend.kill_all();
                }
                self.clean_up_after_another();
                let exit = exit_of(Ended::Unknown, None);
                self.notes
                    .push(Note::new("die").with("exitCode", exit.code));
                self.ended(&exit, Duration::ZERO);
            }
        }
    }

    fn adopt(&mut self, process: Process) -> io::Result<()> {
        let (mut stdout, mut stderr) = (None, None);
        let stdio = match self.settings.has_terminal {
            true => Stdio::Terminal { size: None },
            false => {
                let (our_stdout, their_stdout) = streams::open_fifo(&self.directory, STDOUT)?;
                let (our_stderr, their_stderr) = streams::open_fifo(&self.directory, STDERR)?;
                (stdout, stderr) = (Some(our_stdout), Some(our_stderr));
                Stdio::Streams {
                    // What it was given before has ended with the supervisor that gave it.
                    stdin: streams::null()?,
                    stdout: their_stdout,
                    stderr: their_stderr,
                }
            }
        };
        let mut process = self.backend.adopt(process, stdio)?;
        let plan = self.ledger.taken_networks().map_err(io::Error::other)?;
        if let Err(error) = self.wiring.adopt(plan) {
            self.complain("have its names answered", &error);
        }
        self.watch_keeper();
        self.watch_backend()?;
        let mut terminal = None;
        // At a level where the terminal is on our side its other end has gone with the supervisor.
        if let Some(master) = process.terminal.take() {
            rustix::io::ioctl_fionbio(&master, true)?;
            terminal = Some(master.try_clone()?);
            stdout = Some(master);
        }
        let stdin = match (&terminal, self.settings.open_stdin) {
            (Some(terminal), true) => Some(terminal.try_clone()?),
            _ => None,
        };
        self.take_on(Run {
            started: Instant::now(),
            stdout,
            stderr,
            terminal,
            stdin: Stdin::new(stdin),
            stdin_once: false,
            is_adopted: true,
            process,
        })
    }

    /// The process runs, and nobody will ever know: end it.
    fn abandon(&mut self, client: Client, error: &StartError) {
        let _ = self.backend.kill_all();
        if let Some(run) = self.run.take() {
            let _ = self.backend.signal(&run.process, Signal::KILL);
            let mut fds = [rustix::event::PollFd::new(
                &run.process.ended,
                rustix::event::PollFlags::IN,
            )];
            let _ = rustix::event::poll(&mut fds, None);
            let _ = self.backend.reap(&run.process);
        }
        self.give_up(Some(client), error);
    }

    /// It could not be started, and will not be tried again.
    pub(super) fn give_up(&mut self, client: Option<Client>, error: &StartError) {
        let exit = could_not_start(error);
        let state = &mut self.state;
        state.pid = None;
        if let Ok(status) = state.status.next(StatusEvent::GiveUp) {
            state.status = status;
        }
        state.exit = Some(exit.clone());
        self.write_end();
        if let Some(mut client) = client {
            let failed = Failed {
                message: error.message.clone(),
                exit_code: error.exit_code,
                cause: Cause::Failed,
            };
            client.send(&answer(kind::FAILED, &failed));
            client.flush();
        }
        self.finish(&exit);
    }

    /// Writes the end: the last state, or with `--rm` that there is nothing any more. From here on
    /// the name is free.
    fn write_end(&mut self) {
        if !self.settings.auto_remove {
            self.save();
            return;
        }
        self.notes.push(Note::new("destroy"));
        let notes = std::mem::take(&mut self.notes);
        if let Err(error) = self.ledger.remove(&notes) {
            self.complain("remove its row", &error);
        }
    }

    /// The instance's process has ended.
    pub(super) fn process_ended(&mut self) {
        let Some(run) = &self.run else { return };
        let ended = match self.backend.reap(&run.process) {
            Ok(ended) => ended,
            Err(error) => {
                self.complain("collect the process", &error);
                Ended::Unknown
            }
        };
        self.drain_output();
        let Some(run) = self.run.take() else { return };
        self.poller.remove(&run.process.ended);
        self.monitor = None;
        self.drop_check();
        let lasted = run.started.elapsed();
        self.note_oom();
        self.look_for_oom_at = None;
        let out_of_memory = match std::mem::take(&mut self.oom_kills_noted) {
            0 => None,
            _ => Some(self.backend.out_of_memory()),
        };
        let exit = exit_of(ended, out_of_memory);
        drop(run);

        let note = Note::new("die")
            .with("exitCode", exit.code)
            .with("execDuration", lasted.as_secs());
        self.notes.push(note);
        let was_stopped = self.kill_at.take().is_some() || self.state.is_stopped_by_user;
        if was_stopped {
            self.notes.push(Note::new("stop"));
        }
        self.ended(&exit, lasted);
    }

    /// A run is over, or could not begin: decides what follows.
    fn ended(&mut self, exit: &Exit, lasted: Duration) {
        let state = &mut self.state;
        state.pid = None;
        state.networks = Vec::new();
        state.ports = Vec::new();
        state.finished_at = Some(Timestamp::now());
        state.exit = Some(exit.clone());
        if std::mem::take(&mut self.start_again) {
            if let Ok(status) = state.status.next(StatusEvent::ExitThenRestart) {
                state.status = status;
            }
            state.is_stopped_by_user = false;
            self.tell_exit(exit);
            self.clean_up();
            self.begin_again(false);
            return;
        }
        let again = restarts(
            self.settings.restart,
            exit.code,
            state.restart_count,
            state.is_stopped_by_user,
        );
        if again {
            if let Ok(status) = state.status.next(StatusEvent::ExitThenRestart) {
                state.status = status;
            }
            self.restart_at = Some(Instant::now() + self.back_off.after(lasted));
            self.save();
            self.tell_exit(exit);
            self.tend_clients();
            self.clean_up();
            return;
        }
        let event = match state.status.next(StatusEvent::Exit) {
            Ok(_) => StatusEvent::Exit,
            Err(_) => StatusEvent::GiveUp,
        };
        if let Ok(status) = state.status.next(event) {
            state.status = status;
        }
        self.write_end();
        self.finish(exit);
    }

    /// The wait for a restart is over.
    pub(super) fn restart_now(&mut self) {
        self.state.restart_count += 1;
        self.begin_again(true);
    }

    fn begin_again(&mut self, by_policy: bool) {
        match self.start(None) {
            Ok(_) => {
                self.notes.push(Note::new("start"));
                if !by_policy {
                    self.notes.push(Note::new("restart"));
                }
                self.save();
                self.answer_all(Role::Restarting, None);
            }
            // What cannot be started now may be startable later (a folder that is not there
            // yet): the policy decides, as after any other failure.
            Err(error) => {
                self.answer_all(Role::Restarting, Some(&error));
                self.ended(&could_not_start(&error), Duration::ZERO);
            }
        }
    }

    fn answer_all(&mut self, role: Role, error: Option<&StartError>) {
        let frame = match error {
            None => answer(kind::DONE, &()),
            Some(error) => {
                let failed = Failed {
                    message: error.message.clone(),
                    exit_code: error.exit_code,
                    cause: Cause::Failed,
                };
                answer(kind::FAILED, &failed)
            }
        };
        for client in self.clients.values_mut() {
            if client.role == role {
                client.send(&frame);
                client.role = Role::Asking;
            }
        }
    }

    /// Tells everyone who waits for it how the run has ended.
    fn tell_exit(&mut self, exit: &Exit) {
        let frame = exit_frame(exit);
        for client in self.clients.values_mut() {
            match client.role {
                Role::Attached { is_foreground, .. } => {
                    client.send(&frame);
                    // The foreground client may take its time with what it has not received yet.
                    client.close_after_flush((!is_foreground).then_some(PATIENCE));
                }
                Role::Waiting(WaitCondition::NotRunning | WaitCondition::NextExit) => {
                    client.send(&frame);
                    client.role = Role::Asking;
                }
                _ => {}
            }
        }
    }

    /// The instance has ended for good, and that is written. First those hear it who wait for it,
    /// then everything is taken away.
    fn finish(&mut self, exit: &Exit) {
        self.tell_exit(exit);
        self.answer_all(Role::Stopping, None);
        self.answer_all(
            Role::Restarting,
            Some(&StartError {
                message: "the instance has ended meanwhile".to_owned(),
                exit_code: 125,
            }),
        );
        self.tend_clients();

        if let Some(listener) = self.listener.take() {
            self.poller.remove(&listener);
        }
        let _ = address::remove(&self.directory);
        self.clean_up();
        self.over_since = Some(Instant::now());
        for name in [STDOUT, STDERR, identity::NAME] {
            if let Err(error) = streams::remove(&self.directory, name) {
                self.complain("tidy its run directory", &error);
            }
        }
        let lock = self.lock.take();
        if self.settings.auto_remove {
            if let Err(error) = self.ledger.remove_files() {
                self.complain("remove its files", &error);
            }
            if let Some(Err(error)) = lock.map(|lock| lock.remove()) {
                self.complain("remove its run directory", &error);
            }
        }
        self.ledger.rest();
        // Now it is gone, or free for the next supervisor. Only those clients stay that still
        // have something to receive.
        let frame = exit_frame(exit);
        for client in self.clients.values_mut() {
            if client.role == Role::Waiting(WaitCondition::Removed) && self.settings.auto_remove {
                client.send(&frame);
            }
            if !matches!(client.role, Role::Session(_)) {
                client.close_after_flush(Some(PATIENCE));
            }
        }
        self.tend_clients();
    }

    pub(super) fn clean_up(&mut self) {
        if let Err(error) = self.backend.clean_up() {
            self.complain("clean up", &error);
        }
        let is_over = !self.state.status.is_supervised();
        self.disconnect_all(is_over && self.settings.auto_remove);
    }

    /// Asks the instance to end; after the timeout it is killed.
    pub(super) fn begin_stop(&mut self, signal: Signal, timeout: Duration) {
        if self.is_paused() {
            self.thaw();
        }
        let Some(run) = &self.run else { return };
        // It may have ended by itself just now: then that is read from the poller next.
        let _ = self.backend.signal(&run.process, signal);
        self.notes
            .push(Note::new("kill").with("signal", signal.number()));
        // A time out of reach means: never.
        self.kill_at = Instant::now().checked_add(timeout);
    }

    /// Ends everything inside at once.
    pub(super) fn kill_now(&mut self) {
        if self.is_paused() {
            self.thaw();
        }
        let Some(run) = &self.run else { return };
        let _ = self.backend.signal(&run.process, Signal::KILL);
        self.notes
            .push(Note::new("kill").with("signal", Signal::KILL.number()));
        if let Err(error) = self.backend.kill_all() {
            self.complain("kill all processes", &error);
        }
    }

    /// Thaws it on the way to its end.
    fn thaw(&mut self) {
        match self.backend.resume() {
            Ok(()) => {
                if let Ok(status) = self.state.status.next(StatusEvent::Resume) {
                    self.state.status = status;
                }
            }
            Err(error) => self.complain("thaw it", &error),
        }
    }

    /// Does not wait for a restart any longer.
    pub(super) fn cancel_restart(&mut self) {
        self.restart_at = None;
        if let Ok(status) = self.state.status.next(StatusEvent::GiveUp) {
            self.state.status = status;
        }
        let exit = self.state.exit.clone().unwrap_or(Exit {
            code: 0,
            reason: ExitReason::Exited,
        });
        self.notes.push(Note::new("stop"));
        self.write_end();
        self.finish(&exit);
    }

    /// The host asks all programs to end: the instance ends as by `stop`, and is not restarted;
    /// but that was not the user's wish, so it starts again after the boot if its policy says so.
    pub(super) fn host_goes_down(&mut self) {
        if let Some(signals) = &self.signals {
            let mut info = [0; 128];
            while rustix::io::read(signals, &mut info).is_ok_and(|count| count > 0) {}
        }
        self.settings.restart = crate::config::RestartPolicy::No;
        match self.restart_at {
            Some(_) => self.cancel_restart(),
            None => self.begin_stop(self.settings.stop_signal, self.settings.stop_timeout),
        }
    }
}

pub(super) fn could_not_start(error: &StartError) -> Exit {
    Exit {
        code: i32::from(error.exit_code),
        reason: ExitReason::CouldNotStart {
            message: error.message.clone(),
        },
    }
}

/// How a run ended; when memory has run out inside, with whose.
fn exit_of(ended: Ended, out_of_memory: Option<Option<MemoryOf>>) -> Exit {
    let was_killed = |code: i32| code == 128 + Signal::KILL.number();
    match ended {
        Ended::Unknown => Exit {
            code: 255,
            reason: ExitReason::SupervisorLost,
        },
        Ended::Crashed(message) => match out_of_memory {
            // The memory that ran out was that of what it ran in.
            Some(whose @ Some(MemoryOf::Hypervisor | MemoryOf::Host)) => Exit {
                code: 128 + Signal::KILL.number(),
                reason: ExitReason::OutOfMemory { whose },
            },
            _ => Exit {
                code: 255,
                reason: ExitReason::Crashed { message },
            },
        },
        Ended::Code(code) => Exit {
            code: code.into(),
            // A shell passes on that its child was killed.
            reason: match out_of_memory.filter(|_| was_killed(code.into())) {
                Some(whose) => ExitReason::OutOfMemory { whose },
                None => ExitReason::Exited,
            },
        },
        Ended::Signal(signal) => Exit {
            code: 128 + signal.number(),
            reason: match out_of_memory.filter(|_| signal == Signal::KILL) {
                Some(whose) => ExitReason::OutOfMemory { whose },
                None => ExitReason::Signalled { signal },
            },
        },
    }
}
