//! Images from Dockerfiles.
//!
//! ```text
//!  Dockerfile ── language ──> stages of instructions ── plan ──> what is needed, and of what
//!                                                                  │
//!     contexts ── files ──┐                          solve: one thread a stage
//!                         v                                        │
//!        COPY: place ──> layer <── run: an instance <── steps ─────┘
//!                          │                │
//!                 image::Store::assemble    └── records: what was done before
//!                          │
//!                        output: image, archive, folder
//! ```
//!
//! [`build()`] is what front doors call. A step's key is a digest of what it reads; what it led to is an intermediate
//! image of the store (`records.rs`). A `RUN` is an instance like any other, at the level that the request says.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use isle_build::{BuildRequest, Cancel, Context, Silent};
//! let engine = isle_engine::Engine::open(isle_engine::Paths::from_environment(None))?;
//! let request = BuildRequest {
//!     context: Context::Directory("shop/web".into()),
//!     tags: vec!["shop-web:latest".parse()?],
//!     ..BuildRequest::default()
//! };
//! let built = isle_build::build(&engine, &request, &Cancel::default(), &Silent)?;
//! println!("{}", built.image_id.unwrap_or_default());
//! # Ok(())
//! # }
//! ```
//!
//! The language is that of <https://docs.docker.com/reference/dockerfile/>. Read `language/mod.rs` next, then `solve.rs`.

#![forbid(unsafe_code)]

mod attest;
mod config;
mod contexts;
mod copy;
mod download;
mod error;
mod files;
mod filter;
mod glob;
pub mod language;
mod layout;
mod lint;
mod mode;
mod mounts;
mod output;
mod place;
mod plan;
mod progress;
mod records;
mod request;
mod run;
mod solve;
mod steps;
mod transfer;
mod upkeep;

use std::sync::PoisonError;

use isle_engine::Engine;

pub use contexts::is_git;
pub use error::BuildError;
pub use lint::Warning;
pub use progress::{End, Event, Progress, Silent};
pub use request::{
    BuildRequest, Built, Cancel, Context, DockerfileSource, NamedContext, Output, Provenance,
    Secret,
};

pub use upkeep::{CacheEntry, PruneOptions, Pruned, disk_usage, prune};

use solve::{Build, Worker};

/// Builds. Returns when everything that was asked for is there; `cancel` stops it from another thread.
///
/// # Errors
/// [`BuildError`]. Steps that were done stay in the cache; nothing else is left.
pub fn build(
    engine: &Engine,
    request: &BuildRequest,
    cancel: &Cancel,
    progress: &dyn Progress,
) -> Result<Built, BuildError> {
    let build = Build::new(engine, request, cancel, progress)?;
    run::collect(engine)?;
    let worker = Worker::open(engine.paths())?;
    let warnings = build.warnings(&worker);
    for warning in &warnings {
        progress.event(&Event::Warning {
            rule: warning.rule,
            text: &warning.text,
            place: warning.place,
        });
    }
    if let Some(first) = warnings.first().filter(|_| build.is_strict()) {
        return Err(build.strictly(first));
    }
    build.import_caches(&worker)?;
    let stage = build.run()?;
    let built = build.export(&worker, &stage)?;
    let used = std::mem::take(&mut *build.used.lock().unwrap_or_else(PoisonError::into_inner));
    worker.records.touch(&used)?;
    build.export_caches(&worker, &used)?;
    Ok(built)
}

/// `--check`: what is odd about a Dockerfile. Nothing is built, and nothing pulled.
///
/// # Errors
/// When it cannot be read or is wrong; with `# check=error=true` when something is odd.
pub fn check(engine: &Engine, request: &BuildRequest) -> Result<Vec<Warning>, BuildError> {
    let cancel = Cancel::default();
    let build = Build::new(engine, request, &cancel, &Silent)?;
    let worker = Worker::open(engine.paths())?;
    Ok(build.warnings(&worker))
}
