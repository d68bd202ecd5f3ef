//! A program of the host in a root of its own, with nothing in it but what it is handed: the steps that every such
//! program has in common, and its start.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::{Event, Instruction, Launched, MountSource, Slot, Step, Strings, Target, launch};
use crate::mount::{self, Attributes};

/// What the process is, and what it has.
#[derive(Debug)]
pub struct Confined {
    /// Its root, see [`empty_root`]; in the end read-only, without devices and set-user-id programs.
    pub root: Slot,
    /// A directory of the host that the root is attached to, in a mount namespace that nobody else sees.
    pub place: CString,
    /// What is mounted and made in the root.
    pub content: Vec<Step>,
    /// Standard input, output and errors.
    pub streams: [Slot; 3],
    /// The capabilities that it can ever have, by the numbers of capabilities(7). It is user and group 0, in no
    /// further group.
    pub capabilities: u64,
    /// Whether a program that is no program for capabilities has them too (ambient and inheritable sets).
    pub are_inherited: bool,
    /// Permissions that its files do not get.
    pub umask: u32,
    /// What may be called.
    pub seccomp: Vec<Instruction>,
    /// The program, as a path in the root.
    pub program: CString,
    /// Its arguments, its name among them.
    pub arguments: Vec<CString>,
    /// Its environment.
    pub environment: Vec<CString>,
}

/// A process that has executed its program.
#[derive(Debug)]
pub struct Executed {
    /// Its pid, as the caller sees it. It is the caller's child.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
}

/// Why a program was not executed.
#[derive(Debug)]
pub struct NotExecuted {
    /// What the new process was to do, as a verb with its object.
    pub what: String,
    /// Why it could not.
    pub source: io::Error,
}

impl Confined {
    /// The steps, for a process in new namespaces of mounts and processes at least.
    #[must_use]
    pub fn steps(self) -> Vec<Step> {
        let inherited = if self.are_inherited {
            self.capabilities
        } else {
            0
        };
        let mut steps = vec![
            Step::Propagate(mount::PRIVATE),
            Step::AttachRoot {
                tree: self.root,
                at: self.place,
            },
        ];
        steps.extend(self.content);
        steps.extend([
            Step::PivotRoot,
            Step::RootAttributes {
                attributes: Attributes::new(mount::RDONLY | mount::NOSUID | mount::NODEV, 0, 0),
                recursive: false,
            },
            Step::NewSession,
            Step::Streams(self.streams),
            Step::ResourceLimit {
                resource: RLIMIT_CORE,
                name: "RLIMIT_CORE".into(),
                soft: 0,
                hard: 0,
            },
            Step::NoNewPrivileges,
            Step::BoundingSet(self.capabilities),
            Step::User {
                uid: 0,
                gid: 0,
                groups: Some(Vec::new()),
            },
            Step::Capabilities {
                effective: self.capabilities,
                permitted: self.capabilities,
                inheritable: inherited,
                ambient: inherited,
            },
            Step::Umask(self.umask),
            Step::FindProgram {
                name: self.program.to_string_lossy().into_owned(),
                candidates: vec![self.program],
            },
            Step::Seccomp {
                program: self.seccomp,
                flags: 0,
                listener: false,
            },
            Step::CloseFrom(3),
            Step::Execute {
                arguments: Strings::new(self.arguments),
                environment: Strings::new(self.environment),
            },
        ]);
        steps
    }
}

/// Of setrlimit(2); the same on every architecture that Linux has.
const RLIMIT_CORE: u32 = 4;

/// [`launch`], up to the moment when the program is executed; for steps that ask the caller nothing.
///
/// # Errors
/// [`NotExecuted`]; the process has ended then, and is collected.
pub fn execute(
    flags: u64,
    into: Option<BorrowedFd<'_>>,
    steps: &[Step],
    slots: &[BorrowedFd<'_>],
) -> Result<Executed, NotExecuted> {
    let failed = |what: &str| {
        let what = what.to_owned();
        |source| NotExecuted { what, source }
    };
    let launched = launch(flags, into, steps, slots).map_err(failed("make a process"))?;
    let event = launched.next_event();
    let Launched { pid, pidfd, .. } = launched;
    let refused = match event {
        Ok(Event::Closed) => return Ok(Executed { pid, pidfd }),
        Ok(Event::Failed(failure)) => NotExecuted {
            what: steps
                .get(failure.step)
                .map_or_else(|| "prepare the process".to_owned(), ToString::to_string),
            source: match failure.text.is_empty() {
                true => io::Error::from_raw_os_error(failure.errno),
                false => io::Error::new(
                    io::Error::from_raw_os_error(failure.errno).kind(),
                    failure.text,
                ),
            },
        },
        Ok(event) => failed("follow the process")(io::Error::other(format!("it said {event:?}"))),
        Err(error) => failed("follow the process")(error),
    };
    // It has failed and ends, or is out of step and must.
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    Err(refused)
}

/// A mount of a process's content, without anything of what is mounted below it.
#[must_use]
pub fn mounted(source: MountSource, target: CString, kind: Target, attributes: Attributes) -> Step {
    Step::Mount {
        source,
        target,
        kind,
        attributes,
        recursive_attributes: Attributes::default(),
        copy_up: false,
    }
}

/// An empty file system in memory with room for so many files and folders, attached nowhere.
///
/// # Errors
/// When the kernel refuses it.
pub fn empty_root(inodes: u32, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", "64k")?;
    fsconfig_set_string(&context, "nr_inodes", inodes.to_string())?;
    fsconfig_set_string(&context, "mode", "0755")?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// A path as the kernel takes it.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when a zero byte is in it.
pub fn text(path: impl AsRef<Path>) -> io::Result<CString> {
    CString::new(path.as_ref().as_os_str().as_bytes())
        .map_err(|_| io::ErrorKind::InvalidInput.into())
}
