//! [`Supervisor`]: the one owner of a running instance, and the loop in which it does everything.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use isle_types::Signal;
use jiff::Timestamp;

use super::checks::RunningCheck;
use super::client::{Client, PATIENCE, Role};
use super::health::Monitor;
use super::ledger::{Ledger, Note};
use super::poller::{Poller, Ready, Token};
use super::restart::BackOff;
use super::sessions::Session;
use super::streams::Stdin;
use crate::InstanceLock;
use crate::backend::{Backend, Process};
use crate::config::{HealthCheck, InstanceConfig, RestartPolicy};
use crate::log::Writer;
use crate::state::{InstanceState, Status};
use crate::wiring::Wiring;

/// So long nothing has to happen before memory is given back.
const CALM: Duration = Duration::from_millis(500);
/// So long what happened waits to be written together with what happens next.
const NOTES_WAIT: Duration = Duration::from_millis(100);
/// So long after the notice of lacking memory the kernel is asked again whom it has killed.
const KILL_WAIT: Duration = Duration::from_millis(50);
/// So long after a kill that was noted the next ones are noted together.
const NEXT_KILL_WAIT: Duration = Duration::from_secs(1);
/// The most clients at a time.
pub(super) const MOST_CLIENTS: usize = 256;
/// So long what was run inside may take to end once the instance has.
const SESSION_PATIENCE: Duration = Duration::from_secs(5);

/// What the supervisor needs of an instance's configuration while it runs.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) has_terminal: bool,
    pub(super) open_stdin: bool,
    pub(super) restart: RestartPolicy,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) stop_signal: Signal,
    pub(super) stop_timeout: Duration,
    pub(super) auto_remove: bool,
}

impl Settings {
    pub(super) fn of(config: &InstanceConfig) -> Settings {
        Settings {
            has_terminal: config.process.tty,
            open_stdin: config.process.open_stdin,
            restart: config.restart,
            health_check: config.health_check.clone(),
            stop_signal: config.stop_signal.unwrap_or(Signal::TERM),
            stop_timeout: config.stop_timeout.unwrap_or(Duration::from_secs(10)),
            auto_remove: config.auto_remove,
        }
    }
}

/// One run of the instance's process.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) process: Process,
    pub(super) started: Instant,
    /// Standard output, or the terminal.
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// The terminal once more, for its size.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) stdin: Stdin,
    /// Standard input ends when its first sender goes, as Docker's `StdinOnce`.
    pub(super) stdin_once: bool,
    /// Started by an earlier supervisor: not our child.
    pub(super) is_adopted: bool,
}

/// The owner of one instance.
pub(super) struct Supervisor {
    pub(super) settings: Settings,
    pub(super) state: InstanceState,
    pub(super) backend: Box<dyn Backend>,
    pub(super) ledger: Box<dyn Ledger>,
    /// Its networks.
    pub(super) wiring: Wiring,
    pub(super) log: Option<Writer>,
    /// The run directory of the instance.
    pub(super) directory: PathBuf,
    /// Where the supervisor itself writes what went wrong.
    pub(super) complaints: PathBuf,
    pub(super) lock: Option<InstanceLock>,
    pub(super) poller: Poller,
    pub(super) listener: Option<UnixListener>,
    pub(super) signals: Option<OwnedFd>,
    pub(super) clients: BTreeMap<u32, Client>,
    pub(super) sessions: BTreeMap<u32, Session>,
    pub(super) next_number: u32,
    pub(super) run: Option<Run>,
    /// When the restart policy starts it again.
    pub(super) restart_at: Option<Instant>,
    pub(super) back_off: BackOff,
    pub(super) monitor: Option<Monitor>,
    pub(super) check: Option<RunningCheck>,
    /// When a stop becomes a kill.
    pub(super) kill_at: Option<Instant>,
    /// It is being stopped to be started again.
    pub(super) start_again: bool,
    /// What is to be noted together with the next state.
    pub(super) notes: Vec<Note>,
    /// When they are written at the latest.
    pub(super) note_at: Option<Instant>,
    /// Of the present run.
    pub(super) oom_kills_noted: u64,
    /// Memory has run out, and the kernel may not have killed yet.
    pub(super) look_for_oom_at: Option<Instant>,
    /// The instance has to wait until the foreground client has received more.
    pub(super) is_flow_stopped: bool,
    pub(super) buffer: Vec<u8>,
    pub(super) tidy_at: Option<Instant>,
    /// The instance has ended for good, since then.
    pub(super) over_since: Option<Instant>,
}

