//! Starts the server in a place where there is nothing but what it serves.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use isle_cgroup::Cgroup;
use isle_sys::launch::confined::{self, Confined, mounted, text};
use isle_sys::launch::{self, MountSource, Slot, Step, Target};
use isle_sys::mount::{self, Attributes};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::filter;

/// The name of the program.
pub const PROGRAM: &str = "isle-share";
/// Where the server sees itself.
const PROGRAM_INSIDE: &CStr = c"/isle-share";

/// What a process with these may do that other processes may not: what root of a container may do with
/// the files of a bind mount. Numbers of capabilities(7).
pub(crate) const CAPABILITIES: u64 = {
    const CHOWN: u64 = 1 << 0;
    const DAC_OVERRIDE: u64 = 1 << 1;
    const DAC_READ_SEARCH: u64 = 1 << 2;
    const FOWNER: u64 = 1 << 3;
    const FSETID: u64 = 1 << 4;
    const SETGID: u64 = 1 << 6;
    const SETUID: u64 = 1 << 7;
    const MKNOD: u64 = 1 << 27;
    const SETFCAP: u64 = 1 << 31;
    CHOWN | DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER | FSETID | SETGID | SETUID | MKNOD | SETFCAP
};

/// The most shares of one server.
pub const MAX_SHARES: usize = 256;

/// A folder or file of the host for a guest.
#[derive(Debug)]
pub struct Share {
    /// The folder or file; `O_PATH` is enough.
    pub source: OwnedFd,
    /// Whether what is mounted below it comes with it.
    pub is_recursive: bool,
    /// Whether the guest may only read.
    pub is_read_only: bool,
}

/// What [`spawn`] needs.
#[derive(Debug)]
pub struct Request<'a> {
    /// The program `isle-share` on the host, see [`PROGRAM`].
    pub program: &'a Path,
    /// What to serve: the first is entry `0` for the guest, and so on.
    pub shares: &'a [Share],
    /// A connected stream socket: the host's end of the guest's port.
    pub connection: BorrowedFd<'a>,
    /// Where the server's messages go; `None`: nowhere.
    pub messages: Option<BorrowedFd<'a>>,
    /// The control group that the server runs in; `None`: the caller's.
    pub cgroup: Option<&'a Cgroup>,
    /// A directory that the server's root is attached to, in a mount namespace that nobody else sees.
    pub place: &'a Path,
}

/// A server that runs. It ends when the other end of its connection is closed. It is the caller's child.
#[derive(Debug)]
pub struct Server {
    /// Its pid, as the caller sees it.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
}

