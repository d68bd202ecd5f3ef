//! What a level of isolation must be able to do.
//!
//! A back end lives in the supervisor of one instance and knows how its level makes, starts and
//! ends what runs. Above this trait nothing asks which level it has; what a level cannot do it
//! answers with [`Unsupported`].

pub(crate) mod container;
pub(crate) mod host_devices;
pub mod inside;
pub(crate) mod oci;
pub(crate) mod vm;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use isle_cgroup::{Cgroup, Layout};
use isle_network::Link;
use isle_types::{Accelerator, Isolation, Signal};
use oci_spec::runtime::Capabilities;

use crate::config::{ConfigError, InstanceConfig, Resources};
use crate::state::{Instance, MemoryOf};
use crate::wiring::Wiring;
use crate::{EngineError, ExecRequest, Paths, Stats, WindowSize, volume};

/// The standard streams that a new process is given.
#[derive(Debug)]
pub enum Stdio {
    /// These three.
    Streams {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal inside; its master comes back in [`Process::terminal`].
    Terminal {
        /// Its first size, when known.
        size: Option<WindowSize>,
    },
}

/// A process that a back end has started.
#[derive(Debug)]
pub struct Process {
    /// Its pid on the host; for a level with a kernel of its own that of the hypervisor.
    pub pid: i32,
    /// Readable once it has ended, and all that it wrote is in its streams.
    pub ended: OwnedFd,
    /// What its terminal shows and is typed, read and written, when it has one: the master, or the
    /// near end of a connection to one. Its size is set by [`Backend::resize`].
    pub terminal: Option<OwnedFd>,
    /// Which of the level's processes it is, for a level that has numbers of its own; else 0.
    pub task: u32,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(u8),
    /// By a signal.
    Signal(Signal),
    /// Nobody can say: its parent was killed, and the kernel does not tell others.
    Unknown,
    /// What it ran in has ended under it (a guest kernel, a hypervisor): why.
    Crashed(String),
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// What failed, on what, and why: the whole chain, outermost first, joined by `: `.
    pub message: String,
    /// 127: not found, 126: cannot be executed, 125: all else.
    pub exit_code: u8,
}

/// The whole chain of an error, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// `map_err` for what fails before anything of the instance is executed: exit code 125.
pub(crate) fn failed<E: std::error::Error>(what: &str) -> impl FnOnce(E) -> StartError {
    move |error| StartError {
        message: format!("{what}: {}", chain(&error)),
        exit_code: 125,
    }
}

/// A field of proc_pid_stat(5), counted from 1; not the name, which may hold anything.
pub(crate) fn stat_field(stat: &str, number: usize) -> Option<&str> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(number.checked_sub(3)?)
}

/// Takes away a control group with all that is in it. Harmless when it is not there.
fn remove_cgroup(layout: &Layout, path: &Path) -> io::Result<()> {
    let cgroup = match Cgroup::open(layout, path) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            let error = io::Error::from(error);
            return match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            };
        }
    };
    cgroup.kill_all()?;
    Ok(cgroup.remove()?)
}

/// Work before the first start that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// The image's files are written as a block image.
    BlockImage,
    /// A virtual machine is booted, to be cloned from now on.
    Template,
    /// What an instance of the image does before its program is done once in a virtual machine, to be cloned from now on.
    Rehearsal,
}

/// An operation that a level cannot do.
#[derive(Debug, thiserror::Error)]
#[error("{operation} is not possible at isolation level {isolation}: {reason}")]
pub struct Unsupported {
    /// The verb.
    pub operation: &'static str,
    /// The level.
    pub isolation: Isolation,
    /// Why, and the way round it.
    pub reason: &'static str,
}

/// One instance at one level of isolation. Called by its supervisor only, which has one thread.
pub(crate) trait Backend {
    /// Makes everything that the instance needs, connects it to its networks, and executes its
    /// program. May be called again after [`Backend::clean_up`], for a restart.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then.
    fn start(&mut self, stdio: Stdio, wiring: &mut Wiring) -> Result<Process, StartError>;

    /// Runs a further process inside.
    ///
    /// # Errors
    /// [`StartError`].
    fn exec(&mut self, request: &ExecRequest, stdio: Stdio) -> Result<Process, StartError>;

    /// Takes over the first process, which a supervisor that was killed has started: from now on
    /// all the other verbs act on what is running. It comes as the process of the host that was
    /// noted, which is not a child of the caller, and goes back as one that can be reaped. The
    /// streams are those that it has; at a level where it holds them itself they are not looked at.
    ///
    /// # Errors
    /// When what belongs to it (its cgroup) is not there any more.
    fn adopt(&mut self, process: Process, stdio: Stdio) -> io::Result<Process>;

