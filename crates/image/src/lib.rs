//! The image store: one for all levels of isolation.

#![forbid(unsafe_code)]

mod blob;
mod build;
mod changes;
mod compression;
#[cfg(test)]
mod crash_tests;
mod decode;
mod digest;
mod failpoint;
mod folders;
mod history;
mod image;
mod ingest;
mod layer;
mod legacy;
mod limits;
mod load;
mod manifest;
mod nearest;
mod pipe;
mod platform;
mod progress;
mod pull;
mod push;
mod reference;
mod remove;
mod save;
mod schema;
mod source;
mod store;
mod sweep;
mod tar_reader;
mod tree;
mod unpack;
mod usage;

pub use blob::BlobReader;
pub use build::{BuildError, CommitOptions, ImportOptions};
pub use changes::{ChangeError, apply_changes};
pub use compression::{Compression, UnsupportedCompression};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use history::HistoryEntry;
pub use image::{ConfigError, DockerConfig, Healthcheck, Image, parse_config};
pub use ingest::{ImagePlan, Ingest, IngestError};
pub use layer::{LayerStart, LayerTask, LayerWriter, StoredLayer};
pub use limits::{LIMITS, Limits};
pub use load::{LoadError, Loaded};
pub use manifest::{Document, ManifestError, choose, parse_manifest};
pub use platform::{Platform, PlatformError};
pub use progress::{Event, Phase, Progress, Silent};
pub use pull::{PullError, PullOptions, PullPolicy};
pub use push::PushError;
pub use reference::{Reference, ReferenceError};
pub use remove::{LabelFilter, PruneOptions, Pruned, RemoveError, Removed};
pub use save::{SaveError, SaveFormat};
pub use schema::SCHEMA;
pub use source::{LoadInput, SourceError};
pub use store::{FindError, Store, StoreError, TagError};
pub use tar_reader::{Data, Entry, EntryKind, TarError, TarReader};
pub use unpack::{UnpackError, UnpackOptions, Unpacked, unpack};
pub use usage::{ImageUsage, Usage};