/// Why a server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program is missing, or something about it.
    #[error("cannot use the program {}", path.display())]
    Program {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder or file cannot be handed over.
    #[error("cannot hand share {index} over to the guest")]
    Share {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: io::Error,
    },
    /// More than a server takes.
    #[error("there are {0} shares; one guest gets at most {MAX_SHARES}")]
    TooMany(usize),
    /// The control group cannot be joined.
    #[error("cannot use the control group")]
    Cgroup(#[source] isle_cgroup::Error),
    /// The process cannot be prepared.
    #[error("cannot {what}")]
    Prepare {
        /// What failed.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// Starts a server. It has namespaces of its own for everything but users; its root holds nothing but the
/// shares, each without set-user-id programs, devices and execution, and its own program. Its capabilities are those that root in a container has over
/// files; its system calls are those that files need.
///
/// Returns once the program is executed. From then on the server needs nobody: whoever started it may end.
///
/// # Errors
/// [`SpawnError`]
pub fn spawn(request: &Request<'_>) -> Result<Server, SpawnError> {
    if request.shares.len() > MAX_SHARES {
        return Err(SpawnError::TooMany(request.shares.len()));
    }
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source: io::Error| SpawnError::Prepare { what, source }
    };
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root =
        confined::empty_root(1000, attributes).map_err(failed("make an empty root file system"))?;
    let program = program(request.program).map_err(|source| SpawnError::Program {
        path: request.program.to_owned(),
        source,
    })?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed("open /dev/null"))?;
    let mut trees = Vec::new();
    for (index, share) in request.shares.iter().enumerate() {
        trees.push(tree(share).map_err(|source| SpawnError::Share { index, source })?);
    }
    let join = match request.cgroup {
        Some(cgroup) => cgroup.join_files().map_err(SpawnError::Cgroup)?,
        None => Vec::new(),
    };
    let mut slots = vec![
        root.as_fd(),
        program.as_fd(),
        request.connection,
        null.as_fd(),
        request.messages.unwrap_or(null.as_fd()),
    ];
    let first_tree = slots.len();
    slots.extend(trees.iter().map(|(tree, _)| tree.as_fd()));
    let first_join = slots.len();
    slots.extend(join.iter().map(AsFd::as_fd));

    let mut steps: Vec<Step> = (first_join..slots.len())
        .map(|slot| Step::Write {
            file: Slot(slot),
            bytes: b"0".to_vec(),
            name: "to the control group".to_owned(),
        })
        .collect();
    let kinds: Vec<Target> = trees.iter().map(|(_, kind)| *kind).collect();
    let place = text(request.place).map_err(failed("name the place of the root"))?;
    steps.extend(plan(place, first_tree, &kinds).map_err(failed("compile the seccomp policy"))?);

    let flags = {
        use launch::namespace::{IPC, MOUNT, NETWORK, PID, UTS};
        IPC | MOUNT | NETWORK | PID | UTS
    };
    let into = request.cgroup.and_then(Cgroup::clone_into);
    let executed =
        confined::execute(flags, into, &steps, &slots).map_err(|refused| SpawnError::Prepare {
            what: refused.what,
            source: refused.source,
        })?;
    Ok(Server {
        pid: executed.pid,
        pidfd: executed.pidfd,
    })
}

/// What the new process does. Slots: root, program, connection, `/dev/null`, messages, then the shares.
fn plan(place: CString, first_tree: usize, kinds: &[Target]) -> io::Result<Vec<Step>> {
    let own = mount::RDONLY | mount::NOSUID | mount::NODEV;
    let mut content = vec![
        mounted(
            MountSource::Tree(Slot(1)),
            PROGRAM_INSIDE.to_owned(),
            Target::File,
            Attributes::new(own, 0, 0),
        ),
        // For /proc/self/fd, through which a file is opened that is only known by descriptor. It shows no process but this.
        mounted(
            MountSource::New {
                filesystem: c"proc".to_owned(),
                options: vec![(c"subset".to_owned(), Some(c"pid".to_owned()))],
                attributes: mount::NOSUID | mount::NODEV | mount::NOEXEC,
            },
            c"/proc".to_owned(),
            Target::Directory,
            Attributes::default(),
        ),
    ];
    for (index, kind) in kinds.iter().enumerate() {
        content.push(mounted(
            MountSource::Tree(Slot(first_tree + index)),
            text(format!("/{index}"))?,
            *kind,
            Attributes::default(),
        ));
    }
    let confined = Confined {
        root: Slot(0),
        place,
        content,
        streams: [Slot(2), Slot(3), Slot(4)],
        capabilities: CAPABILITIES,
        are_inherited: false,
        umask: 0,
        seccomp: filter::program()?,
        program: PROGRAM_INSIDE.to_owned(),
        arguments: vec![text(PROGRAM)?, text(kinds.len().to_string())?],
        environment: Vec::new(),
    };
    let mut steps = vec![Step::Unshare(launch::namespace::CGROUP)];
    steps.extend(confined.steps());
    Ok(steps)
}

/// A share as a mount that is attached nowhere, and what it is attached to.
fn tree(share: &Share) -> io::Result<(OwnedFd, Target)> {
    let kind = rustix::fs::statx(&share.source, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    let target = match FileType::from_raw_mode(kind.stx_mode.into()) {
        FileType::Directory => Target::Directory,
        _ => Target::File,
    };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if target == Target::Directory && share.is_recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(&share.source, "", flags)?;
    let mut set = mount::NOSUID | mount::NODEV | mount::NOEXEC | mount::NOSYMFOLLOW;
    if share.is_read_only {
        set |= mount::RDONLY;
    }
    let attributes = Attributes::new(set, 0, mount::PRIVATE);
    mount::set_attributes(tree.as_fd(), true, &attributes)?;
    Ok((tree, target))
}

fn program(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(rustix::fs::CWD, path, flags)?)
}
