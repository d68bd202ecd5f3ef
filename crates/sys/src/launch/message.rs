//! What the new process and its parent say to each other.

use std::fmt;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Reached = 1,
    Terminal,
    Listener,
    Split,
    Ready,
    Failed,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Kind> {
        [
            Kind::Reached,
            Kind::Terminal,
            Kind::Listener,
            Kind::Split,
            Kind::Ready,
            Kind::Failed,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == number)
    }
}

/// Which part of a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// Its one system call.
    Call = 1,
    /// Opening a path.
    Open,
    /// Making what is missing of a path.
    Create,
    /// Looking at a file.
    Inspect,
    /// Proving that something is what it should be.
    Verify,
    /// Writing.
    Write,
    /// fsopen(2) and `FSCONFIG_CMD_CREATE`.
    NewFilesystem,
    /// An option of a file system.
    SetOption,
    /// fsmount(2)
    NewMount,
    /// open_tree(2)
    OpenTree,
    /// mount_setattr(2)
    SetAttributes,
    /// move_mount(2)
    Attach,
    /// umount2(2)
    Unmount,
    /// Copying a directory into a new file system.
    CopyUp,
    /// chown(2)
    Owner,
    /// setgroups(2)
    Groups,
    /// Raising ambient capabilities.
    Ambient,
    /// Searching for a program.
    Find,
    /// execve(2)
    Execute,
    /// Sending to the parent.
    Tell,
    /// Receiving from the parent.
    Listen,
    /// A hook ended with a code that is not zero.
    HookFailed,
    /// A hook took too long.
    HookTimeout,
}

impl Action {
    pub(super) fn from_number(number: u32) -> Action {
        use Action::*;
        [
            Call,
            Open,
            Create,
            Inspect,
            Verify,
            Write,
            NewFilesystem,
            SetOption,
            NewMount,
            OpenTree,
            SetAttributes,
            Attach,
            Unmount,
            CopyUp,
            Owner,
            Groups,
            Ambient,
            Find,
            Execute,
            Tell,
            Listen,
            HookFailed,
            HookTimeout,
        ]
        .into_iter()
        .find(|action| *action as u32 == number)
        .unwrap_or(Call)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Call => "the kernel refused",
            Action::Open => "cannot open the path",
            Action::Create => "cannot make the path",
            Action::Inspect => "cannot look at the file",
            Action::Verify => "it is not what it has to be",
            Action::Write => "cannot write",
            Action::NewFilesystem => "cannot make the file system",
            Action::SetOption => "the file system refuses an option",
            Action::NewMount => "cannot make the mount",
            Action::OpenTree => "cannot take the mount",
            Action::SetAttributes => "cannot set the attributes of the mount",
            Action::Attach => "cannot attach the mount",
            Action::Unmount => "cannot detach the old root",
            Action::CopyUp => "cannot copy what the directory holds",
            Action::Owner => "cannot set the owner",
            Action::Groups => "cannot set the supplementary groups",
            Action::Ambient => "cannot raise an ambient capability",
            Action::Find => "no such program",
            Action::Execute => "cannot execute",
            Action::Tell => "cannot reach the parent process",
            Action::Listen => "cannot hear the parent process",
            Action::HookFailed => "the hook failed",
            Action::HookTimeout => "the hook took too long",
        })
    }
}

/// One message of the new process. The parent answers with single bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Message {
    pub(super) kind: u32,
    pub(super) step: u32,
    pub(super) action: u32,
    pub(super) errno: i32,
    pub(super) value: i64,
    pub(super) text_length: u32,
    pub(super) text: [u8; Message::TEXT],
}

impl Message {
    pub(super) const TEXT: usize = 220;
    pub(super) const SIZE: usize = size_of::<Message>();

    pub(super) fn new(kind: Kind) -> Message {
        Message {
            kind: kind as u32,
            step: 0,
            action: 0,
            errno: 0,
            value: 0,
            text_length: 0,
            text: [0; Message::TEXT],
        }
    }

    pub(super) fn from_bytes(bytes: &[u8; Message::SIZE]) -> Message {
        // SAFETY: the structure has the array's size, no padding that matters and only fields for
        // which all bit patterns are valid; the read is unaligned.
        unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) }
    }
}

/// Sends a message, with a descriptor if given; the error is an errno. Safe after fork: nothing
/// but the stack is used.
pub(super) fn send(channel: i32, message: &Message, fd: Option<i32>) -> Result<(), i32> {
    #[repr(C)]
    struct Rights {
        header: libc::cmsghdr,
        fd: i32,
    }
    let mut part = libc::iovec {
        iov_base: std::ptr::from_ref(message).cast_mut().cast(),
        iov_len: Message::SIZE,
    };
    // SAFETY: all bytes zero is a valid msghdr and a valid cmsghdr.
    let (mut header, mut rights): (libc::msghdr, Rights) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(fd) = fd {
        rights.header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<i32>();
        rights.header.cmsg_level = libc::SOL_SOCKET;
        rights.header.cmsg_type = libc::SCM_RIGHTS;
        rights.fd = fd;
        header.msg_control = (&raw mut rights).cast();
        header.msg_controllen = size_of::<Rights>();
    }
    loop {
        // SAFETY: the header points to live structures on this stack.
        let sent = unsafe { libc::sendmsg(channel, &raw const header, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        // SAFETY: the address of this thread's errno is always valid.
        match unsafe { *libc::__errno_location() } {
            libc::EINTR => {}
            errno => return Err(errno),
        }
    }
}
