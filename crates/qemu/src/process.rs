//! A QEMU as a process: started confined, watched, ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use isle_cgroup::Cgroup;
use isle_sys::launch::confined::empty_root;
use isle_sys::launch::{self, Action, Event, Slot, Step};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::confinement::{self, Confined, Identity};

/// What QEMU says before its end, at most.
const MOST_SAID: usize = 16 << 10;
/// Threads of QEMU beside its virtual processors: the main loop, and 64 that read and write disks.
const THREADS: u64 = 80;

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Something before the process is made.
    #[error("cannot {what}")]
    Prepare {
        /// What, as a verb with its object.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The new process failed before it executed QEMU.
    #[error("cannot {step} for QEMU: {action}")]
    Step {
        /// What it was to do.
        step: String,
        /// What of it failed.
        action: Action,
        /// Why.
        source: io::Error,
    },
    /// It was killed before it executed QEMU.
    #[error("QEMU was killed while it started")]
    Killed,
}

impl ProcessError {
    pub(crate) fn prepare(what: impl Into<String>) -> impl FnOnce(io::Error) -> ProcessError {
        let what = what.into();
        move |source| ProcessError::Prepare { what, source }
    }
}

/// What a process is started with.
pub(crate) struct Request<'a> {
    /// Absolute, without links.
    pub program: &'a Path,
    pub arguments: &'a [String],
    pub identity: Identity,
    pub cgroup: Option<&'a Cgroup>,
    /// They become 3, 4, ….
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// Files of the host, and what they are called in the root.
    pub files: Vec<(&'a Path, &'static str)>,
    pub needs_kvm: bool,
    pub has_memory_file: bool,
    /// It ends with the calling thread.
    pub dies_with_parent: bool,
    pub vcpus: u32,
}

/// A running process, not yet collected.
#[derive(Debug)]
pub(crate) struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// What it writes to its standard error, as far as it fits.
    said: File,
}

/// The descriptors that the steps refer to.
#[derive(Default)]
struct Table<'a> {
    owned: Vec<OwnedFd>,
    borrowed: Vec<BorrowedFd<'a>>,
}

impl<'a> Table<'a> {
    fn all(&'a self) -> Vec<BorrowedFd<'a>> {
        let own = self.owned.iter().map(AsFd::as_fd);
        own.chain(self.borrowed.iter().copied()).collect()
    }
}

/// Starts a process. The listener comes with [`Request::has_memory_file`].
pub(crate) fn start(request: Request<'_>) -> Result<(Process, Option<OwnedFd>), ProcessError> {
    let mut table = Table::default();
    let mut own = |fd: OwnedFd| {
        table.owned.push(fd);
        Slot(table.owned.len() - 1)
    };
    let root = own(empty_root(64, MountAttrFlags::empty())
        .map_err(ProcessError::prepare("make a root for QEMU"))?);
    let mut files = Vec::new();
    for (path, name) in &request.files {
        let tree = one_file(path).map_err(ProcessError::prepare(format!(
            "let QEMU read {}",
            path.display()
        )))?;
        files.push((own(tree), *name));
    }
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = own(null
        .map_err(ProcessError::prepare("open /dev/null"))?
        .into());
    let said = bounded("qemu-errors", MOST_SAID)
        .map_err(ProcessError::prepare("make room for QEMU's messages"))?;
    let keep = said.try_clone();
    let errors = own(keep
        .map_err(ProcessError::prepare("keep QEMU's messages"))?
        .into());
    let mut joining = Vec::new();
    if let Some(cgroup) = request.cgroup {
        let name = cgroup.path().display().to_string();
        let join = cgroup.join_files().map_err(|error| ProcessError::Prepare {
            what: format!("open the control group {name}"),
            source: io::Error::other(error),
        })?;
        for file in join {
            joining.push(Step::Write {
                file: own(file),
                bytes: b"0".to_vec(),
                name: format!("to the control group {name}"),
            });
        }
    }
    let kvm = match request.needs_kvm {
        true => Some(kvm_device().map_err(ProcessError::prepare("look at /dev/kvm"))?),
        false => None,
    };
    let host = confinement::pieces_of_host(request.program)
        .map_err(ProcessError::prepare("look for QEMU's libraries"))?;
    let first = table.owned.len();
    table.borrowed = request.descriptors;
    let descriptors = (first..first + table.borrowed.len()).map(Slot).collect();
    let mut steps = joining;
    steps.extend(
        confinement::steps(&Confined {
            program: request.program,
            arguments: request.arguments,
            identity: request.identity,
            host: &host,
            root,
            files: &files,
            kvm,
            streams: [null, null, errors],
            descriptors,
            has_memory_file: request.has_memory_file,
            dies_with_parent: request.dies_with_parent,
            most_threads: THREADS + u64::from(request.vcpus),
        })
        .map_err(|error| ProcessError::Prepare {
            what: "make QEMU's seccomp filter".to_owned(),
            source: io::Error::other(error),
        })?,
    );
    let into = request.cgroup.and_then(Cgroup::clone_into);
    let launched = launch::launch(confinement::NAMESPACES, into, &steps, &table.all())
        .map_err(ProcessError::prepare("make a process for QEMU"))?;
    let (pid, pidfd, channel) = launched.into_parts();
    let process = Process { pid, pidfd, said };
    let guard = Guard(Some(process));
    let mut listener = None;
    loop {
        let event = launch::next_event(&channel)
            .map_err(ProcessError::prepare("hear the process of QEMU"))?;
        match event {
            Event::Listener(fd) => listener = Some(fd),
            Event::Failed(failure) => {
                let step = steps.get(failure.step);
                return Err(ProcessError::Step {
                    step: step.map(ToString::to_string).unwrap_or_default(),
                    action: failure.action,
                    source: match failure.text.is_empty() {
                        true => io::Error::from_raw_os_error(failure.errno),
                        false => io::Error::other(failure.text),
                    },
                });
            }
            // It has executed QEMU, or was killed: its pidfd tells.
            Event::Closed => break,
            Event::Reached(_) | Event::Terminal(_) | Event::Split { .. } | Event::Ready => {}
        }
    }
    if request.has_memory_file && listener.is_none() {
        return Err(ProcessError::Killed);
    }
    Ok((guard.keep(), listener))
}

/// A process that is killed unless it is kept.
#[derive(Debug)]
pub(crate) struct Guard(pub(crate) Option<Process>);

impl Guard {
    pub(crate) fn keep(mut self) -> Process {
        self.0.take().expect("taken once only")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            let _ = process.kill();
            let _ = process.reap();
        }
    }
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By a signal, with this number.
    Signal(i32),
}

