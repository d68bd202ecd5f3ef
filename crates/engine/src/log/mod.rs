//! The log of an instance, as Docker's `json-file` driver keeps it.
//!
//! `<root>/instances/<id>/<id>-json.log` is the file that is written, `….log.1` the one before it,
//! `.2` the one before that. One entry is one line:
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-11-21T12:00:22.123456789Z"}
//! ```
//!
//! An entry without a line end is a piece of a line that was longer than [`LONGEST_ENTRY`], or the
//! last thing that was written. Bytes that are not UTF-8 become U+FFFD, as with Docker: whoever
//! needs every byte attaches.
//!
//! The supervisor holds the [`Writer`]; everybody else reads with a [`Reader`], which follows
//! rotation.

mod reader;
mod writer;

use std::path::{Path, PathBuf};

use isle_types::InstanceId;

use crate::Paths;

pub use reader::Reader;
pub use writer::Writer;

/// The most bytes of output in one entry.
pub const LONGEST_ENTRY: usize = 16 << 10;

/// Where output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Where an instance's log is: the file that is written.
#[must_use]
pub fn path(paths: &Paths, id: &InstanceId) -> PathBuf {
    paths.instance(id).join(format!("{id}-json.log"))
}

/// The name of the file that was rotated away `age` times; 0 is the one that is written.
fn rotated(path: &Path, age: u32) -> PathBuf {
    match age {
        0 => path.to_owned(),
        age => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{age}"));
            name.into()
        }
    }
}
