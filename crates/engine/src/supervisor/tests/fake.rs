//! An instance whose processes are plain children of the test program, and a ledger in memory.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio as ChildStdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use isle_network::{Link, Publication, Publish};
use isle_types::{InstanceId, Signal};
use rustix::process::{Pid, PidfdFlags, kill_process, kill_process_group, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::backend::container::how_it_ended;
use crate::backend::{Backend, Ended, Process, StartError, Stdio};
use crate::config::{InstanceConfig, NetworkAttachment, Resources, RestartPolicy};
use crate::control::{Control, ControlError};
use crate::protocol::{Request, Start, kind};
use crate::session::{Attachment, WindowSize};
use crate::state::{Instance, InstanceState, MemoryOf};
use crate::supervisor::client::Client;
use crate::supervisor::ledger::{Ledger, LedgerError, Note};
use crate::wiring::Wiring;
use crate::wiring::rows::{Plan, Port};
use crate::{AttachRequest, ExecRequest, InstanceLock, Paths, Stats};

/// Runs `sh -c SCRIPT`.
pub(super) struct FakeBackend {
    pub(super) script: String,
    pub(super) children: HashMap<i32, Child>,
    pub(super) out_of_memory: bool,
    pub(super) clean_ups: Arc<Mutex<u32>>,
}

impl FakeBackend {
    fn spawn(&mut self, command: &mut Command, stdio: Stdio) -> Result<Process, StartError> {
        let failed = |error: io::Error| StartError {
            message: format!("cannot execute it: {error}"),
            exit_code: 127,
        };
        let mut terminal = None;
        match stdio {
            Stdio::Streams {
                stdin,
                stdout,
                stderr,
            } => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                command.process_group(0);
            }
            Stdio::Terminal { size } => {
                let open = || -> io::Result<(OwnedFd, OwnedFd)> {
                    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                    let master = openpt(flags)?;
                    grantpt(&master)?;
                    unlockpt(&master)?;
                    let name = ptsname(&master, Vec::new())?;
                    let flags = rustix::fs::OFlags::RDWR
                        | rustix::fs::OFlags::NOCTTY
                        | rustix::fs::OFlags::CLOEXEC;
                    let slave = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
                    if let Some(size) = size {
                        rustix::termios::tcsetwinsize(&master, size.into())?;
                    }
                    Ok((master, slave))
                };
                let (master, slave) = open().map_err(failed)?;
                let clone = || slave.try_clone().map_err(failed);
                command
                    .stdin(ChildStdio::from(clone()?))
                    .stdout(ChildStdio::from(clone()?))
                    .stderr(ChildStdio::from(clone()?));
                terminal = Some(master);
            }
        }
        let child = command.spawn().map_err(failed)?;
        let pid = Pid::from_child(&child);
        let ended = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let pid = pid.as_raw_nonzero().get();
        self.children.insert(pid, child);
        Ok(Process {
            pid,
            ended,
            terminal,
            task: 0,
        })
    }
}

fn pid(process: &Process) -> Pid {
    Pid::from_raw(process.pid).unwrap()
}

impl Backend for FakeBackend {
    fn start(&mut self, stdio: Stdio, _wiring: &mut Wiring) -> Result<Process, StartError> {
        let mut command = match (&stdio, self.script.as_str()) {
            (_, "/no/such/program") => Command::new("/no/such/program"),
            (Stdio::Terminal { .. }, script) => {
                let mut command = Command::new("setsid");
                command.args(["--ctty", "sh", "-c", script]);
                command
            }
            (_, script) => {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            }
        };
        self.spawn(&mut command, stdio)
    }

    fn exec(&mut self, request: &ExecRequest, stdio: Stdio) -> Result<Process, StartError> {
        let mut command = Command::new(&request.args[0]);
        command.args(&request.args[1..]);
        self.spawn(&mut command, stdio)
    }

    fn adopt(&mut self, process: Process, _stdio: Stdio) -> io::Result<Process> {
        Ok(process)
    }

    fn reap(&mut self, process: &Process) -> io::Result<Ended> {
        let Some(child) = self.children.get_mut(&process.pid) else {
            return Ok(how_it_ended(process)?.unwrap_or(Ended::Unknown));
        };
        let status = child.try_wait()?.ok_or(io::ErrorKind::WouldBlock)?;
        self.children.remove(&process.pid);
        Ok(match status.signal() {
            Some(signal) => Ended::Signal(Signal::from_number(signal).unwrap()),
            None => Ended::Code(u8::try_from(status.code().unwrap()).unwrap()),
        })
    }

    fn signal(&mut self, process: &Process, signal: Signal) -> io::Result<()> {
        let signal = rustix::process::Signal::from_named_raw(signal.number()).unwrap();
        Ok(kill_process(pid(process), signal)?)
    }

