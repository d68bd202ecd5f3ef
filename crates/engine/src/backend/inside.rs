//! What a level with a kernel of its own has to be asked for: the host cannot look into its files and processes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Process;
use crate::{Change, PathStat, ProcessTable};

/// A question that is answered at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// What is there under this path, links in its last element not followed?
    Stat(PathBuf),
    /// What differs from the image?
    Changes,
    /// What runs?
    Processes {
        /// Of ps(1); none: `-ef`.
        options: Vec<String>,
    },
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Stat`].
    Stat(PathStat),
    /// To [`Question::Changes`], sorted by path.
    Changes(Vec<Change>),
    /// To [`Question::Processes`].
    Processes(ProcessTable),
}

/// Files that are carried out or in as a tar archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carry {
    /// Out: a path as the processes inside see it; its entries start with its last element.
    Path {
        /// The path.
        path: PathBuf,
        /// What a link leads to, instead of the link.
        follow_link: bool,
    },
    /// Out: the root file system without what is mounted in it.
    Root,
    /// Out: what was written over the image, as an image layer.
    Layer {
        /// Nothing is written meanwhile.
        is_frozen: bool,
    },
    /// In: into a directory.
    Into {
        /// The directory.
        directory: PathBuf,
        /// Whether files get the owners that the archive names.
        keep_owner: bool,
    },
}

/// A level whose files and processes the host cannot see by itself. Asked for by
/// [`Backend::inside`](super::Backend::inside).
pub trait Inside {
    /// Answers a question.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and [`io::ErrorKind::NotADirectory`] for a path that is none; when nobody
    /// answers.
    fn ask(&mut self, question: &Question) -> io::Result<Answer>;

    /// Begins to write an archive to a descriptor, or to read one from it. What comes back is reaped as any
    /// process; it has ended well with code 0.
    ///
    /// # Errors
    /// As [`Inside::ask`].
    fn carry(&mut self, what: &Carry, stream: OwnedFd) -> io::Result<Process>;
}
