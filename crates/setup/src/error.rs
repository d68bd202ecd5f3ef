//! Why an engine cannot be set up.

use std::io;
use std::path::PathBuf;

use crate::Engine;

/// Why an engine cannot be set up. Nothing was changed, but where the variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what the engine itself could read.
    #[error("{} has an error: {what}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What, and in which line.
        what: String,
    },
    /// A key has another kind of value than the engine defines.
    #[error("in {}, {key} is no {expected}", .path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The key, with those above it.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// containerd's configuration is of a version that has other keys.
    #[error("{} has version {found} of containerd's configuration", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it has.
        found: i64,
    },
    /// A file is a symbolic link: what would be written is not what it seems to be.
    #[error("{} is a symbolic link", .path.display())]
    SymbolicLink {
        /// The file.
        path: PathBuf,
    },
    /// The file that would be Isle's own has been written by somebody else.
    #[error("{} is there already, and Isle has not written it", .path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to undo.
    #[error("{engine} has not been set up by `isle setup`")]
    NoRecord {
        /// The engine.
        engine: Engine,
    },
    /// The record of what was changed cannot be read.
    #[error("the record of what was changed, {}, is damaged: {what}", .path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file has been changed by somebody else between plan and act.
    #[error("{} has changed since the change was shown", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be written. Those before it in the plan have been; the record has all.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SetupError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            SetupError::Syntax { .. } | SetupError::Shape { .. } => {
                "the engine does not accept the file either: mend it first; nothing was changed"
                    .to_owned()
            }
            SetupError::Version { .. } => {
                "versions 2 and 3 are known; `containerd config migrate` prints the file in a newer one"
                    .to_owned()
            }
            SetupError::SymbolicLink { .. } => {
                "name the file that it leads to with --config".to_owned()
            }
            SetupError::NotOurs { .. } => {
                "move it away, or name another file with --config".to_owned()
            }
            SetupError::NoRecord { engine } => {
                format!("`isle setup {engine}` sets it up; then there is something to undo")
            }
            SetupError::Changed { .. } => "run `isle setup` again".to_owned(),
            SetupError::Write { source, .. } | SetupError::Read { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                "run it as root".to_owned()
            }
            _ => return None,
        };
        Some(hint)
    }
}
