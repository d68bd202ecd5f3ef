//! The image store: one for all levels of isolation.
//!
//! An image is a configuration and an ordered list of layers, each addressed by the digest of its
//! bytes. [`Store`] keeps the compressed layers as they came (so that they can be saved, pushed and
//! checked again) and each layer once more unpacked, in the form that overlayfs mounts. Names,
//! digests and who needs what are rows of the state file (`schema.rs`); [`Store::hold`] and
//! [`Store::release`] are how an instance keeps its image.
//!
//! ```text
//!   pull  load  import  commit                    find  layers  images  history
//!       \    |     |     /                                    |
//!        Ingest: plan ─> LayerWriter ─> commit        rows of the state file
//!                          |        \                         |
//!             digest of the blob    decode ─> unpack    blobs/  layers/
//! ```
//!
//! * [`Ingest`] is the only way in. Nothing of an image is visible before its one durable
//!   transaction; what an interrupted operation leaves is collected by a later one (`sweep.rs`).
//! * [`unpack`] and [`TarReader`] face strangers: every path is used beneath a descriptor, every
//!   count and size has a cap ([`Limits`]).
//! * [`Progress`] is told what happens, from several threads.
//!
//! ```no_run
//! # use std::{fs::File, path::Path, sync::Arc};
//! # use isle_image::{LoadInput, Progress, Silent, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let root = Path::new("/var/lib/isle");
//! let database = isle_database::Database::open(&root.join("isle.db"), &[isle_image::SCHEMA])?;
//! let store = Store::open(root, database)?;
//! let progress: Arc<dyn Progress> = Arc::new(Silent);
//! store.load(LoadInput::File(File::open("alpine.tar")?), None, &progress)?;
//! let image = store.find("alpine")?;
//! for directory in store.layers(&image)? {
//!     println!("lowerdir+ {}", directory.display());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Implements the [OCI image specification](https://github.com/opencontainers/image-spec) and
//! [Docker's](https://github.com/moby/docker-image-spec). Read `ingest.rs` next, then `layer.rs`,
//! `sweep.rs`, and `isle_archive` for unpacking.

#![forbid(unsafe_code)]

mod assemble;
mod blob;
mod block;
mod build;
mod changes;
mod compression;
mod confined;
#[cfg(test)]
mod crash_tests;
mod decode;
mod digest;
mod failpoint;
mod folders;
mod history;
mod image;
mod implicit;
mod ingest;
mod layer;
mod legacy;
mod load;
mod manifest;
mod merged;
mod pipe;
mod placement;
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
mod usage;

pub use assemble::{Assembly, LayerRef};
pub use blob::BlobReader;
pub use block::{BlockImage, BlockImageError};
pub use build::{BuildError, CommitOptions, ImportOptions};
pub use changes::{ChangeError, apply_changes};
pub use compression::{Compression, UnsupportedCompression};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use folders::Workspace;
pub use history::HistoryEntry;
pub use image::{ConfigError, DockerConfig, Healthcheck, Image, parse_config};
pub use ingest::{ImagePlan, Ingest, IngestError};
pub use isle_archive::{
    Data, Entry, EntryKind, LIMITS, Limits, TarError, TarReader, UnpackError, UnpackOptions,
    Unpacked, unpack,
};
pub use layer::{LayerStart, LayerTask, LayerWriter, StoredLayer};
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
pub use source::{LoadInput, SourceError, decompressed};
pub use store::{FindError, Store, StoreError, TagError};
pub use usage::{ImageUsage, Usage};
