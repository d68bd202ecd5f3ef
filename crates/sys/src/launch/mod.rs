//! A new process that prepares itself, and then executes a program.
//!
//! A [`Step`] is one thing that the new process does; a list of steps is data that can be printed
//! and compared. [`launch`] makes the process with clone3(2) and a table of descriptors that the
//! steps refer to by [`Slot`]. The process says over a socket when it has reached a point, needs
//! something, is ready or failed: [`Launched::next_event`].
//!
//! It is safe to call with any number of threads: the new process allocates nothing and takes no
//! locks, see `child.rs`.

mod child;
pub mod confined;
mod instructions;
mod message;
mod step;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};

pub use message::Action;
use message::{Kind, Message};
pub use step::{
    Instruction, MountSource, NamespaceKinds, SchedulerAttributes, Slot, Step, Strings, Target,
};

/// `CLONE_NEWNS` and its kin, as clone3(2), unshare(2) and setns(2) take them.
pub mod namespace {
    /// Mounts.
    pub const MOUNT: u64 = 0x0002_0000;
    /// Control groups.
    pub const CGROUP: u64 = 0x0200_0000;
    /// Host and domain name.
    pub const UTS: u64 = 0x0400_0000;
    /// System V IPC and POSIX message queues.
    pub const IPC: u64 = 0x0800_0000;
    /// Users, groups, capabilities.
    pub const USER: u64 = 0x1000_0000;
    /// Process ids.
    pub const PID: u64 = 0x2000_0000;
    /// Network.
    pub const NETWORK: u64 = 0x4000_0000;
    /// Boot and monotonic clocks.
    pub const TIME: u64 = 0x80;
}

/// Tells the forms of encoded steps apart: made of the text that defines them, so that it changes with it. Whoever
/// is sent steps by another program compares it before reading them.
pub const FORMAT: u64 = digest(
    digest(0xcbf2_9ce4_8422_2325, include_bytes!("step.rs")),
    include_bytes!("../mount.rs"),
);

/// FNV-1a, with the digest of what comes before.
#[must_use]
pub const fn digest(before: u64, bytes: &[u8]) -> u64 {
    let mut digest = before;
    let mut place = 0;
    while place < bytes.len() {
        digest = (digest ^ bytes[place] as u64).wrapping_mul(0x0100_0000_01b3);
        place += 1;
    }
    digest
}

const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2).
#[derive(Default)]
#[repr(C)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// # Safety
/// The flags must not hold `CLONE_VM`, and the child must do nothing but what is allowed after
/// fork(2) in a process with threads.
unsafe fn clone3(arguments: &CloneArguments) -> i64 {
    // SAFETY: the structure is valid and its size is given; the rest is upheld by the caller.
    unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_ref(arguments),
            size_of::<CloneArguments>(),
        )
    }
}

/// A process between clone3(2) and execve(2), and the channel to it.
#[derive(Debug)]
pub struct Launched {
    /// Its pid, as the caller sees it.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    channel: OwnedFd,
}

/// What the new process says.
#[derive(Debug)]
pub enum Event {
    /// It is at [`Step::Meet`] and waits for [`Launched::go_on`].
    Reached(u32),
    /// The master of the terminal of [`Step::Terminal`].
    Terminal(OwnedFd),
    /// The listener of [`Step::Seccomp`].
    Listener(OwnedFd),
    /// It goes on as this other child of the caller, see [`Step::Split`], after
    /// [`Launched::go_on`]; the first one ends.
    Split {
        /// The new pid.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
    /// It is at [`Step::AwaitStart`].
    Ready,
    /// A step failed; the process ends.
    Failed(Failure),
    /// It has executed the program, or was killed.
    Closed,
}

/// Which step failed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Index in the list of steps.
    pub step: usize,
    /// The same, counted from the end of the list: 1 is the last.
    pub from_end: usize,
    /// Part of the step.
    pub action: Action,
    /// `errno`, or the exit code of a hook.
    pub errno: i32,
    /// What the kernel says beyond that.
    pub text: String,
}

