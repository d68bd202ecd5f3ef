//! Starting a machine: cold, or as a copy of a template.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use isle_cgroup::Cgroup;
use isle_types::Accelerator;
use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::arguments::{self, INITRAMFS, KERNEL, Role, Wiring};
use crate::confinement::{FIRST_DESCRIPTOR, Identity};
use crate::machine::{DiskSlot, Machine, MachineError};
use crate::memory::{self, MemoryError};
use crate::monitor::{Event, Monitor, MonitorError, Sent};
use crate::process::{self, Ended, Guard, ProcessError, Request};
use crate::program::Program;
use crate::sockets::{Sockets, port_socket};
use crate::template::Template;
use crate::throttle::Throttle;
use crate::vm::{Vm, assign, plug};

/// What a machine is started with, beside what it is.
#[derive(Debug)]
pub struct Launch<'a> {
    /// A folder for the sockets (`monitor.sock`, `port-<name>.sock`) that a later supervisor connects
    /// to. Sockets that are there are replaced. It must keep others out: the sockets are its owner's.
    pub run_directory: &'a Path,
    /// The user that QEMU runs as, this machine's alone.
    pub identity: Identity,
    /// Where QEMU's memory and time are counted and limited.
    pub cgroup: Option<&'a Cgroup>,
    /// A file for each of the machine's disks, in their order, opened for reading only or for both as
    /// [`DiskSlot`] says. Those that are missing are placeholders without content.
    pub disks: Vec<OwnedFd>,
    /// A tap for each of its first network cards, made with a header before each frame (`IFF_VNET_HDR`). The others are
    /// connected to nothing, see [`Vm::plug_card`].
    pub taps: Vec<OwnedFd>,
    /// How long QEMU may take for each of its steps.
    pub patience: Duration,
    /// It ends with the thread that starts it. Else it lives on, for a later supervisor ([`Vm::adopt`]).
    pub dies_with_starter: bool,
}

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such machine.
    #[error("cannot start the machine")]
    Machine(#[from] MachineError),
    /// QEMU could not be executed as it has to be.
    #[error("cannot start QEMU")]
    Process(#[from] ProcessError),
    /// It did not get its memory.
    #[error("cannot start QEMU")]
    Memory(#[source] MemoryError),
    /// It did not do what it was told.
    #[error("cannot start the machine")]
    Monitor(#[source] MonitorError),
    /// It has ended.
    #[error("QEMU ended {how}: {said}")]
    Ended {
        /// How.
        how: Ended,
        /// What it said, in its words; at most 16 KiB.
        said: String,
    },
    /// Something of the host.
    #[error("cannot {what}")]
    Prepare {
        /// What, as a verb with its object.
        what: String,
        /// Why.
        source: io::Error,
    },
}

pub(crate) fn prepare(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::Prepare { what, source }
}

/// A machine whose QEMU is on its way: it reads what is sent to its ports as soon as it runs. It is
/// ended when this is dropped.
#[derive(Debug)]
#[must_use = "QEMU is killed when this is dropped"]
pub struct Starting {
    guard: Guard,
    monitor: Monitor,
    /// The machine's first port.
    agent: Option<UnixStream>,
    /// What QEMU asks for its memory, and the answer.
    memory: Option<(OwnedFd, File)>,
    /// The number of the descriptor with the state to load.
    state: Option<RawFd>,
    /// What was asked for and not answered yet.
    asked: Vec<Sent>,
    /// It came out of a pool: it is complete, and stands still.
    is_pooled: bool,
    is_paused: bool,
    patience: Duration,
}

/// What beside a machine decides how it comes to life.
pub(crate) struct Origin<'a> {
    pub role: Role,
    /// The template's memory.
    pub memory: Option<File>,
    /// The template's state.
    pub state: Option<OwnedFd>,
    /// What the kernel writes.
    pub console: Option<OwnedFd>,
    /// All archives of the machine's first file system in one.
    pub initramfs: Option<&'a Path>,
    /// It does not run until it is told to.
    pub is_paused: bool,
}

impl Starting {
    /// Starts a machine that boots.
    ///
    /// `initramfs` is one file that holds all of [`crate::Boot::initramfs`], see
    /// [`crate::template::join_archives`]. It and the kernel must be readable by all.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn cold(
        program: &Program,
        machine: &Machine,
        initramfs: Option<&Path>,
        launch: Launch<'_>,
    ) -> Result<Starting, StartError> {
        let origin = Origin {
            role: Role::Cold,
            memory: None,
            state: None,
            console: None,
            initramfs,
            is_paused: false,
        };
        Starting::begin(program, machine, origin, launch)
    }

    /// Starts a copy of a template: its memory is shared with all other copies until it is written.
    /// The machine goes on where the template was saved.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn clone_of(template: &Template, launch: Launch<'_>) -> Result<Starting, StartError> {
        Starting::clone_with(template, launch, false)
    }

    /// The same; the machine does not run before [`Vm::resume`].
    ///
    /// # Errors
    /// [`StartError`]
    pub fn paused_clone_of(
        template: &Template,
        launch: Launch<'_>,
    ) -> Result<Starting, StartError> {
        Starting::clone_with(template, launch, true)
    }

    fn clone_with(
        template: &Template,
        launch: Launch<'_>,
        is_paused: bool,
    ) -> Result<Starting, StartError> {
        let memory = template.memory().try_clone_to_owned();
        let memory = memory.map_err(prepare("take the template's memory"))?;
        // Of its own: the place in the file moves as it is read.
        let state = template.open_state();
        let state = state.map_err(prepare("open the template's state"))?;
        let origin = Origin {
            role: Role::Clone,
            memory: Some(memory.into()),
            state: Some(state),
            console: None,
            initramfs: None,
            is_paused,
        };
        Starting::begin(template.program(), template.machine(), origin, launch)
    }

    pub(crate) fn begin(
        program: &Program,
        machine: &Machine,
        origin: Origin<'_>,
        launch: Launch<'_>,
    ) -> Result<Starting, StartError> {
        machine.check()?;
        check_disks(machine, &launch.disks)?;
        check_taps(machine, &launch.taps)?;
        let mut passed = Passed::default();
        let mut sockets = Sockets::open(launch.run_directory)?;
        let (listening, client) = sockets.connected("monitor.sock")?;
        let monitor_fd = passed.add(listening);
        let mut monitor = Monitor::new(client).map_err(prepare("use QEMU's monitor"))?;
        let mut agent = None;
        let mut ports = Vec::new();
        for (index, name) in machine.devices.ports.iter().enumerate() {
            let name = port_socket(name);
            if index == 0 {
                let (listening, client) = sockets.connected(&name)?;
                agent = Some(client);
                ports.push((passed.add(listening), true));
            } else {
                ports.push((passed.add(sockets.listening(&name)?), false));
            }
        }
        let mut disks: Vec<Option<RawFd>> = launch
            .disks
            .into_iter()
            .map(|disk| Some(passed.add(disk)))
            .collect();
        disks.resize(machine.devices.disks.len(), None);
        let taps = launch.taps.into_iter();
        let taps = taps.map(|tap| Some(passed.add(tap))).collect();
        let first_file = match disks.iter().flatten().next() {
            Some(_) => None,
            None => {
                let empty = process::empty_file().map_err(prepare("make an empty file"))?;
                Some(passed.add(empty))
            }
        };
        let wiring = Wiring {
            monitor: monitor_fd,
            first_file,
            has_sandbox: program.has_sandbox,
            ports,
            console: origin.console.map(|console| passed.add(console)),
            disks,
            taps,
            is_paused: origin.is_paused,
        };
        let state = origin.state.map(|state| passed.add(state));
        let arguments = arguments::arguments(machine, origin.role, &wiring);
        let mut files = Vec::new();
        if !origin.role.is_loaded() {
            files.push((machine.boot.kernel.as_path(), KERNEL));
            files.extend(origin.initramfs.map(|path| (path, INITRAMFS)));
        }
        // Sent before QEMU is there to read it.
        monitor.negotiate().map_err(StartError::Monitor)?.forget();
        let (process, listener) = process::start(Request {
            program: &program.path,
            arguments: &arguments,
            identity: launch.identity,
            cgroup: launch.cgroup,
            descriptors: passed.all(),
            files,
            needs_kvm: machine.accelerator == Accelerator::Kvm,
            has_memory_file: origin.memory.is_some(),
            dies_with_parent: launch.dies_with_starter
                || matches!(origin.role, Role::Maker | Role::Heir),
            vcpus: machine.vcpus,
        })?;
        Ok(Starting {
            guard: Guard(Some(process)),
            monitor,
            agent,
            memory: listener.zip(origin.memory),
            state,
            asked: Vec::new(),
            is_pooled: false,
            is_paused: origin.is_paused,
            patience: launch.patience,
        })
    }

    /// A machine out of a pool, whose sockets are in the launch's folder already.
    pub(crate) fn adopted(
        guard: Guard,
        machine: &Machine,
        launch: &Launch<'_>,
    ) -> Result<Starting, StartError> {
        check_disks(machine, &launch.disks)?;
        check_taps(machine, &launch.taps)?;
        let sockets = Sockets::open(launch.run_directory)?;
        let connect = |name: &str| {
            let what = format!("connect to {}", launch.run_directory.join(name).display());
            sockets.connect(name).map_err(prepare(what))
        };
        let mut monitor =
            Monitor::new(connect("monitor.sock")?).map_err(prepare("use QEMU's monitor"))?;
        let agent = match machine.devices.ports.first() {
            Some(name) => Some(connect(&port_socket(name))?),
            None => None,
        };
        let mut asked = vec![monitor.negotiate().map_err(StartError::Monitor)?];
        let disks = machine.devices.disks.iter().zip(&launch.disks);
        for (index, (slot, disk)) in disks.enumerate() {
            let sent = assign(&mut monitor, index, *slot, disk.as_fd());
            asked.extend(sent.map_err(StartError::Monitor)?);
        }
        for (index, tap) in launch.taps.iter().enumerate() {
            let sent = plug(&mut monitor, index, tap.as_fd());
            asked.extend(sent.map_err(StartError::Monitor)?);
        }
        Ok(Starting {
            guard,
            monitor,
            agent,
            memory: None,
            state: None,
            asked,
            is_pooled: true,
            is_paused: false,
            patience: launch.patience,
        })
    }

    /// The machine's first port. What is written to it now is there when the guest runs.
    pub fn agent(&mut self) -> Option<&UnixStream> {
        self.agent.as_ref()
    }

    /// The same, to keep. Once.
    pub fn take_agent(&mut self) -> Option<UnixStream> {
        self.agent.take()
    }

    /// Limits what the first so many disks do together, from the first request on.
    ///
    /// # Errors
    /// When QEMU cannot be told; that it refuses is told by [`Starting::finish`].
    pub fn throttle_disks(&mut self, throttle: &Throttle, disks: usize) -> Result<(), StartError> {
        let sent = throttle.send(&mut self.monitor, disks);
        self.asked.extend(sent.map_err(StartError::Monitor)?);
        Ok(())
    }

    /// The pid of QEMU.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.guard.0.as_ref().map_or(0, |process| process.pid)
    }

    /// Waits until the machine runs; one that was started paused: until its state is loaded.
    ///
    /// # Errors
    /// [`StartError`]; QEMU has ended then.
    pub fn finish(mut self) -> Result<Vm, StartError> {
        match self.load() {
            Ok(()) => Ok(Vm {
                process: self.guard.keep(),
                monitor: self.monitor,
                patience: self.patience,
            }),
            Err(error) => Err(self.explain(error)),
        }
    }

    fn load(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + self.patience;
        let process = self.guard.0.as_ref().expect("kept until the start is over");
        if let Some((listener, file)) = self.memory.take() {
            memory::give(
                listener.as_fd(),
                process.pidfd.as_fd(),
                file.as_fd(),
                deadline,
            )
            .map_err(StartError::Memory)?;
        }
        let monitor = &mut self.monitor;
        let io = StartError::Monitor;
        for sent in std::mem::take(&mut self.asked) {
            monitor.answer(&sent, deadline).map_err(io)?;
        }
        if self.is_pooled {
            let went_on = monitor.execute("cont", Value::Null, deadline);
            return went_on.map(drop).map_err(io);
        }
        let Some(state) = self.state else {
            // The answer says that the machine is complete.
            let status = monitor.execute("query-status", Value::Null, deadline);
            return status.map(drop).map_err(io);
        };
        let capabilities = json!({"capabilities": [
            {"capability": "x-ignore-shared", "state": true},
            {"capability": "events", "state": true},
        ]});
        let uri = json!({"uri": format!("fd:{state}")});
        let first = monitor
            .send("migrate-set-capabilities", capabilities, &[])
            .map_err(io)?;
        let second = monitor.send("migrate-incoming", uri, &[]).map_err(io)?;
        monitor.answer(&first, deadline).map_err(io)?;
        monitor.answer(&second, deadline).map_err(io)?;
        let is_failed =
            |event: &Event| matches!(event, Event::Migration { status } if status == "failed");
        let is_paused = self.is_paused;
        let event = monitor
            .wait_for(
                "load the machine's state",
                |event| match event {
                    Event::Resume => true,
                    Event::Migration { status } => status == "completed" && is_paused,
                    _ => false,
                } || is_failed(event),
                deadline,
            )
            .map_err(io)?;
        match is_failed(&event) {
            true => Err(StartError::Monitor(MonitorError::Closed)),
            false => Ok(()),
        }
    }

    /// An error in the words of a QEMU that has ended, when it has.
    pub(crate) fn explain(self, error: StartError) -> StartError {
        let is_of_end = matches!(
            error,
            StartError::Monitor(MonitorError::Closed | MonitorError::Io(_))
                | StartError::Memory(MemoryError::Ended)
        );
        let process = self.guard.keep();
        if !is_of_end {
            let _ = process.kill();
        }
        // A QEMU that has closed its monitor is about to end.
        let soon = Instant::now() + Duration::from_secs(5);
        let ends = crate::monitor::wait(&process.pidfd, rustix::event::PollFlags::IN, soon);
        if !matches!(ends, Ok(true)) {
            let _ = process.kill();
        }
        match process.reap() {
            Ok(Some(how)) if is_of_end => StartError::Ended {
                how,
                said: process.said(),
            },
            _ => error,
        }
    }

    pub(crate) fn parts(&mut self) -> (&mut Monitor, Option<&UnixStream>) {
        (&mut self.monitor, self.agent.as_ref())
    }

    /// Only the maker of a template has its memory given before it is complete.
    pub(crate) fn wait_until_complete(&mut self) -> Result<(), StartError> {
        self.load()
    }
}

