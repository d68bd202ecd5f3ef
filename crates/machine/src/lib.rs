//! What a virtual machine is started from, whoever wants it: the engine for an instance, or the OCI runtime for a
//! container of another engine.
//!
//! ```text
//!   Limits ──> size ──> Base: kernel, agent, QEMU, template ──> isle_qemu::Starting ──> a copy that runs
//!                                                                       │ ports
//!                       isle_guest::Connection <── agent ───────────────┤
//!                       isle-share             <── folders of the host ─┘
//! ```
//!
//! [`Base::prepare`] finds all that, and makes the template where there is none. Nothing here knows images or instances: which disks,
//! folders and networks a machine gets, and what runs in it, is its owner's.
//!
//! Read next: `isle_qemu` for the machine itself, `isle_guest` for what is said to the agent in it.

#![forbid(unsafe_code)]

mod base;
pub mod elastic;
pub mod end;
pub mod host;
pub mod programs;
mod ready;
pub mod shares;
pub mod size;

pub use base::{AGENT, Base, BaseError, PORT, Wanted, templates};
pub use ready::{is_ready, is_silent};

use std::io;
use std::time::{Duration, SystemTime};

use isle_guest::Clock;

/// How long QEMU may take for each step of a start.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What QEMU may take beside the guest's memory before the host's limit ends it.
pub const OVERHEAD_BYTES: u64 = 256 << 20;

/// What time it is, for a guest: a copy of a template believes it to be when that was saved.
#[must_use]
pub fn now() -> Clock {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Clock {
        seconds: since.as_secs(),
        nanoseconds: since.subsec_nanos(),
    }
}

/// Entropy for a guest: copies of a template would all draw the same.
///
/// # Errors
/// When the kernel has none.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    Ok(seed)
}
