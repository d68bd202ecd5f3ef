//! What a new process does before it executes its program, as data.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::instructions;
use crate::mount::Attributes;

/// An index into the table of descriptors that a process is launched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot(pub usize);

/// Arguments or environment as execve(2) takes them.
pub struct Strings {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    /// A list of strings.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Strings {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Strings { strings, pointers }
    }

    /// The strings.
    #[must_use]
    pub fn as_slice(&self) -> &[CString] {
        &self.strings
    }

    pub(super) fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

impl Clone for Strings {
    fn clone(&self) -> Self {
        Strings::new(self.strings.clone())
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.strings.fmt(f)
    }
}

impl PartialEq for Strings {
    fn eq(&self, other: &Self) -> bool {
        self.strings == other.strings
    }
}

impl Eq for Strings {}

impl Serialize for Strings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.strings.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        Vec::deserialize(deserializer).map(Strings::new)
    }
}

// SAFETY: the pointers refer to the heap buffers of `strings`, which nobody changes.
unsafe impl Send for Strings {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for Strings {}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// fsopen(2) in the new process, so that the file system belongs to its namespaces.
    New {
        /// The type, as in `/proc/filesystems`.
        filesystem: CString,
        /// Keys with their values, or flags.
        options: Vec<(CString, Option<CString>)>,
        /// Attributes of the mount, see [`crate::mount`].
        attributes: u64,
    },
    /// A mount that the parent has made and attached nowhere.
    Tree(Slot),
    /// A directory below the root that is mounted once more.
    Inside(CString),
    /// A path of the host, mounted once more.
    Host {
        /// The path.
        path: CString,
        /// With all that is mounted below.
        recursive: bool,
    },
}

/// What a mount is attached to, when nothing is there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Made as a directory.
    Directory,
    /// Made as an empty file.
    File,
}

