//! What is wrong with a project, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Why a project cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no Compose file where one is looked for.
    #[error("there is no Compose file in {} or above it", folder.display())]
    NoFile {
        /// Where the search began.
        folder: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The same, of a file that another one names.
    #[error("{at}: {key}: cannot read {}", path.display())]
    ReadNamed {
        /// Who names it.
        at: At,
        /// By which key.
        key: String,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no YAML.
    #[error("{at}: not YAML: {reason}")]
    Syntax {
        /// Where.
        at: At,
        /// What the parser says.
        reason: String,
        /// What it may be.
        hint: Option<String>,
    },
    /// A file is larger, deeper or more than any honest one.
    #[error("{at}: more than {limit} {what}")]
    Limit {
        /// Where the limit is reached.
        at: At,
        /// Of what.
        what: &'static str,
        /// How many are taken.
        limit: usize,
    },
    /// The specification knows no such key.
    #[error("{at}: {path} has no key {key:?}")]
    UnknownKey {
        /// Where.
        at: At,
        /// What it is in, like `services.web`.
        path: String,
        /// The key.
        key: String,
        /// The key that may be meant.
        meant: Option<String>,
    },
    /// A key that the specification has and Isle does not.
    #[error("{at}: {path} cannot be done: {reason}")]
    Unsupported {
        /// Where.
        at: At,
        /// The key with what it is in.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A value that makes no sense.
    #[error("{at}: {path}: {reason}")]
    Value {
        /// Where.
        at: At,
        /// The key with what it is in.
        path: String,
        /// What is wrong with it.
        reason: String,
        /// What to write.
        hint: String,
    },
    /// A variable that has to be there is not, or a `${…}` is not written right.
    #[error("{at}: {path}: {reason}")]
    Variable {
        /// Where.
        at: At,
        /// The key with what it is in.
        path: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A line of an environment file.
    #[error("{}:{line}: {reason}", file.display())]
    Environment {
        /// Which file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Something that refers to something that is not there.
    #[error("{at}: {path}: there is no {kind} {name:?}")]
    Missing {
        /// Where.
        at: At,
        /// The key with what it is in.
        path: String,
        /// `service`, `network`, …
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do.
        hint: String,
    },
    /// A word of the command line names nothing.
    #[error("the project has no {kind} {name:?}")]
    NoSuch {
        /// `service`, …
        kind: &'static str,
        /// Its name.
        name: String,
        /// The name that may be meant.
        meant: Option<String>,
    },
    /// Things that wait for each other.
    #[error("{what} go round in a circle: {}", members.join(" -> "))]
    Cycle {
        /// `dependencies`, …
        what: &'static str,
        /// Who, the first one again at the end.
        members: Vec<String>,
    },
    /// A name that no project can have.
    #[error("{name:?} cannot be the name of a project")]
    ProjectName {
        /// The name.
        name: String,
    },
    /// No service is left.
    #[error("no service is selected")]
    NothingSelected,
}

impl LoadError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            LoadError::NoFile { .. } => {
                Some("write compose.yaml, or name the file with --file".into())
            }
            LoadError::Read { .. } | LoadError::ReadNamed { .. } => {
                Some("paths are relative to the folder of the first Compose file".into())
            }
            LoadError::Syntax { hint, .. } => hint.clone(),
            LoadError::Limit { .. } => Some("split the project with `include`".into()),
            LoadError::UnknownKey { meant, .. } => Some(match meant {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => "keys of your own start with x-".into(),
            }),
            LoadError::Unsupported { .. } => {
                Some("take the key out, or write it as x-… to keep it as a note".into())
            }
            LoadError::Value { hint, .. }
            | LoadError::Variable { hint, .. }
            | LoadError::Missing { hint, .. } => Some(hint.clone()),
            LoadError::Environment { .. } => Some("write KEY=value, one a line".into()),
            LoadError::NoSuch { meant, .. } => Some(match meant {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => "`isle compose config --services` lists them".into(),
            }),
            LoadError::Cycle { .. } => Some("take one of them out".into()),
            LoadError::ProjectName { .. } => Some(
                "write lower case letters, digits, - and _, with a letter or a digit first".into(),
            ),
            LoadError::NothingSelected => Some(
                "services with `profiles` need --profile, or their name on the command line".into(),
            ),
        }
    }
}