    fn resize(
        &mut self,
        _process: &Process,
        terminal: BorrowedFd<'_>,
        size: WindowSize,
    ) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(terminal, size.into())?)
    }

    fn kill_all(&mut self) -> io::Result<()> {
        for child in self.children.values() {
            let _ = kill_process_group(Pid::from_child(child), rustix::process::Signal::KILL);
        }
        Ok(())
    }

    fn pause(&mut self) -> io::Result<()> {
        for child in self.children.values() {
            kill_process_group(Pid::from_child(child), rustix::process::Signal::STOP)?;
        }
        Ok(())
    }

    fn resume(&mut self) -> io::Result<()> {
        for child in self.children.values() {
            kill_process_group(Pid::from_child(child), rustix::process::Signal::CONT)?;
        }
        Ok(())
    }

    fn update(&mut self, resources: &Resources) -> io::Result<()> {
        match resources.pids_limit {
            Some(0) => Err(io::Error::other("pids.max: 0 is refused")),
            _ => Ok(()),
        }
    }

    fn connect(&mut self, _: &Process, _: Link, _: &mut Wiring) -> Result<(), StartError> {
        unreachable!("the tests connect nothing")
    }

    fn disconnect(&mut self, _: &Process, _: &str, _: &mut Wiring) -> Result<(), StartError> {
        unreachable!("the tests connect nothing")
    }

    fn stats(&mut self) -> io::Result<Stats> {
        Ok(Stats {
            pids: 7,
            ..Stats::default()
        })
    }

    fn oom_kills(&mut self) -> u64 {
        u64::from(self.out_of_memory)
    }

    fn out_of_memory(&mut self) -> Option<MemoryOf> {
        self.out_of_memory.then_some(MemoryOf::Instance)
    }

    fn rest(&mut self) {}

    fn clean_up(&mut self) -> io::Result<()> {
        *self.clean_ups.lock().unwrap() += 1;
        self.kill_all()
    }
}

/// What was written down.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) state: Option<InstanceState>,
    pub(super) notes: Vec<String>,
    pub(super) is_removed: bool,
    pub(super) are_files_removed: bool,
    pub(super) restart: Option<RestartPolicy>,
}

struct FakeLedger(Arc<Mutex<Book>>);

fn words(notes: &[Note]) -> impl Iterator<Item = String> {
    notes.iter().map(|note| {
        let code = note.attributes.iter().find(|(key, _)| *key == "exitCode");
        match code {
            Some((_, code)) => format!("{} {code}", note.action),
            None => note.action.clone(),
        }
    })
}

impl Ledger for FakeLedger {
    fn save(&mut self, state: &InstanceState, notes: &[Note]) -> Result<(), LedgerError> {
        let mut book = self.0.lock().unwrap();
        book.state = Some(state.clone());
        book.notes.extend(words(notes));
        Ok(())
    }

    fn note(&mut self, notes: &[Note]) -> Result<(), LedgerError> {
        self.0.lock().unwrap().notes.extend(words(notes));
        Ok(())
    }

    fn update(&mut self, _: &Resources, restart: Option<RestartPolicy>) -> Result<(), LedgerError> {
        self.0.lock().unwrap().restart = restart;
        Ok(())
    }

    fn take_networks(&mut self) -> Result<Plan, LedgerError> {
        Ok(Plan::default())
    }

    fn taken_networks(&mut self) -> Result<Plan, LedgerError> {
        Ok(Plan::default())
    }

    fn leave_networks(&mut self, _: Option<&str>) -> Result<(), LedgerError> {
        Ok(())
    }

    fn withdraw_ports(&mut self, _: &[Publication]) -> Result<(), LedgerError> {
        Ok(())
    }

    fn give_networks_back(&mut self, _is_gone: bool) -> Result<(), LedgerError> {
        Ok(())
    }

    fn take_network(&mut self, _: &NetworkAttachment, _: String) -> Result<Link, LedgerError> {
        unreachable!("the tests connect nothing")
    }

    fn give_network_back(&mut self, _: &str) -> Result<(), LedgerError> {
        Ok(())
    }

    fn take_ports(&mut self, _: &[Publish]) -> Result<Vec<Port>, LedgerError> {
        Ok(Vec::new())
    }

    fn give_ports_back(&mut self, _: &[Publication]) -> Result<(), LedgerError> {
        Ok(())
    }

    fn set_networks(&mut self, _: &InstanceConfig) -> Result<(), LedgerError> {
        Ok(())
    }

    fn remove(&mut self, notes: &[Note]) -> Result<(), LedgerError> {
        let mut book = self.0.lock().unwrap();
        book.is_removed = true;
        book.notes.extend(words(notes));
        Ok(())
    }

    fn remove_files(&mut self) -> Result<(), LedgerError> {
        self.0.lock().unwrap().are_files_removed = true;
        Ok(())
    }

    fn rest(&mut self) {}
}

/// A supervisor in a thread of the test.
pub(super) struct Stage {
    _folder: tempfile::TempDir,
    pub(super) paths: Paths,
    pub(super) id: InstanceId,
    pub(super) book: Arc<Mutex<Book>>,
    pub(super) clean_ups: Arc<Mutex<u32>>,
    thread: Option<JoinHandle<()>>,
}

