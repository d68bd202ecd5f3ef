//! What is said.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frame::NONCE;
use crate::{Bytes, MAX_FAILURE};

/// Why a message cannot be read.
pub type DecodeError = postcard::Error;

/// A message as bytes.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).expect("messages have known lengths")
}

/// Reads a message, all of it.
///
/// # Errors
/// When it is none, or something follows it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        _ => Err(DecodeError::DeserializeBadEncoding),
    }
}

/// How a host end introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`].
    pub version: u16,
    /// What the agent says before its answer; nobody could have known it.
    pub nonce: [u8; NONCE],
}

/// How the agent introduces itself. Streams of the tasks are sent from where they were acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`crate::VERSION`].
    pub version: u16,
    /// The release of the guest's kernel, as uname(2) says it.
    pub kernel: String,
    /// Whether [`Request::Prepare`] was carried out.
    pub is_prepared: bool,
    /// The tasks that were not forgotten.
    pub tasks: Vec<TaskState>,
}

/// A task, for a host end that does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    /// Its number.
    pub task: u32,
    /// Bytes of standard input that have come.
    pub stdin: u64,
    /// Bytes of standard output that were acknowledged.
    pub stdout: u64,
    /// Bytes of standard error that were acknowledged.
    pub stderr: u64,
    /// Whether it has a terminal.
    pub has_terminal: bool,
}

/// What the host asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Makes the guest this instance's: entropy, time, names, network, files, root file system.
    Prepare(Box<Prepare>),
    /// Executes the instance's own process, as task [`crate::WORKLOAD`].
    Start(Box<Start>),
    /// Executes a further process.
    Exec(Box<Exec>),
    /// Sends a signal to the process of a task. Ends a task that is none.
    Signal {
        /// Which.
        task: u32,
        /// Its number.
        signal: u8,
    },
    /// Kills every process of the instance.
    KillAll,
    /// Tells the size of a task's terminal.
    Resize {
        /// Which.
        task: u32,
        /// How large.
        size: WindowSize,
    },
    /// What was used so far.
    Stats,
    /// The limits in force, which a change of one half of a pair needs: `cpu.max` and `memory.max`.
    Limits,
    /// Changes limits; all or none.
    SetLimits(Vec<Limit>),
    /// Sets the wall clock.
    SetClock(Clock),
    /// What a path inside is.
    Stat(Bytes),
    /// Sends a tree of files as a tar archive: a task whose standard output it is.
    ReadTree(ReadTree),
    /// Unpacks a tar archive: a task whose standard input it is.
    WriteTree(WriteTree),
    /// What differs from the image: a task whose standard output are records of [`crate::records`].
    Changes {
        /// The number of the task.
        task: u32,
    },
    /// All processes of the instance: likewise.
    Processes {
        /// The number of the task.
        task: u32,
    },
    /// Sends the streams of a task to this host end, from where they were acknowledged. Tasks that it has begun
    /// itself need no such request.
    Attach {
        /// Which.
        task: u32,
    },
    /// Nobody reads this stream any more: the one who writes it hears so, as at a pipe.
    Close {
        /// The task.
        task: u32,
        /// Standard output or standard error.
        stream: Stream,
    },
    /// The task has ended and its host end knows it: its number is free.
    Forget {
        /// Which.
        task: u32,
    },
    /// The instance was a rehearsal, in a guest that is to be copied or to wait: its processes have ended, and the guest
    /// is nobody's again.
    Reset {
        /// The root file system stays mounted, and each copy that asks for the same one finds it so; a writable disk of a
        /// copy must hold, byte for byte, what that of this guest holds when it is copied. Else it is let go, and the disks
        /// may become others.
        keeps_root: bool,
        /// Files of the root file system that are read, so that they are in memory. Those that are not there are left out.
        read: Vec<Bytes>,
    },
    /// Puts the guest on one network more.
    Connect(Box<Network>),
    /// Takes it off the network of a card.
    Disconnect {
        /// Which, from 0.
        card: u8,
    },
    /// Gives blocks that no file has back to the host, see fstrim(8).
    Trim,
    /// Writes everything back, lets the file systems go, and switches the guest off.
    Shutdown,
}

/// A time since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Seconds.
    pub seconds: u64,
    /// Nanoseconds beyond them.
    pub nanoseconds: u32,
}