/// One thing to do. Paths that are said to be *inside* are relative to the new root, and are opened
/// beneath it (openat2(2), `RESOLVE_IN_ROOT`), without magic links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Tells the parent that this point is reached and waits for its answer.
    Meet(u32),
    /// Writes to a file that the parent has opened.
    Write {
        /// The open file.
        file: Slot,
        /// What is written, at once.
        bytes: Vec<u8>,
        /// For messages.
        name: String,
    },
    /// Writes to a file below the host's procfs, opened without following links. The procfs is a
    /// directory descriptor that the parent has verified.
    WriteProc {
        /// `/proc`
        proc: Slot,
        /// Path below it.
        path: CString,
        /// What is written.
        bytes: Vec<u8>,
        /// For messages, like `set the sysctl net.ipv4.ip_forward`.
        purpose: String,
    },
    /// unshare(2)
    Unshare(u64),
    /// setns(2)
    Enter {
        /// A namespace, or a pidfd.
        namespace: Slot,
        /// Which kinds.
        kinds: u64,
    },
    /// Goes on in a new process that has the same parent, for namespaces that only children enter.
    Split {
        /// `CLONE_NEW*`
        flags: u64,
    },
    /// Takes user and group 0 of the user namespace.
    BecomeRoot,
    /// `PR_SET_DUMPABLE`
    Dumpable(bool),
    /// setsid(2)
    NewSession,
    /// Joins a new session keyring, see keyrings(7).
    NewKeyring(CString),
    /// Brings the loopback interface up.
    LoopbackUp,
    /// sethostname(2)
    HostName(CString),
    /// setdomainname(2)
    DomainName(CString),
    /// Changes how mount events spread, for every mount of the namespace.
    Propagate(u64),
    /// Attaches the new root file system over the current root, or at a path of the host.
    AttachRoot {
        /// The detached tree.
        tree: Slot,
        /// Where.
        at: CString,
    },
    /// Mounts inside.
    Mount {
        /// What.
        source: MountSource,
        /// Where, inside.
        target: CString,
        /// What to make there.
        kind: Target,
        /// Set before it is attached.
        attributes: Attributes,
        /// Set before it is attached, on all mounts of the tree.
        recursive_attributes: Attributes,
        /// Copies what the directory holds into the new file system first.
        copy_up: bool,
    },
    /// Makes a device node inside, or verifies that it is there.
    Device {
        /// Inside.
        path: CString,
        /// Type and permissions as in stat(2).
        mode: u32,
        /// Device number.
        device: u64,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Makes a symbolic link inside unless the name is taken.
    Link {
        /// What it holds.
        target: CString,
        /// Inside.
        path: CString,
    },
    /// Makes a directory inside, with its parents.
    Directory(CString),
    /// Hides a path inside, if it is there: a file behind `/dev/null`, a directory behind an empty
    /// read-only file system.
    Mask(CString),
    /// Makes a path inside read-only, with all that is mounted below, if it is there.
    ReadOnly(CString),
    /// Changes the attributes of a mount inside.
    SetAttributes {
        /// Where it is mounted.
        path: CString,
        /// Of this mount.
        attributes: Attributes,
        /// Of this mount and all below.
        recursive_attributes: Attributes,
    },
    /// Opens a terminal of the devpts inside, makes it the controlling terminal and the standard
    /// streams, and sends its master to the parent.
    Terminal {
        /// Rows and columns.
        size: Option<(u16, u16)>,
        /// Whether to mount it on `/dev/console`.
        console: bool,
        /// Its owner.
        uid: u32,
    },
    /// Takes the root as the root of the mount namespace.
    PivotRoot,
    /// Changes the root directory, without pivot_root(2): for hosts that run from an initramfs. The
    /// old root stays mounted below.
    MoveRoot {
        /// Whether the root is attached over `/` already; else it is moved there.
        is_over_root: bool,
    },
    /// Sets attributes of the mount at `/`.
    RootAttributes {
        /// Which.
        attributes: Attributes,
        /// With all below.
        recursive: bool,
    },
    /// Makes these the standard streams.
    Streams([Slot; 3]),
    /// Gives the standard streams to a user, where they can be given.
    OwnStreams(u32),
    /// The process is killed when the thread that has launched it ends (`PR_SET_PDEATHSIG`). After the user is
    /// changed, which would undo it.
    DieWithParent,
    /// No memory of the program is backed by huge pages (`PR_SET_THP_DISABLE`), whatever it asks for.
    NoHugePages,
    /// Makes these the descriptors 3, 4, … of the program, at most 64 of them. What had these numbers
    /// before is closed, so that no later step may use a slot.
    Descriptors(Vec<Slot>),
    /// prlimit(2)
    ResourceLimit {
        /// `RLIMIT_*`
        resource: u32,
        /// Its name.
        name: Cow<'static, str>,
        /// Current limit.
        soft: u64,
        /// Ceiling.
        hard: u64,
    },
    /// sched_setattr(2), the structure of sched(7).
    Scheduler(SchedulerAttributes),
    /// ioprio_set(2): class and priority in one number.
    IoPriority(i32),
    /// sched_setaffinity(2): a bit mask, and its text for messages.
    Affinity(Vec<u64>, String),
    /// personality(2)
    Personality(u64),
    /// set_mempolicy(2)
    MemoryPolicy {
        /// `MPOL_*`
        mode: i32,
        /// Bit mask of nodes.
        nodes: Vec<u64>,
    },
    /// `PR_SET_NO_NEW_PRIVS`
    NoNewPrivileges,
    /// Installs a seccomp program, see seccomp(2).
    Seccomp {
        /// The program.
        #[serde(with = "instructions")]
        program: Vec<Instruction>,
        /// `SECCOMP_FILTER_FLAG_*`
        flags: u64,
        /// Whether to send the listener to the parent.
        listener: bool,
    },
    /// setgroups(2), setresgid(2), setresuid(2), keeping permitted capabilities.
    User {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// All supplementary groups; `None`: as they are, where setgroups(2) is denied.
        groups: Option<Vec<u32>>,
    },
    /// The bounding set of capabilities(7), taken before the user is changed.
    BoundingSet(u64),
    /// The other sets of capabilities(7).
    Capabilities {
        /// Effective.
        effective: u64,
        /// Permitted.
        permitted: u64,
        /// Inheritable.
        inheritable: u64,
        /// Ambient.
        ambient: u64,
    },
    /// umask(2)
    Umask(u32),
    /// Changes the working directory, inside, and proves that it is inside.
    WorkingDirectory(CString),
    /// Finds the first program that can be executed.
    FindProgram {
        /// As the caller named it.
        name: String,
        /// Where it may be.
        candidates: Vec<CString>,
    },
    /// Tells the parent that all is ready, and waits until the container is started: by a byte from
    /// the parent, or from whoever connects to a listening socket. What goes wrong from here on is
    /// reported there. Descriptors that are not needed any more are closed before.
    AwaitStart {
        /// The listening socket.
        listener: Option<Slot>,
        /// Descriptors below this one stay open.
        close_from: u32,
    },
    /// Runs a program to its end.
    Hook {
        /// The program.
        path: CString,
        /// Its arguments.
        arguments: Strings,
        /// Its environment.
        environment: Strings,
        /// Its standard input, up to the process id that the container's state holds.
        input_before_pid: Vec<u8>,
        /// The rest of it.
        input_after_pid: Vec<u8>,
        /// How long it may take; `None`: for ever.
        timeout_ms: Option<i32>,
        /// Its kind, as the runtime specification names it.
        name: Cow<'static, str>,
    },
    /// Closes every descriptor from this one on at execve(2).
    CloseFrom(u32),
    /// Executes what [`Step::FindProgram`] has found.
    Execute {
        /// Its arguments.
        arguments: Strings,
        /// Its environment.
        environment: Strings,
    },
}