    /// Collects a process that has ended (its [`Process::ended`] is readable).
    ///
    /// # Errors
    /// When it has not, or was collected before.
    fn reap(&mut self, process: &Process) -> io::Result<Ended>;

    /// Sends a signal to one process.
    ///
    /// # Errors
    /// When it has ended.
    fn signal(&mut self, process: &Process, signal: Signal) -> io::Result<()>;

    /// Ends every process inside at once.
    ///
    /// # Errors
    /// When the host refuses.
    fn kill_all(&mut self) -> io::Result<()>;

    /// Tells a process's terminal its size.
    ///
    /// # Errors
    /// When the terminal is gone.
    fn resize(
        &mut self,
        process: &Process,
        terminal: BorrowedFd<'_>,
        size: WindowSize,
    ) -> io::Result<()>;

    /// A descriptor that is readable when [`Backend::tend`] has something to do; asked for after
    /// each start. `None` for a level at which the kernel does everything.
    fn watch(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Passes on what waits: output of processes that the level carries by itself, their ends.
    /// Never blocks.
    fn tend(&mut self) {}

    /// When [`Backend::adjust`] wants to be called; `None`: never.
    fn adjust_at(&self) -> Option<Instant> {
        None
    }

    /// Makes what the level gives the instance fit what the host has. It may wait for a moment.
    fn adjust(&mut self) {}

    /// Freezes all processes.
    ///
    /// # Errors
    /// When the host refuses.
    fn pause(&mut self) -> io::Result<()>;

    /// Thaws them.
    ///
    /// # Errors
    /// When the host refuses.
    fn resume(&mut self) -> io::Result<()>;

    /// Changes limits; all or none.
    ///
    /// # Errors
    /// When the host refuses a value.
    fn update(&mut self, resources: &Resources) -> io::Result<()>;

    /// Connects what runs to one network more.
    ///
    /// # Errors
    /// When the level or the kernel cannot; nothing is changed then.
    fn connect(
        &mut self,
        process: &Process,
        link: Link,
        wiring: &mut Wiring,
    ) -> Result<(), StartError>;

    /// Takes what runs off a network, by the network's id.
    ///
    /// # Errors
    /// When the level or the kernel cannot.
    fn disconnect(
        &mut self,
        process: &Process,
        network: &str,
        wiring: &mut Wiring,
    ) -> Result<(), StartError>;

    /// One reading.
    ///
    /// # Errors
    /// When nothing runs.
    fn stats(&mut self) -> io::Result<Stats>;

    /// Whether [`Backend::tend`] has heard, since this was asked last, that memory ran out.
    /// [`Backend::oom_kills`] may tell of it a moment later.
    fn has_run_out_of_memory(&mut self) -> bool {
        false
    }

    /// Times since the start that the kernel killed something inside for lack of memory.
    fn oom_kills(&mut self) -> u64;

    /// Whose memory it was, at the last of these; `None` when nobody can say.
    fn out_of_memory(&mut self) -> Option<MemoryOf>;

    /// Its files and processes, at a level at which the host cannot see them by itself.
    fn inside(&mut self) -> Option<Box<dyn inside::Inside + '_>> {
        None
    }

    /// What carries out its instructions, at a level at which that is not the processor alone.
    fn accelerator(&self) -> Option<Accelerator> {
        None
    }

    /// Nothing will be asked of it for a while: what can be had again need not be kept in memory.
    fn rest(&mut self);

    /// Takes away what a run needed (cgroup, mounts, sockets), after its end and off the hot
    /// path. Harmless when repeated, and able to finish what a killed supervisor began.
    ///
    /// # Errors
    /// All that could not be taken away, in one error.
    fn clean_up(&mut self) -> io::Result<()>;
}

/// Looks at what an instance is asked to be: is there anything that its level cannot do?
///
/// # Errors
/// The first that it cannot.
pub(crate) fn check(config: &InstanceConfig) -> Result<(), ConfigError> {
    match config.isolation {
        Isolation::Container => Ok(()),
        Isolation::Vm => vm::check(config),
    }
}

/// The same for limits alone.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_resources(
    isolation: Isolation,
    resources: &Resources,
) -> Result<(), ConfigError> {
    match isolation {
        Isolation::Container => Ok(()),
        Isolation::Vm => vm::check_resources(resources),
    }
}

