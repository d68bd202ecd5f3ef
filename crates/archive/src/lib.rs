//! Trees of files and tar archives of them, by descriptors.
//!
//! * [`Archive`] writes trees below a descriptor as a tar archive, [`changes()`] tells how a writable layer differs from
//!   what is below it, [`stat()`] what a path is.
//! * [`TarReader`] and [`unpack()`] face strangers: every path is used beneath a descriptor, every count and size has a
//!   cap ([`Limits`]).
//! * [`removal`] takes trees away, however deep.
//!
//! Used where images are stored, where an instance's files are copied, and by the agent in a guest. No path is ever
//! resolved from the root of whoever runs this, so neither a link in an archive nor one that a process swaps
//! meanwhile leads out (CVE-2018-15664).

#![forbid(unsafe_code)]

mod changes;
mod limits;
pub mod removal;
mod sparse;
mod stat;
mod tar_reader;
mod unpack;
mod writer;

pub use changes::{Change, ChangeKind, changes};
pub use limits::{LIMITS, Limits};
pub use stat::{lexical, stat};
pub use tar_reader::{Data, Entry, EntryKind, TarError, TarReader};
pub use unpack::{IMPLICIT_MODE, UnpackError, UnpackOptions, Unpacked, may_set, unpack};
pub use writer::{Archive, Style, beneath, open_parent, readable};