impl Ended {
    fn of(status: WaitIdStatus) -> Ended {
        match status.exit_status() {
            Some(code) => Ended::Code(code),
            None => Ended::Signal(status.terminating_signal().unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "with code {code}"),
            Ended::Signal(signal) => write!(f, "by signal {signal}"),
        }
    }
}

impl Process {
    /// One that somebody else has started.
    pub(crate) fn adopt(pid: i32, pidfd: OwnedFd) -> io::Result<Process> {
        let said = File::open(format!("/proc/{pid}/fd/2"))?;
        Ok(Process { pid, pidfd, said })
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for its end and collects it; `None`: it is not a child of the caller.
    pub(crate) fn reap(&self) -> io::Result<Option<Ended>> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CHILD) => return Ok(None),
                Err(errno) => return Err(errno.into()),
                Ok(status) => {
                    return Ok(status.map(Ended::of));
                }
            }
        }
    }

    /// How it has ended, when it does so in time. It is not collected.
    pub(crate) fn has_ended(&self, within: Duration) -> Option<Ended> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: within.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: within.subsec_nanos().into(),
        };
        let _ = poll(&mut fds, Some(&timeout));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options).ok()??;
        Some(Ended::of(status))
    }

    /// What it has written to its standard error.
    pub(crate) fn said(&self) -> String {
        let text = read_bounded(&self.said, MOST_SAID);
        // It tells that it waits for clients, who were there before it, and that there is no network.
        let of_interest = |line: &&str| {
            !line.contains("info: QEMU waiting for connection")
                && !line.ends_with("is not connected to host network")
        };
        let lines: Vec<&str> = text.lines().filter(of_interest).collect();
        lines.join("\n")
    }
}

/// A file in memory that cannot grow beyond a size: writes that do not fit fail, and nobody waits.
pub(crate) fn bounded(name: &str, size: usize) -> io::Result<File> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, size as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd.into())
}

/// A file in memory for who begins by cutting it to nothing, as QEMU's `-chardev file` does, which a file
/// of a fixed size would refuse.
pub(crate) fn unbounded(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// An empty file, opened for reading only.
pub(crate) fn empty_file() -> io::Result<OwnedFd> {
    let file = unbounded("empty")?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(File::open(path)?.into())
}

/// What was written to such a file, from its beginning, at most `size` bytes.
pub(crate) fn read_bounded(file: &File, size: usize) -> String {
    let mut bytes = vec![0; size];
    let mut length = 0;
    while let Some(room) = bytes.get_mut(length..) {
        match file.read_at(room, length as u64) {
            Ok(0) | Err(_) => break,
            Ok(count) => length += count,
        }
    }
    let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or(&[]));
    text.trim_end_matches('\0').trim().to_owned()
}

/// A file as a mount that is attached nowhere.
fn one_file(path: &Path) -> io::Result<OwnedFd> {
    let about = std::fs::metadata(path)?;
    if about.mode() & 0o004 == 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is not readable by all (chmod o+r)",
        ));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

fn kvm_device() -> io::Result<u64> {
    let about = std::fs::metadata("/dev/kvm")?;
    match about.file_type().is_char_device() {
        true => Ok(about.rdev()),
        false => Err(io::Error::other("it is no device")),
    }
}

/// The same file once more, for writing only.
pub(crate) fn write_only(file: &File) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}