/// The capabilities that can be given away at a level.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn capabilities(isolation: Isolation) -> io::Result<Capabilities> {
    match isolation {
        Isolation::Container => container::available_capabilities(),
        // Its own kernel's: all.
        Isolation::Vm => Ok(isle_runtime::capabilities::all().collect()),
    }
}

/// The back end of an instance's level of isolation, for its supervisor. The unpacked layers of
/// its image come topmost first, relative to the root where they are below it.
///
/// # Errors
/// [`StartError`] when what the instance was made of is not there any more.
pub(crate) fn open(
    instance: &Instance,
    paths: &Paths,
    layers: &[PathBuf],
) -> Result<Box<dyn Backend>, StartError> {
    match instance.config.isolation {
        Isolation::Container => {
            let container = container::Container::open(instance, paths, layers)?;
            Ok(Box::new(container))
        }
        Isolation::Vm => Ok(Box::new(vm::Vm::open(instance, paths, layers)?)),
    }
}

/// Makes the place where a new instance writes, when its size is limited.
///
/// # Errors
/// [`EngineError::InvalidConfig`] when the host cannot limit it.
pub(crate) fn make_storage(instance: &Instance, paths: &Paths) -> Result<(), EngineError> {
    match (instance.config.isolation, instance.config.storage_size) {
        (_, None) => Ok(()),
        (Isolation::Container, Some(size)) => container::limit_storage(instance, paths, size),
        // Its disk is made as large, and no larger, at the first start.
        (Isolation::Vm, Some(_)) => Ok(()),
    }
}

/// Takes away the folder of an instance, with all that it has written.
///
/// # Errors
/// When the host refuses.
pub(crate) fn remove_storage(instance: &Instance, paths: &Paths) -> io::Result<()> {
    let folder = paths.instance(&instance.id);
    let freed = match (instance.config.isolation, instance.config.storage_size) {
        (_, None) | (Isolation::Vm, Some(_)) => None,
        (Isolation::Container, Some(_)) => container::limited_storage(&folder),
    };
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    freed.map_or(Ok(()), |limit| limit.lift(paths))
}

/// Takes away what runs of an instance have left, when no supervisor is there to do it. Harmless
/// when there is nothing.
///
/// # Errors
/// When the host refuses.
pub(crate) fn clean_up(instance: &Instance, paths: &Paths) -> io::Result<()> {
    volume::release(paths, instance)?;
    match instance.config.isolation {
        Isolation::Container => container::clean_up(instance),
        Isolation::Vm => vm::clean_up(instance),
    }
}

/// Whether the host can look at an instance's files and processes by itself. Where it cannot,
/// [`Backend::inside`] is asked, of what runs or of [`open_at_rest`].
pub(crate) fn host_sees_files(instance: &Instance) -> bool {
    match instance.config.isolation {
        Isolation::Container => true,
        Isolation::Vm => false,
    }
}

/// A back end that has brought up what is needed to look at the files of an instance that does
/// not run. The caller holds the instance's lock, and calls [`Backend::clean_up`] at the end.
///
/// # Errors
/// [`StartError`]; for a level at which the host sees the files by itself.
pub(crate) fn open_at_rest(
    instance: &Instance,
    paths: &Paths,
    layers: &[PathBuf],
) -> Result<Box<dyn Backend>, StartError> {
    match instance.config.isolation {
        Isolation::Container => Err(StartError {
            message: "the host itself sees the files of a container".to_owned(),
            exit_code: 125,
        }),
        Isolation::Vm => Ok(Box::new(vm::Vm::open_at_rest(instance, paths, layers)?)),
    }
}

/// Makes what a start at this level needs and what takes long the first time, for who can show
/// that something happens. A start makes by itself what is missing then.
///
/// # Errors
/// [`StartError`], with the remedy.
pub(crate) fn make_ready(
    instance: &Instance,
    paths: &Paths,
    images: &isle_image::Store,
    progress: &mut (dyn FnMut(Preparation) + Send),
) -> Result<(), StartError> {
    match instance.config.isolation {
        Isolation::Container => Ok(()),
        Isolation::Vm => vm::make_ready(instance, paths, images, progress),
    }
}

/// The pids, on the host, of all processes of a running instance.
///
/// # Errors
/// When it does not run.
pub(crate) fn processes(instance: &Instance) -> io::Result<Vec<i32>> {
    match instance.config.isolation {
        Isolation::Container => container::processes(instance),
        Isolation::Vm => Ok(instance.state.pid.into_iter().collect()),
    }
}
