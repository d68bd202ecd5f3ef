//! `builder du` and `builder prune`: what the cache holds, and taking it away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use isle_engine::Engine;
use isle_image::Digest;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use crate::error::BuildError;
use crate::mounts::CACHES;
use crate::records::Records;

/// One thing that the cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its name: of a step its key, of a cache mount the name of its folder.
    pub id: String,
    /// What it is, like `[2/4] RUN make`.
    pub description: String,
    /// `regular` for a step, `exec.cachemount` for a folder of `RUN --mount=type=cache`.
    pub kind: &'static str,
    /// When it was made.
    pub created: Timestamp,
    /// When it was of use the last time.
    pub used: Timestamp,
    /// Bytes of its files.
    pub bytes: u64,
    /// An image of the store has the same layer, or a build uses it just now.
    pub is_in_use: bool,
}

/// What [`prune`] takes.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also what images of the store have too, and cache mounts.
    pub all: bool,
    /// Only what was not of use since.
    pub until: Option<Timestamp>,
    /// The most recently used entries stay, up to so many bytes.
    pub keep_bytes: Option<u64>,
}

/// What [`prune`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The names of what went.
    pub removed: Vec<String>,
    /// Bytes that became free.
    pub reclaimed_bytes: u64,
}

/// What the cache holds, what was of use last first.
///
/// # Errors
/// When the state file, or a folder of the cache, cannot be read.
pub fn disk_usage(engine: &Engine) -> Result<Vec<CacheEntry>, BuildError> {
    let records = Records::open(&engine.paths().database())?;
    let store = engine.images();
    let mut shared: BTreeSet<Digest> = BTreeSet::new();
    for image in store.images()? {
        shared.extend(
            store
                .layer_refs(&image.id)?
                .into_iter()
                .map(|layer| layer.diff_id),
        );
    }
    let mut entries = Vec::new();
    for (key, record, description, used) in records.all()? {
        let top = store.layer_refs(&record.image)?.pop();
        entries.push(CacheEntry {
            id: key.hex()[..25].to_owned(),
            description,
            kind: "regular",
            created: Timestamp::from_second(record.created).unwrap_or_default(),
            used: Timestamp::from_second(used).unwrap_or_default(),
            bytes: store.top_layer_size(&record.image)?,
            is_in_use: top.is_some_and(|layer| shared.contains(&layer.diff_id)),
        });
    }
    for mount in mounts(&engine.paths().root.join(CACHES))? {
        entries.push(mount);
    }
    Ok(entries)
}

/// Takes away what is not in use.
///
/// # Errors
/// When something cannot be removed; what went before it is gone.
pub fn prune(engine: &Engine, options: &PruneOptions) -> Result<Pruned, BuildError> {
    let records = Records::open(&engine.paths().database())?;
    let mut kept = 0;
    let mut names = BTreeSet::new();
    let mut pruned = Pruned::default();
    for entry in disk_usage(engine)? {
        let is_old = options.until.is_none_or(|until| entry.used < until);
        let is_wanted = is_old && (options.all || (!entry.is_in_use && entry.kind == "regular"));
        let fits = options
            .keep_bytes
            .is_some_and(|most| kept + entry.bytes <= most);
        if !is_wanted || fits {
            kept += entry.bytes;
            continue;
        }
        if entry.kind == "regular" {
            names.insert(entry.id);
            continue;
        }
        if remove_mount(&engine.paths().root.join(CACHES), &entry.id)? {
            pruned.reclaimed_bytes += entry.bytes;
            pruned.removed.push(entry.id);
        }
    }
    let keys: Vec<Digest> = records
        .all()?
        .into_iter()
        .map(|(key, ..)| key)
        .filter(|key| names.contains(&key.hex()[..25]))
        .collect();
    records.remove(&keys)?;
    pruned.removed.extend(names);
    // Steps that no record leads to any more, and those that were made on the way to one.
    let orphans = records.orphans()?;
    pruned.reclaimed_bytes += engine.images().remove_intermediate(&orphans)?;
    Ok(pruned)
}

fn mounts(top: &Path) -> Result<Vec<CacheEntry>, BuildError> {
    let mut found = Vec::new();
    let mut names: BTreeMap<String, std::fs::Metadata> = BTreeMap::new();
    for entry in std::fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(metadata) = entry.metadata()
            && metadata.is_dir()
        {
            names.insert(name, metadata);
        }
    }
    for (name, metadata) in names {
        let id = std::fs::read_to_string(top.join(format!("{name}.id"))).unwrap_or_default();
        let used = std::fs::metadata(top.join(format!("{name}.lock")));
        let seconds = used.map_or(metadata.mtime(), |lock| lock.mtime());
        found.push(CacheEntry {
            description: format!("cache mount {id}"),
            kind: "exec.cachemount",
            created: Timestamp::from_second(metadata.ctime()).unwrap_or_default(),
            used: Timestamp::from_second(seconds).unwrap_or_default(),
            bytes: size_of(&top.join(&name)),
            is_in_use: lock(top, &name).is_none(),
            id: name,
        });
    }
    Ok(found)
}

/// The lock of a cache mount that nobody uses.
fn lock(top: &Path, name: &str) -> Option<File> {
    let path = top.join(format!("{name}.lock"));
    let file = OpenOptions::new().write(true).open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

fn remove_mount(top: &Path, name: &str) -> Result<bool, BuildError> {
    let Some(_lock) = lock(top, name) else {
        return Ok(false);
    };
    let path = top.join(name);
    std::fs::remove_dir_all(&path).map_err(BuildError::io("remove", &path))?;
    // The lock's file stays: somebody may have it open already.
    let _ = std::fs::remove_file(top.join(format!("{name}.id")));
    Ok(true)
}

/// Bytes on the disk below a folder; what vanishes meanwhile does not count.
fn size_of(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}
