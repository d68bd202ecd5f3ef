//! What a long operation tells while it works.

use crate::digest::Digest;

/// Receives events from pull, push, load, save and import. Called from several threads at once.
///
/// Implemented by the command line (bars on a terminal, plain lines elsewhere) and by the API.
pub trait Progress: Send + Sync {
    /// Something has moved on. Must return quickly: the work waits for it.
    fn event(&self, event: &Event<'_>);
}

/// One step of progress.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A layer (or another blob) entered a phase or moved on within it. For `Downloading` and
    /// `Uploading` the bytes are those of the blob, for `Unpacking` those of the blob that have
    /// been unpacked.
    Layer {
        /// The layer's blob, or its diff id where the blob has no digest yet.
        id: &'a Digest,
        /// What is being done to it.
        phase: Phase,
        /// Bytes behind us.
        done: u64,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// A line for people, like `docker pull` prints (`Digest: sha256:…`). Plain text without a
    /// line end.
    Message(&'a str),
}

/// What is being done to a layer. The words are those of `docker pull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In the queue.
    Waiting,
    /// Bytes come in.
    Downloading,
    /// All bytes are here and their digest is right.
    DownloadComplete,
    /// Being unpacked.
    Unpacking,
    /// Unpacked and checked.
    PullComplete,
    /// Nothing to do: it is here.
    AlreadyExists,
    /// Bytes go out.
    Uploading,
    /// At the registry.
    Pushed,
    /// The operation tries again after an error of the network.
    Retrying,
}

impl Phase {
    /// As Docker prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "Waiting",
            Phase::Downloading => "Downloading",
            Phase::DownloadComplete => "Download complete",
            Phase::Unpacking => "Extracting",
            Phase::PullComplete => "Pull complete",
            Phase::AlreadyExists => "Already exists",
            Phase::Uploading => "Pushing",
            Phase::Pushed => "Pushed",
            Phase::Retrying => "Retrying",
        }
    }

    /// Nothing more will come for this layer.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Phase::PullComplete | Phase::AlreadyExists | Phase::Pushed
        )
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