/// `struct sched_attr` of sched_setattr(2), first version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct SchedulerAttributes {
    /// Size of the structure.
    pub size: u32,
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// Nice value for `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// Static priority for `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub period: u64,
}

/// One classic BPF instruction, `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

fn text(path: &CStr) -> std::borrow::Cow<'_, str> {
    path.to_string_lossy()
}

/// A path inside, as the container sees it.
struct Inside<'a>(&'a CStr);

impl fmt::Display for Inside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", text(self.0).trim_start_matches('/'))
    }
}

/// The kinds of namespaces in a mask of `CLONE_NEW*`, by the names of namespaces(7).
pub struct NamespaceKinds(pub u64);

impl fmt::Display for NamespaceKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KINDS: [(u64, &str); 8] = [
            (0x1000_0000, "user"),
            (0x0002_0000, "mount"),
            (0x2000_0000, "pid"),
            (0x4000_0000, "network"),
            (0x0800_0000, "ipc"),
            (0x0400_0000, "uts"),
            (0x0200_0000, "cgroup"),
            (0x0000_0080, "time"),
        ];
        let mut separator = "";
        for (bit, name) in KINDS {
            if self.0 & bit != 0 {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl fmt::Display for MountSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountSource::New { filesystem, .. } => f.write_str(&text(filesystem)),
            MountSource::Tree(Slot(slot)) => write!(f, "tree {slot}"),
            MountSource::Inside(path) => Inside(path).fmt(f),
            MountSource::Host { path, .. } => write!(f, "{} of the host", text(path)),
        }
    }
}