/// What makes a guest one certain instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Entropy for the kernel, mixed in before anything else is done.
    pub seed: [u8; 32],
    /// The wall clock.
    pub clock: Clock,
    /// The name of the guest itself; that of the instance is in the plan.
    pub hostname: String,
    /// Its networks; without any there is loopback alone.
    pub networks: Vec<Network>,
    /// Files that the plan's bind mounts refer to, written below `/run/isle/files` of the guest.
    pub files: Vec<File>,
    /// Folders and files of the host; `None`: there are none.
    pub shares: Option<Shares>,
    /// The root file system, on the machine's disks; `None`: the workload's is one of the shares.
    pub root: Option<Root>,
}

/// Folders and files of the host that the plan's bind mounts refer to. The guest sees them as
/// [`SHARES`](crate::SHARES)`/0`, `/1` and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The name of the virtio-serial port that they are served over, see the crate `isle-share`.
    pub port: String,
}

/// A file that the host hands over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name, without `/`.
    pub name: String,
    /// Permissions.
    pub mode: u32,
    /// What is in it.
    pub content: Bytes,
}

/// The root file system: a read-only disk below, something writable above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The image.
    pub image: Disk,
    /// Where writes go.
    pub writable: Writable,
    /// Writes need not survive the end of the guest: nothing is ever synced for them, see overlayfs.rst, "Volatile mount".
    pub is_volatile: bool,
}

/// A block device with a file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name in `/dev`, like `vda`.
    pub device: String,
    /// Like `erofs`.
    pub filesystem: String,
    /// Options for the file system, as mount(8) takes them.
    pub options: String,
}

/// Where writes to the root file system go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writable {
    /// To a disk.
    Disk(Disk),
    /// To the guest's memory.
    Memory {
        /// At most so many bytes; `None`: half of the memory.
        size: Option<u64>,
    },
    /// Nowhere: the image is all there is.
    #[default]
    Nowhere,
}

/// A network that the guest is on, by one of its cards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Which of the machine's cards, from 0.
    pub card: u8,
    /// What its interface is called, like `eth0`.
    pub interface: String,
    /// Its address.
    pub mac: [u8; 6],
    /// The largest packet; `None`: as it is.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<NetworkAddress>,
    /// Routes beyond them.
    pub routes: Vec<NetworkRoute>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAddress {
    /// The address.
    pub address: std::net::IpAddr,
    /// Bits of the network's part.
    pub prefix: u8,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRoute {
    /// Where to; prefix 0: everywhere else.
    pub destination: NetworkAddress,
    /// By way of; `None`: it is at the link itself.
    pub gateway: Option<std::net::IpAddr>,
}

/// The instance's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// An encoded plan of the runtime, made for user 0.
    pub plan: Bytes,
    /// Whom it runs as, looked up in the root file system; `None`: as the plan says.
    pub user: Option<UserRequest>,
    /// Limits of the instance's control group.
    pub limits: Vec<Limit>,
    /// The number of the share that is its root file system; `None`: that of [`Prepare::root`].
    pub root_share: Option<u32>,
    /// Its streams.
    pub stdio: Stdio,
}

/// A further process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The number of its task.
    pub task: u32,
    /// An encoded plan of the runtime, made for user 0.
    pub plan: Bytes,
    /// As [`Start::user`].
    pub user: Option<UserRequest>,
    /// Its streams.
    pub stdio: Stdio,
}

/// A user as the command line names one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRequest {
    /// `user[:group]`, names or numbers; empty: root.
    pub user: String,
    /// Further groups.
    pub groups: Vec<String>,
}

/// The standard streams of a process in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Those that the host holds the other end of; the rest is `/dev/null`.
    Streams {
        /// Standard input.
        stdin: bool,
        /// Standard output.
        stdout: bool,
        /// Standard error.
        stderr: bool,
    },
    /// A terminal: standard input and output.
    Terminal {
        /// Its first size.
        size: Option<WindowSize>,
    },
}

impl Default for Stdio {
    fn default() -> Stdio {
        Stdio::Streams {
            stdin: false,
            stdout: false,
            stderr: false,
        }
    }
}

/// Size of a terminal in character cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// One value for one control file of the instance's version 2 control group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The field of the runtime specification that asks for it, for messages.
    pub name: String,
    /// The file.
    pub file: String,
    /// What is written.
    pub value: String,
    /// What to do when there is no such file.
    pub fallback: LimitFallback,
}

/// What to do when the guest's kernel lacks a control file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitFallback {
    /// Fail: the limit cannot be enforced.
    Fail,
    /// Go on.
    Skip,
    /// Write this value to this file.
    Write(String, String),
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadTree {
    /// The number of the task.
    pub task: u32,
    /// Which tree.
    pub tree: Tree,
}