/// What is to run, and how.
pub(super) struct Play {
    pub(super) script: &'static str,
    pub(super) config: InstanceConfig,
    pub(super) out_of_memory: bool,
}

impl Play {
    pub(super) fn new(script: &'static str) -> Play {
        Play {
            script,
            config: InstanceConfig::default(),
            out_of_memory: false,
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut InstanceConfig)) -> Play {
        change(&mut self.config);
        self
    }

    /// Starts it without anybody attached.
    pub(super) fn detached(self) -> Stage {
        let (stage, result) = self.start(None, None);
        result.unwrap();
        stage
    }

    /// Starts it with its output, and its input when it has one.
    pub(super) fn attached(self) -> (Stage, Attachment) {
        let request = AttachRequest {
            stdin: self.config.process.open_stdin,
            stdout: true,
            stderr: true,
            replay_log: false,
        };
        let window = WindowSize {
            rows: 24,
            columns: 80,
        };
        let (stage, result) = self.start(Some(request), Some(window));
        (stage, result.unwrap().into_attachment(None))
    }

    pub(super) fn start(
        self,
        attach: Option<AttachRequest>,
        window: Option<WindowSize>,
    ) -> (Stage, Result<Control, ControlError>) {
        let stage = Stage::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut control = Control::over(ours, &stage.paths.instance_run(&stage.id));
        let start = Start { attach, window };
        let stage = stage.run(self, move |supervisor| {
            supervisor.start_first(&start, Client::new(theirs).unwrap());
        });
        let result = control.answer(kind::STARTED).map(|_| control);
        (stage, result)
    }
}

impl Stage {
    pub(super) fn new() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().to_owned(),
            run: folder.path().join("run"),
        };
        let id = InstanceId::from_bytes([0xab; 32]);
        std::fs::create_dir_all(paths.instance(&id)).unwrap();
        Stage {
            _folder: folder,
            paths,
            id,
            book: Arc::default(),
            clean_ups: Arc::default(),
            thread: None,
        }
    }

    pub(super) fn run(
        mut self,
        play: Play,
        begin: impl FnOnce(&mut crate::supervisor::owner::Supervisor) + Send + 'static,
    ) -> Stage {
        let (paths, id) = (self.paths.clone(), self.id);
        let (book, clean_ups) = (self.book.clone(), self.clean_ups.clone());
        let thread = std::thread::spawn(move || {
            let backend = FakeBackend {
                script: play.script.to_owned(),
                children: HashMap::new(),
                out_of_memory: play.out_of_memory,
                clean_ups,
            };
            let lock = InstanceLock::try_acquire(&paths, &id).unwrap();
            let instance = instance(id, play.config);
            let mut supervisor = crate::supervisor::assemble(
                &paths,
                &instance,
                lock,
                Box::new(FakeLedger(book)),
                Box::new(backend),
            )
            .unwrap();
            begin(&mut supervisor);
            supervisor.run().unwrap();
        });
        self.thread = Some(thread);
        self
    }

    /// A new conversation.
    pub(super) fn control(&self) -> Control {
        Control::connect(&self.paths, &self.id).unwrap()
    }

    pub(super) fn attach(&self) -> Attachment {
        let request = AttachRequest {
            stdin: true,
            stdout: true,
            stderr: true,
            replay_log: false,
        };
        self.control().attach(request, None).unwrap()
    }

    /// Waits until the supervisor has nothing left to do.
    pub(super) fn end(mut self) -> Arc<Mutex<Book>> {
        self.join();
        self.book.clone()
    }

    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(super) fn state(&self) -> InstanceState {
        self.book.lock().unwrap().state.clone().unwrap()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(crate::log::path(&self.paths, &self.id)).unwrap_or_default()
    }

    /// Waits for a condition, not for a time.
    pub(super) fn until(&self, what: &str, mut is_true: impl FnMut(&Book) -> bool) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !is_true(&self.book.lock().unwrap()) {
            assert!(
                Instant::now() < patience,
                "{what} did not happen: {:?}",
                self.book
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(super) fn instance(id: InstanceId, config: InstanceConfig) -> Instance {
    Instance {
        id,
        name: "test".parse().unwrap(),
        created_at: jiff::Timestamp::now(),
        image_id: "sha256:0".to_owned(),
        config,
        state: InstanceState::created(),
    }
}

/// Sends raw bytes instead of a conversation.
pub(super) fn raw(stage: &Stage) -> UnixStream {
    crate::supervisor::address::connect(&stage.paths.instance_run(&stage.id)).unwrap()
}

/// Is something to be read within a moment?
pub(super) fn is_quiet(fd: impl AsFd, for_ms: i64) -> bool {
    let mut fds = [rustix::event::PollFd::new(
        &fd,
        rustix::event::PollFlags::IN,
    )];
    let timeout = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: for_ms * 1_000_000,
    };
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 0
}

#[allow(dead_code, reason = "documents what a test may send")]
pub(super) fn encoded(request: &Request) -> Vec<u8> {
    request.encode()
}
