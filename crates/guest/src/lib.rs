//! The host's end of the channel to the agent in a guest.
//!
//! A [`Connection`] speaks `isle_guest_protocol` over the socket that QEMU connects to the guest's virtio-serial
//! port. It has one thread and never blocks, except in calls that need an answer, and those have a deadline and move
//! streams meanwhile. Whoever owns it polls [`Connection::as_fd`] and calls [`Connection::tend`] when it is readable.
//!
//! ```text
//!   supervisor ── start, exec, stats, … ──> Connection ──> socket ──> QEMU ──> port ──> agent
//!       │                                    │   ^
//!       └─ pipes of the standard streams ────┘   └─ one epoll(7) descriptor
//! ```
//!
//! # A start
//! All that a clone has to hear can be written before it runs ([`Connection::launch`]), and is heard as soon as it does:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (socket, prepare, workload, stdio): (std::os::unix::net::UnixStream, _, _, _) = todo!();
//! use isle_guest::Connection;
//! let mut guest = Connection::open(socket.into())?;
//! let process = guest.launch(&prepare, &workload, stdio)?;
//! // … let the virtual machine run …
//! guest.started(&process)?;
//! // … once process.ended is readable:
//! println!("{:?}", guest.reap(process.id)?.end);
//! # Ok(())
//! # }
//! ```
//!
//! # Trust
//! A guest may say anything at any time. Whatever it says, this end keeps at most a window
//! (`isle_guest_protocol::WINDOW`) a stream and one message; what is against the rules ends the connection with
//! [`Error::Protocol`], and every process of it as lost. To end the virtual machine then is for the caller.

#![forbid(unsafe_code)]

mod connection;
mod error;
mod plan;
mod stream;
mod task;
mod verbs;

pub use connection::Connection;
pub use error::{Error, StartError};
pub use isle_guest_protocol::{
    Bytes, Clock, Disk, End, Ended, Failure, FailureKind, File, Network, NetworkAddress,
    NetworkRoute, OutOfMemory, PathStat, Prepare, REHEARSAL, Root, Shares, Stats, TaskState, Tree,
    UserRequest, WORKLOAD, Welcome, WindowSize, Writable,
    records::{Change, ChangeKind, Process},
};
pub use plan::{Further, Workload};
pub use task::{RemoteProcess, RemoteTask, Stdio};