impl Supervisor {
    /// Does what there is to do until nothing is left.
    pub(super) fn run(&mut self) -> io::Result<()> {
        self.disturbed();
        while !self.is_done() {
            let ready = self.poller.wait(self.next_deadline())?;
            // An end first: what it leaves behind is read to the last byte there.
            for one in ready {
                self.handle(one);
            }
            self.meet_deadlines(Instant::now());
            self.tend_clients();
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.over_since.is_some() && self.clients.is_empty() && self.sessions.is_empty()
    }

    fn handle(&mut self, ready: Ready) {
        match ready.token {
            Token::Listener => self.accept(),
            Token::Signals => self.host_goes_down(),
            Token::Ended => self.process_ended(),
            Token::Stdout | Token::Stderr => self.read_output(ready.token),
            Token::Stdin => self.feed_stdin(),
            Token::Backend => self.tend_backend(),
            Token::Keeper => self.tend_keeper(),
            Token::CheckEnded => self.check_ended(),
            Token::CheckOutput => self.read_check_output(),
            Token::Client(number) => self.serve(number, ready),
            Token::SessionEnded(number) => self.session_ended(number),
            Token::SessionStdout(number) | Token::SessionStderr(number) => {
                self.drain_session(ready.token, number);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let of_keeper = self.wiring.keeper().and_then(|keeper| keeper.deadline());
        let of_clients = self
            .clients
            .values()
            .filter_map(|client| match client.role {
                Role::New => Some(client.since + PATIENCE),
                _ => client.closing,
            });
        let of_check = self.check.as_ref().and_then(|check| check.deadline);
        let of_monitor = match self.check {
            None => self.monitor.as_ref().and_then(|monitor| monitor.due),
            Some(_) => None,
        };
        let of_sessions = self.over_since.map(|since| since + SESSION_PATIENCE);
        [
            self.restart_at,
            self.kill_at,
            self.tidy_at,
            self.note_at,
            self.look_for_oom_at,
            self.run.as_ref().and_then(|_| self.backend.adjust_at()),
            of_keeper,
            of_check,
            of_monitor,
            of_sessions.filter(|_| !self.sessions.is_empty()),
        ]
        .into_iter()
        .flatten()
        .chain(of_clients)
        .min()
    }

    fn meet_deadlines(&mut self, now: Instant) {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if is_due(self.kill_at) {
            self.kill_at = None;
            self.kill_now();
        }
        if is_due(self.restart_at) {
            self.restart_at = None;
            self.restart_now();
        }
        if is_due(self.check.as_ref().and_then(|check| check.deadline)) {
            self.check_timed_out();
        }
        if self.check.is_none() && is_due(self.monitor.as_ref().and_then(|m| m.due)) {
            self.begin_check();
        }
        if is_due(self.over_since.map(|since| since + SESSION_PATIENCE)) {
            self.sessions.clear();
        }
        if is_due(self.look_for_oom_at) {
            self.look_for_oom_at = None;
            self.note_oom();
        }
        if self.run.is_some() && is_due(self.backend.adjust_at()) {
            self.backend.adjust();
        }
        if is_due(self.wiring.keeper().and_then(|keeper| keeper.deadline())) {
            self.tend_keeper();
        }
        if is_due(self.note_at) {
            self.write_notes();
        }
        if is_due(self.tidy_at) {
            self.tidy();
        }
    }

    fn tend_backend(&mut self) {
        self.backend.tend();
        // One that runs out of memory all the time, or says so, does not fill the list of events.
        if self.backend.has_run_out_of_memory() && self.look_for_oom_at.is_none() {
            let wait = match self.note_oom() {
                true => NEXT_KILL_WAIT,
                false => KILL_WAIT,
            };
            self.look_for_oom_at = Some(Instant::now() + wait);
        }
    }

    /// Notes that something inside was killed for lack of memory, when that is news.
    pub(super) fn note_oom(&mut self) -> bool {
        let kills = self.backend.oom_kills();
        let is_news = kills > self.oom_kills_noted;
        if is_news {
            self.oom_kills_noted = kills;
            self.note(Note::new("oom"));
        }
        is_news
    }

    /// Something has happened that costs memory: give it back when it is calm again.
    pub(super) fn disturbed(&mut self) {
        self.tidy_at = Some(Instant::now() + CALM);
    }

    fn tidy(&mut self) {
        self.tidy_at = None;
        self.ledger.rest();
        self.backend.rest();
        self.wiring.rest();
        self.buffer = Vec::new();
        if let Some(log) = &mut self.log {
            log.shrink();
        }
        super::memory::give_back();
    }

    /// Writes the present state and all notes; what cannot be written is complained about, and is
    /// in the state that is written next.
    pub(super) fn save(&mut self) {
        self.disturbed();
        let notes = std::mem::take(&mut self.notes);
        if let Err(error) = self.ledger.save(&self.state, &notes) {
            self.complain("write the state", &error);
        }
    }

    /// Notes something that happened without a change of state. It is written with the next state,
    /// or a moment later: nobody is to wait for it.
    pub(super) fn note(&mut self, note: Note) {
        self.notes.push(note);
        self.note_at
            .get_or_insert_with(|| Instant::now() + NOTES_WAIT);
    }

    fn write_notes(&mut self) {
        self.note_at = None;
        let notes = std::mem::take(&mut self.notes);
        if notes.is_empty() {
            return;
        }
        self.disturbed();
        if let Err(error) = self.ledger.note(&notes) {
            self.complain("write an event", &error);
        }
    }

    /// What the supervisor cannot do although it should: nobody waits for an answer, so it goes
    /// to a file beside the log.
    pub(super) fn complain(&self, what: &str, why: &dyn std::fmt::Display) {
        complain(&self.complaints, what, why);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state.status == Status::Paused
    }

    pub(super) fn number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }
}

/// Appends a complaint to a file that is kept small.
pub(super) fn complain(path: &std::path::Path, what: &str, why: &dyn std::fmt::Display) {
    const LARGEST: u64 = 64 << 10;
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LARGEST) {
        return;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{} cannot {what}: {why}", Timestamp::now());
    }
}
