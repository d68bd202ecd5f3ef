//! Why a build did not come to its end.

use std::io;
use std::path::PathBuf;

use isle_engine::EngineError;
use isle_image::StoreError;

use crate::language::Place;

/// Why a build did not come to its end. What was done before it stays in the cache; the store is whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Something in the Dockerfile.
    #[error("{file}:{place}: {problem}")]
    Dockerfile {
        /// The file.
        file: String,
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
        /// What would be right.
        fix: String,
        /// The lines around it, as BuildKit shows them.
        excerpt: String,
    },
    /// A step of the Dockerfile failed.
    #[error("{file}:{place}: cannot carry out {step}")]
    Step {
        /// The file.
        file: String,
        /// Where.
        place: Place,
        /// The instruction.
        step: String,
        /// Why.
        source: Box<BuildError>,
    },
    /// What was run has failed.
    #[error("it ended with exit code {code}{}", last_lines(.output))]
    Run {
        /// Its exit code.
        code: i32,
        /// Its last lines.
        output: String,
    },
    /// Something that was asked for is not there, or makes no sense.
    #[error("{problem}")]
    Request {
        /// What.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// The build was stopped.
    #[error("the build was stopped")]
    Cancelled,
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image could not be made.
    #[error(transparent)]
    Image(#[from] isle_image::BuildError),
    /// An image could not be brought.
    #[error(transparent)]
    Pull(#[from] isle_image::PullError),
    /// An image could not be written.
    #[error(transparent)]
    Save(#[from] isle_image::SaveError),
    /// An image could not be sent to its registry.
    #[error(transparent)]
    Push(#[from] isle_image::PushError),
    /// The store of images.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state file.
    #[error(transparent)]
    Open(#[from] isle_database::OpenError),
    /// The host refused something.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

fn last_lines(output: &str) -> String {
    match output.is_empty() {
        true => String::new(),
        false => format!("; its last lines:\n{}", output.trim_end()),
    }
}

impl BuildError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            BuildError::Dockerfile { fix, .. } | BuildError::Request { fix, .. } => {
                Some(fix.clone()).filter(|fix| !fix.is_empty())
            }
            BuildError::Step { source, .. } => source.hint(),
            BuildError::Run { .. } | BuildError::Cancelled | BuildError::Open(_) => None,
            BuildError::Engine(error) => error.hint(),
            BuildError::Image(error) => error.hint(),
            BuildError::Pull(error) => error.hint(),
            BuildError::Save(error) => error.hint(),
            BuildError::Push(error) => error.hint(),
            BuildError::Store(error) => error.hint(),
            BuildError::Io { source, path, .. } => match source.kind() {
                io::ErrorKind::StorageFull => Some(format!(
                    "free some space on the file system of {}",
                    path.display()
                )),
                _ => None,
            },
        }
    }

    pub(crate) fn request(problem: impl Into<String>, fix: impl Into<String>) -> BuildError {
        BuildError::Request {
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> BuildError {
        let path = path.into();
        move |source| BuildError::Io {
            operation,
            path,
            source,
        }
    }
}

impl From<rusqlite::Error> for BuildError {
    fn from(error: rusqlite::Error) -> Self {
        BuildError::Store(error.into())
    }
}

/// The lines around a place, as BuildKit shows them.
pub(crate) fn excerpt(file: &str, text: &str, first: usize, last: usize) -> String {
    let mut lines = format!("{file}:{first}\n--------------------\n");
    let from = first.saturating_sub(3).max(1);
    for (index, line) in text
        .lines()
        .enumerate()
        .skip(from - 1)
        .take(last + 2 - from + 1)
    {
        let number = index + 1;
        let mark = match (first..=last).contains(&number) {
            true => ">>>",
            false => "   ",
        };
        lines.push_str(format!("{number:>4} | {mark} {line}").trim_end());
        lines.push('\n');
    }
    lines.push_str("--------------------");
    lines
}