/// A tree of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// A path as the instance's processes see it; its entries start with the path's last element.
    Path {
        /// The path.
        path: Bytes,
        /// What a link leads to, instead of the link.
        follow_link: bool,
    },
    /// The root file system without what is mounted in it.
    Root,
    /// The writable layer, with deleted names marked as image layers mark them.
    Layer,
    /// The same, while the instance's processes stand still.
    FrozenLayer,
}

/// What to unpack, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteTree {
    /// The number of the task.
    pub task: u32,
    /// The directory, as the instance's processes see it.
    pub path: Bytes,
    /// Whether files get the owners that the archive names.
    pub keep_owner: bool,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done, or has begun.
    Done,
    /// It is not.
    Failed(Failure),
    /// The process was executed; its pid in the guest.
    Started {
        /// The pid.
        pid: i32,
    },
    /// To [`Request::Stats`].
    Stats(Box<Stats>),
    /// To [`Request::Stat`].
    Stat(PathStat),
    /// To [`Request::Limits`]: the contents of `cpu.max` and `memory.max`.
    Limits {
        /// Quota and period.
        cpu_max: String,
        /// Bytes, or `max`.
        memory_max: String,
    },
    /// To [`Request::Trim`]: bytes that were given back.
    Trimmed(u64),
}

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What failed, on what, and why, outermost first, joined by `: `.
    pub message: String,
}

impl Failure {
    /// A failure; a text that is too long is cut.
    #[must_use]
    pub fn new(kind: FailureKind, mut message: String) -> Failure {
        if message.len() > MAX_FAILURE {
            let mut end = MAX_FAILURE;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        Failure { kind, message }
    }
}

/// What a failure is to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Any other.
    Failed,
    /// The program was not found: exit code 127.
    ProgramNotFound,
    /// The program cannot be executed: exit code 126.
    ProgramNotExecutable,
    /// Nothing runs, or the task has ended.
    NotRunning,
    /// There is no such path.
    NoSuchPath,
    /// The path is no directory.
    NotADirectory,
    /// The file system is read-only.
    ReadOnly,
}

/// What was used. Of the instance's control group, where nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time, in ns.
    pub cpu_ns: u64,
    /// CPU time of the whole guest, idle time included, in ns.
    pub system_cpu_ns: u64,
    /// Virtual processors.
    pub online_cpus: u32,
    /// Bytes of memory, page cache included.
    pub memory_usage: u64,
    /// Page cache that can be dropped at once.
    pub memory_inactive_file: u64,
    /// `None`: no limit.
    pub memory_limit: Option<u64>,
    /// Bytes of memory of the whole guest.
    pub guest_memory: u64,
    /// Of them those that nothing uses.
    pub guest_free: u64,
    /// Of them those that could be had without swapping.
    pub guest_available: u64,
    /// Times the kernel killed a process for lack of memory.
    pub oom_kills: u64,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to block devices.
    pub written_bytes: u64,
    /// Bytes received on all links but loopback.
    pub received_bytes: u64,
    /// Bytes sent on them.
    pub sent_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// What a path is, links in its last element not followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// Its last element.
    pub name: Bytes,
    /// Bytes.
    pub size: u64,
    /// Type and permissions, see inode(7).
    pub mode: u32,
    /// Time of the last change, in seconds since 1970.
    pub mtime: i64,
    /// Where a link leads.
    pub link_target: Option<Bytes>,
}

/// Up to where a stream was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Which.
    pub stream: Stream,
    /// Up to where.
    pub offset: u64,
}

/// A stream of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard input.
    Stdin,
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// That a task has ended. What it had written until then comes before this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Times so far that the kernel killed a process of the instance for lack of memory.
    pub oom_kills: u64,
    /// What lack of memory it was, when one of these kills was of this task's process.
    pub out_of_memory: Option<OutOfMemory>,
}

/// How a task has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Its process ended by itself, with this code.
    Code(u8),
    /// Its process was ended by a signal.
    Signal(u8),
    /// It is done.
    Done,
    /// It is not.
    Failed(Failure),
}

/// That the guest's kernel has killed something of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryKills {
    /// Times so far.
    pub kills: u64,
    /// What lack of memory it was.
    pub out_of_memory: OutOfMemory,
}

/// Whose memory was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutOfMemory {
    /// The instance's limit.
    Instance,
    /// The whole guest's.
    Guest,
}