/// An imperative phrase, so that "cannot {step}" is the outer text of an error.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Meet(_) => f.write_str("wait for the parent process"),
            Step::Write { name, .. } => write!(f, "write {name}"),
            Step::WriteProc { purpose, .. } => f.write_str(purpose),
            Step::Unshare(kinds) => write!(f, "make namespaces: {}", NamespaceKinds(*kinds)),
            Step::Enter { kinds, .. } => write!(f, "enter namespaces: {}", NamespaceKinds(*kinds)),
            Step::Split { flags } if *flags == 0 => f.write_str("make the process"),
            Step::Split { flags } => {
                write!(
                    f,
                    "make the process with namespaces: {}",
                    NamespaceKinds(*flags)
                )
            }
            Step::BecomeRoot => f.write_str("become root of the user namespace"),
            Step::Dumpable(_) => f.write_str("set whether the process can be traced"),
            Step::NewSession => f.write_str("make a session"),
            Step::NewKeyring(name) => write!(f, "make the session keyring {}", text(name)),
            Step::LoopbackUp => f.write_str("bring the loopback interface up"),
            Step::HostName(name) => write!(f, "set the host name {:?}", text(name)),
            Step::DomainName(name) => write!(f, "set the domain name {:?}", text(name)),
            Step::Propagate(_) => f.write_str("set how mounts of the host propagate"),
            Step::AttachRoot { at, .. } => {
                write!(f, "attach the root file system at {}", text(at))
            }
            Step::Mount { source, target, .. } => write!(f, "mount {source} on {}", Inside(target)),
            Step::Device { path, .. } => write!(f, "make the device {}", Inside(path)),
            Step::Link { target, path } => {
                write!(f, "link {} to {}", Inside(path), text(target))
            }
            Step::Directory(path) => write!(f, "make the directory {}", Inside(path)),
            Step::Mask(path) => write!(f, "mask {}", Inside(path)),
            Step::ReadOnly(path) => write!(f, "make {} read-only", Inside(path)),
            Step::SetAttributes { path, .. } => {
                write!(f, "set the attributes of the mount {}", Inside(path))
            }
            Step::Terminal { .. } => f.write_str("open a terminal"),
            Step::PivotRoot => f.write_str("change the root of the mount namespace"),
            Step::MoveRoot { .. } => f.write_str("move the root file system to /"),
            Step::RootAttributes { .. } => f.write_str("set the attributes of the root mount"),
            Step::Streams(_) => f.write_str("set the standard streams"),
            Step::OwnStreams(uid) => write!(f, "give the standard streams to user {uid}"),
            Step::DieWithParent => f.write_str("end with the parent process"),
            Step::NoHugePages => f.write_str("do without huge pages"),
            Step::Descriptors(slots) => write!(f, "pass {} descriptors on", slots.len()),
            Step::ResourceLimit {
                name, soft, hard, ..
            } => {
                write!(f, "set {name} to {} (hard {})", Limit(*soft), Limit(*hard))
            }
            Step::Scheduler(attributes) => {
                write!(f, "set the scheduling policy {}", attributes.policy)
            }
            Step::IoPriority(_) => f.write_str("set the I/O priority"),
            Step::Affinity(_, cpus) => write!(f, "bind the process to the CPUs {cpus}"),
            Step::Personality(persona) => write!(f, "set the personality {persona:#x}"),
            Step::MemoryPolicy { .. } => f.write_str("set the memory policy"),
            Step::NoNewPrivileges => f.write_str("set no_new_privs"),
            Step::Seccomp { program, .. } => {
                write!(
                    f,
                    "install the seccomp policy ({} instructions)",
                    program.len()
                )
            }
            Step::User { uid, gid, .. } => write!(f, "become user {uid} and group {gid}"),
            Step::BoundingSet(_) => f.write_str("set the bounding set of capabilities"),
            Step::Capabilities { .. } => f.write_str("set the capabilities"),
            Step::Umask(mask) => write!(f, "set the file mode creation mask {mask:04o}"),
            Step::WorkingDirectory(path) => {
                write!(f, "change to the working directory {:?}", text(path))
            }
            Step::FindProgram { name, .. } if name.contains('/') => write!(f, "find {name:?}"),
            Step::FindProgram { name, .. } => write!(f, "find {name:?} in PATH"),
            Step::AwaitStart { .. } => f.write_str("wait for the start"),
            Step::Hook { name, path, .. } => write!(f, "run the {name} hook {}", text(path)),
            Step::CloseFrom(first) => write!(f, "close the descriptors from {first} on"),
            Step::Execute { arguments, .. } => match arguments.as_slice().first() {
                Some(program) => write!(f, "execute {:?}", text(program)),
                None => f.write_str("execute"),
            },
        }
    }
}

struct Limit(u64);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u64::MAX {
            f.write_str("unlimited")
        } else {
            self.0.fmt(f)
        }
    }
}