/// Makes a process that carries out `steps`.
///
/// `flags` are `CLONE_NEW*`. `into` is a directory of a version 2 control group. Descriptors of the
/// caller with close-on-exec are open during the steps only.
///
/// # Errors
/// When clone3(2) or socketpair(2) fail.
pub fn launch(
    flags: u64,
    into: Option<BorrowedFd<'_>>,
    steps: &[Step],
    slots: &[BorrowedFd<'_>],
) -> io::Result<Launched> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let slots: Vec<RawFd> = slots.iter().map(AsRawFd::as_raw_fd).collect();
    let mut pidfd: RawFd = -1;
    let arguments = CloneArguments {
        flags: flags | CLONE_PIDFD | into.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: into.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
        ..CloneArguments::default()
    };
    // SAFETY: no CLONE_VM; the child runs `child::run`, which allocates nothing, takes no locks and
    // never returns.
    let pid = unsafe { clone3(&arguments) };
    if pid == 0 {
        // SAFETY: the parent's end of the channel, which this process must not keep open: it learns
        // from its closing that the parent is gone.
        unsafe { libc::close(ours.as_raw_fd()) };
        child::run(steps, &slots, theirs.as_raw_fd());
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for the caller.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Launched {
        pid: i32::try_from(pid).unwrap_or(i32::MAX),
        pidfd,
        channel: ours,
    })
}

impl Launched {
    /// Waits for what the process says next.
    ///
    /// # Errors
    /// When the channel cannot be read.
    pub fn next_event(&self) -> io::Result<Event> {
        next_event(&self.channel)
    }

    /// Lets the process go on from [`Step::Meet`] or [`Step::AwaitStart`].
    ///
    /// # Errors
    /// When the process is gone.
    pub fn go_on(&self) -> io::Result<()> {
        go_on(&self.channel)
    }

    /// Takes the channel out.
    #[must_use]
    pub fn into_parts(self) -> (i32, OwnedFd, OwnedFd) {
        (self.pid, self.pidfd, self.channel)
    }
}

/// Reads one event from a channel: of [`Launched::into_parts`], or one connected to the socket that
/// [`Step::AwaitStart`] listens on.
///
/// # Errors
/// When the channel cannot be read.
pub fn next_event(channel: &OwnedFd) -> io::Result<Event> {
    let mut bytes = [0_u8; Message::SIZE];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(channel, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => break 0,
            other => break other?.bytes,
        }
    };
    if received == 0 {
        return Ok(Event::Closed);
    }
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptor = rights.into_iter().next().or(descriptor);
        }
    }
    let message = Message::from_bytes(&bytes);
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed message");
    if received != Message::SIZE {
        return Err(malformed());
    }
    let descriptor = descriptor.ok_or_else(malformed);
    Ok(
        match Kind::from_number(message.kind).ok_or_else(malformed)? {
            Kind::Reached => Event::Reached(u32::try_from(message.value).map_err(|_| malformed())?),
            Kind::Terminal => Event::Terminal(descriptor?),
            Kind::Listener => Event::Listener(descriptor?),
            Kind::Split => Event::Split {
                pid: i32::try_from(message.value).map_err(|_| malformed())?,
                pidfd: descriptor?,
            },
            Kind::Ready => Event::Ready,
            Kind::Failed => Event::Failed(Failure {
                step: usize::try_from(message.step).map_err(|_| malformed())?,
                from_end: usize::try_from(message.value).map_err(|_| malformed())?,
                action: Action::from_number(message.action),
                errno: message.errno,
                text: usize::try_from(message.text_length)
                    .ok()
                    .and_then(|length| message.text.get(..length))
                    .map(|text| String::from_utf8_lossy(text).trim().to_owned())
                    .unwrap_or_default(),
            }),
        },
    )
}

/// Lets the process at the other end of a channel go on.
///
/// # Errors
/// When the process is gone.
pub fn go_on(channel: &OwnedFd) -> io::Result<()> {
    rustix::net::send(channel, &[1], SendFlags::NOSIGNAL)?;
    Ok(())
}
