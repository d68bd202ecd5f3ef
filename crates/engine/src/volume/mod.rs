//! Volumes: folders that outlive the instances that mount them, `<root>/volumes/<name>/_data`.
//!
//! ```text
//!  rows      the table: a name, labels, options; which instances mount it; what is to go away
//!  options   what `--opt` says: a folder, with a limit; a folder of the host; a file system
//!  folder    at the start of an instance: makes the folder, fills it, finds the place in it
//!  snapshots the table of copies that were kept of them
//!  backing   file systems that are mounted for as long as an instance uses them
//! ```
//!
//! The row is the truth: a volume without one is not there, whatever lies in the folder. A row goes
//! in two steps, so that a removal that breaks off is finished by whoever comes next, and never
//! leaves a volume that is half there. Docs: docs/decisions/0018-volumes.md.

mod backing;
mod folder;
mod options;
mod rows;
mod snapshots;

pub(crate) use backing::release;
pub(crate) use folder::{FILLING, is_empty, make_data, prepare};
pub(crate) use options::Backing;
pub(crate) use rows::{
    Declaration, RemovalOutcome, declare, events_of_use, finish_all, get, list, names, reconcile,
    remove_anonymous, remove_unused,
};

pub(crate) use snapshots::{
    add_snapshot, forget_snapshot, get_snapshot, list_snapshots, note_about,
};

pub use rows::Volume;
pub use snapshots::Snapshot;

/// Docker's name of the one driver.
pub(crate) const DRIVER: &str = "local";

/// Whether a text can name a volume or a snapshot: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, as Docker's.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 255
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
