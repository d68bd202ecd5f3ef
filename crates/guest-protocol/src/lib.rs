//! What the host and the agent in a guest say to each other, over one virtio-serial port.
//!
//! The port carries bytes in both directions. They are cut into frames ([`frame`]); a frame is a part of a
//! message ([`Request`], [`Reply`], [`Report`]) or a piece of a stream. Pure: nothing in here reads or writes
//! anything.
//!
//! ```text
//!  host                                                        agent
//!   │ HELLO  version, nonce, what was received of which task     │
//!   │ ─────────────────────────────────────────────────────────> │
//!   │                nonce, WELCOME  version, the tasks there are │
//!   │ <───────────────────────────────────────────────────────── │
//!   │ REQUEST prepare, start, exec, stats, …  (number, body)     │
//!   │ ─────────────────────────────────────────────────────────> │
//!   │                                   REPLY  (number, body)    │
//!   │ <───────────────────────────────────────────────────────── │
//!   │ STDIN  (task, offset, bytes)       STDOUT, STDERR          │
//!   │ <────────────────────────────────────────────────────────> │
//!   │ ACK  (task, stream, offset)                  ACK, ENDED    │
//!   │ <────────────────────────────────────────────────────────> │
//! ```
//!
//! # Tasks
//! Whatever takes time in the guest is a *task*: the instance's own process ([`WORKLOAD`]), that of an exec, an
//! archive on its way out or in. It has a number that the host has chosen, up to three streams, and an [`End`].
//!
//! # Flow control
//! Whoever sends a stream may be [`WINDOW`] bytes ahead of what the other end has acknowledged, and keeps those
//! bytes until then ([`Outgoing`]). So one stream that nobody reads holds up neither the others nor the requests,
//! neither end needs more than a window for it, and a host end that was killed and replaced gets again what
//! its predecessor had not passed on.
//!
//! # A new host end
//! The port does not tell where a frame begins. A host end that follows another first sends [`frame::FILLER`] zero
//! bytes, which end whatever frame its predecessor had begun; the byte after a frame's payload is never zero, so
//! the agent throws such a frame away. In the other direction the host skips everything up to the nonce of its own
//! `HELLO`, which nobody in the guest could have known before.
//!
//! # Trust
//! The host trusts nothing that comes from a guest: each length has a limit before anything is allocated, each
//! offset must be the next one, each number must be one that it has given.
//!
//! # Versions
//! [`VERSION`] changes when the meaning of anything in here does. Both ends say theirs in `HELLO` and `WELCOME`; a
//! host that meets an agent of another version talks to it no further.

#![forbid(unsafe_code)]

mod assembly;
mod bytes;
pub mod frame;
mod message;
pub mod records;
mod window;

pub use assembly::{Assembly, AssemblyError};
pub use bytes::Bytes;
pub use message::{
    Ack, Clock, DecodeError, Disk, End, Ended, Exec, Failure, FailureKind, File, Hello, Limit,
    LimitFallback, MemoryKills, Network, NetworkAddress, NetworkRoute, OutOfMemory, PathStat,
    Prepare, ReadTree, Reply, Request, Root, Shares, Start, Stats, Stdio, Stream, TaskState, Tree,
    UserRequest, Welcome, WindowSize, Writable, WriteTree, decode, encode,
};
pub use window::{Incoming, Next, Outgoing, WindowError};

/// The version of everything in here.
pub const VERSION: u16 = 3;
/// The name of the virtio-serial port.
pub const PORT: &str = "isle";
/// Where the guest mounts folders and files of the host.
pub const SHARES: &str = "/run/isle/shares";
/// The longest request for a file of the host and the longest reply: 256 KiB of data, and what else belongs to it.
pub const MAX_SHARE_MESSAGE: usize = (256 << 10) + 4096;
/// The task of the instance's own process.
pub const WORKLOAD: u32 = 1;
/// The name by which the agent's program says a word and ends, instead of being an agent.
pub const REHEARSAL: &str = "isle-rehearsal";
/// Bytes of a stream that may be on their way without having been acknowledged.
pub const WINDOW: usize = 128 << 10;
/// Acknowledgements are sent after so many bytes at the latest.
pub const ACK_EVERY: u64 = 32 << 10;
/// The longest request: room for any argument list that execve(2) takes.
pub const MAX_REQUEST: usize = 4 << 20;
/// The longest reply, report and welcome.
pub const MAX_REPLY: usize = 256 << 10;
/// The most tasks that an agent keeps at a time.
pub const MAX_TASKS: usize = 1024;
/// The longest text of a [`Failure`]; the agent cuts longer ones.
pub const MAX_FAILURE: usize = 8 << 10;
