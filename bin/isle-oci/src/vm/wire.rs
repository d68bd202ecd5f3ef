//! What the verbs say to the process that holds a virtual machine: one message a datagram, descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, bail};
use oci_spec::runtime::{LinuxResources, Process};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// More than a socket takes at once by default.
const MOST: usize = 256 << 10;

/// Rows and columns.
pub(super) type Size = (u16, u16);

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Executes the container's own process.
    Start,
    /// Executes a further process. Its streams are three descriptors beside this, or none with a terminal. The
    /// connection is its own from then on: it ends with [`Answer::Ended`], and closing it ends the process.
    Exec {
        process: Box<Process>,
        size: Option<Size>,
    },
    /// Sends a signal: to the connection's own process, or else to the container's.
    Signal { signal: i32 },
    /// Kills every process.
    KillAll,
    /// Tells the connection's own terminal its size.
    Resize { size: Size },
    /// Changes limits.
    Update { resources: Box<LinuxResources> },
    /// Asks what was used.
    Stats,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Failed {
        message: String,
        exit_code: u8,
    },
    Stats(Stats),
    /// The process of the connection has ended.
    Ended {
        code: u8,
    },
}

/// What the processes of the guest use.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stats {
    pub(crate) memory_usage: u64,
    pub(crate) memory_inactive_file: u64,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) pids: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

/// An error of the guest, with the exit code that is usual for it.
#[derive(Debug)]
pub(crate) struct Refused {
    message: String,
    pub(crate) exit_code: u8,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

pub(super) fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

pub(super) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The next message; `None`: the other side has closed.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MOST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    match received.bytes {
        0 => Ok(None),
        count => Ok(Some((
            serde_json::from_slice(&bytes[..count])?,
            descriptors,
        ))),
    }
}

/// Asks, and waits for the answer.
///
/// # Errors
/// [`Refused`], or that nobody answers.
pub(super) fn ask(
    socket: impl AsFd,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> anyhow::Result<(Answer, Vec<OwnedFd>)> {
    let gone = "the process that holds the virtual machine does not answer";
    send(&socket, request, descriptors).context(gone)?;
    match receive(&socket).context(gone)? {
        Some((Answer::Failed { message, exit_code }, _)) => {
            Err(Refused { message, exit_code }.into())
        }
        Some(answer) => Ok(answer),
        None => bail!(gone),
    }
}