/// The descriptors that QEMU inherits.
#[derive(Default)]
struct Passed(Vec<OwnedFd>);

impl Passed {
    /// The number that it will have.
    fn add(&mut self, fd: impl Into<OwnedFd>) -> RawFd {
        self.0.push(fd.into());
        let number = FIRST_DESCRIPTOR as usize + self.0.len() - 1;
        RawFd::try_from(number).unwrap_or(RawFd::MAX)
    }

    fn all(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

fn check_taps(machine: &Machine, taps: &[OwnedFd]) -> Result<(), StartError> {
    let cards = machine.devices.network_cards;
    match taps.len() <= cards.into() {
        true => Ok(()),
        false => Err(StartError::Prepare {
            what: format!(
                "connect {} networks: the machine has {cards} network cards",
                taps.len()
            ),
            source: io::ErrorKind::InvalidInput.into(),
        }),
    }
}

/// QEMU takes a descriptor only for what it was opened for.
fn check_disks(machine: &Machine, disks: &[OwnedFd]) -> Result<(), StartError> {
    let invalid = |what: String| StartError::Prepare {
        what,
        source: io::ErrorKind::InvalidInput.into(),
    };
    if disks.len() > machine.devices.disks.len() {
        return Err(invalid(format!(
            "attach {} disks: the machine has {}",
            disks.len(),
            machine.devices.disks.len()
        )));
    }
    for (index, (slot, disk)) in machine.devices.disks.iter().zip(disks).enumerate() {
        let mode = rustix::fs::fcntl_getfl(disk)
            .map_err(io::Error::from)
            .map_err(prepare(format!("look at disk {index}")))?;
        let wanted = match slot {
            DiskSlot::ReadOnly => OFlags::RDONLY,
            DiskSlot::Writable => OFlags::RDWR,
        };
        if mode & OFlags::RWMODE != wanted {
            return Err(invalid(format!(
                "attach disk {index}: it has to be opened {}",
                match slot {
                    DiskSlot::ReadOnly => "for reading only",
                    DiskSlot::Writable => "for reading and writing",
                }
            )));
        }
    }
    Ok(())
}
