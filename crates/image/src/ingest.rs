//! How an image gets into the store, wherever it comes from.
//!
//! ```text
//!  Store::ingest ──> Ingest::plan(manifest, config) ──> ImagePlan: one LayerTask a missing layer
//!                                                        │   (any thread, in parallel)
//!        bytes of a blob ──> LayerWriter ──┬── partial file, digest of the blob
//!                                          └── pipe ──> thread: decompress, diff id, unpack
//!                                                        │
//!                    Ingest::commit <── StoredLayer <────┘
//! ```
//!
//! Nothing is visible before [`Ingest::commit`]: one transaction moves the files to their places
//! and writes the rows, and is durable. Whatever an interrupted ingest leaves is collected by a
//! later operation; a download that broke off is kept for some time and goes on where it ended.
//!
//! **Durability.** Blobs are synced before they are committed. Unpacked layers are not: they can be
//! made again from their blobs, so a layer's row carries the boot in which it was unpacked, until
//! it is known to have reached the disk. [`Store::layers`] unpacks a layer of an earlier boot anew.
//! That halves what has to be written before a load or pull may end.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;

use jiff::Timestamp;
use oci_spec::image::{ImageConfiguration, MediaType};
use rusqlite::{Connection, OptionalExtension, Transaction};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::compression::{Compression, Decoder, MAGIC_LEN, UnsupportedCompression};
use crate::digest::{Algorithm, Digest, DigestError, Hasher, HashingReader};
use crate::failpoint;
use crate::folders::{DIRECTORY, Folders, Workspace, random_name};
use crate::image::{ConfigError, Image, parse_config};
use crate::limits::Limits;
use crate::manifest::{Document, ManifestError, parse_manifest};
use crate::pipe::{BUFFER, PipeReader, PipeWriter, pipe};
use crate::progress::{Event, Phase, Progress};
use crate::reference::Reference;
use crate::store::{Store, StoreError, io_hint, set_name};
use crate::tar_reader::TarReader;
use crate::tree;
use crate::unpack::{UnpackError, UnpackOptions, Unpacked, unpack};

/// Why an image could not be taken in. Nothing of it is visible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Bytes are not what their address says.
    #[error("{what} does not have the digest that it should: expected {expected}, found {found}")]
    Mismatch {
        /// Layer, configuration, manifest.
        what: &'static str,
        /// The address.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or fewer bytes than announced.
    #[error("blob {digest} has {found} bytes instead of {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// Announced.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A layer's compression.
    #[error("cannot unpack layer {layer}")]
    Compression {
        /// Which.
        layer: String,
        /// What is wrong with it.
        source: UnsupportedCompression,
    },
    /// A layer's archive.
    #[error("cannot unpack layer {layer}")]
    Unpack {
        /// Which.
        layer: String,
        /// What is wrong with it.
        source: UnpackError,
    },
    /// A layer's compressed data.
    #[error("cannot decompress layer {layer}")]
    Decompress {
        /// Which.
        layer: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A layer that the manifest names was not delivered.
    #[error("layer {0} is missing")]
    MissingLayer(Digest),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for IngestError {
    fn from(error: rusqlite::Error) -> Self {
        IngestError::Store(error.into())
    }
}

impl IngestError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            IngestError::Manifest(error) => error.hint(),
            IngestError::Compression { source, .. } => Some(source.hint().to_owned()),
            IngestError::Unpack { source, .. } => source.hint().map(str::to_owned),
            IngestError::Decompress { source, .. } => io_hint(source).map(str::to_owned),
            IngestError::Store(error) => error.hint(),
            IngestError::Mismatch { .. } | IngestError::Size { .. } => Some(
                "what was read is damaged or was changed on the way: try again, or get it elsewhere"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// One image on its way in.
#[derive(Debug)]
pub struct Ingest<'s> {
    store: &'s Store,
    workspace: Arc<Workspace>,
}

/// What an image needs, and what of it is missing.
#[derive(Debug)]
pub struct ImagePlan {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// What was read from the configuration.
    pub config: ImageConfiguration,
    /// One a distinct layer, lowest first.
    pub layers: Vec<LayerTask>,
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    /// Blob and diff id of each layer, lowest first, repetitions included.
    order: Vec<(Digest, Digest)>,
}

/// One layer to be brought. May go to another thread.
#[derive(Debug)]
pub struct LayerTask {
    workspace: Arc<Workspace>,
    limits: Limits,
    /// The blob's address. `None` when only the diff id is known.
    pub digest: Option<Digest>,
    /// The blob's size, where it is known.
    pub size: Option<u64>,
    /// The uncompressed layer's digest.
    pub diff_id: Digest,
    has_blob: bool,
    has_layer: bool,
    is_resumable: bool,
}

/// How a layer comes in, see [`LayerTask::start`].
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "short-lived, one a layer")]
pub enum LayerStart {
    /// Nothing to bring: it is here.
    Done(StoredLayer),
    /// Bring the blob's bytes from [`LayerWriter::offset`] on.
    Write(LayerWriter),
}

/// A layer that is complete and checked, to be handed to [`Ingest::commit`].
#[derive(Debug)]
pub struct StoredLayer {
    digest: Digest,
    diff_id: Digest,
    size: u64,
    compression: Compression,
    /// `None`: the store has it.
    blob: Option<BlobFile>,
    /// `None`: the store has it.
    unpacked: Option<(CString, Unpacked)>,
}

impl StoredLayer {
    /// The blob's address.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Digest, size and media type for a manifest.
    pub(crate) fn descriptor(&self) -> (Digest, u64, MediaType) {
        (
            self.digest.clone(),
            self.size,
            self.compression.layer_media_type(),
        )
    }
}

/// A blob that has no place yet.
#[derive(Debug)]
struct BlobFile {
    /// Open, and locked while it is in `tmp/partial`.
    file: File,
    name: CString,
    is_partial: bool,
}

impl Store {
    /// Begins to take an image in. Clears away what earlier attempts of dead processes have left.
    ///
    /// # Errors
    /// When no working folder can be made.
    pub fn ingest(&self) -> Result<Ingest<'_>, StoreError> {
        self.collect()?;
        let workspace = self
            .folders
            .workspace()
            .map_err(self.io("make a working folder in", "tmp"))?;
        Ok(Ingest {
            store: self,
            workspace: Arc::new(workspace),
        })
    }
}

impl Ingest<'_> {
    /// Checks manifest and configuration, and says which layers are missing. What is here already
    /// cannot be removed by others until this ingest ends.
    ///
    /// The caller has checked the manifest's digest where it asked for one; the configuration's
    /// is checked here.
    ///
    /// # Errors
    /// [`IngestError`] when they cannot be understood or contradict each other.
    pub fn plan(
        &self,
        manifest_bytes: &[u8],
        config_bytes: &[u8],
    ) -> Result<ImagePlan, IngestError> {
        let Document::Manifest(manifest) = parse_manifest(manifest_bytes, None)? else {
            return Err(ManifestError::Type("an index".to_owned()).into());
        };
        let id = Digest::try_from(manifest.config().digest())?;
        if !id.matches(config_bytes) {
            return Err(IngestError::Mismatch {
                what: "the image configuration",
                expected: id,
                found: Digest::of(config_bytes),
            });
        }
        let (config, _) = parse_config(config_bytes)?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            return Err(ManifestError::LayerCount {
                layers: manifest.layers().len(),
                diff_ids: diff_ids.len(),
            }
            .into());
        }
        let mut order = Vec::with_capacity(diff_ids.len());
        let mut layers: Vec<LayerTask> = Vec::new();
        for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let pair = (
                Digest::try_from(descriptor.digest())?,
                diff_id.parse::<Digest>()?,
            );
            if !order.contains(&pair) {
                layers.push(self.task(Some(pair.0.clone()), Some(descriptor.size()), &pair.1)?);
            }
            order.push(pair);
        }
        Ok(ImagePlan {
            manifest: Digest::of(manifest_bytes),
            id,
            config,
            layers,
            manifest_bytes: manifest_bytes.to_vec(),
            config_bytes: config_bytes.to_vec(),
            order,
        })
    }

    /// A plan for layers that have been brought already, for sources without a manifest.
    pub(crate) fn plan_of(
        &self,
        config_bytes: Vec<u8>,
        layers: &[&StoredLayer],
    ) -> Result<ImagePlan, IngestError> {
        let (config, _) = parse_config(&config_bytes)?;
        let descriptors: Vec<_> = layers.iter().map(|layer| layer.descriptor()).collect();
        let manifest_bytes = crate::manifest::compose(&config_bytes, &descriptors);
        let order = layers
            .iter()
            .map(|layer| (layer.digest.clone(), layer.diff_id.clone()))
            .collect();
        Ok(ImagePlan {
            id: Digest::of(&config_bytes),
            manifest: Digest::of(&manifest_bytes),
            config,
            layers: Vec::new(),
            manifest_bytes,
            config_bytes,
            order,
        })
    }

    /// Looks a layer up and, where it is here, keeps it here.
    pub(crate) fn task(
        &self,
        digest: Option<Digest>,
        size: Option<u64>,
        diff_id: &Digest,
    ) -> Result<LayerTask, IngestError> {
        let workspace = &*self.workspace.name;
        let (has_blob, has_layer) = self.store.database.write(|transaction| {
            let mut has_blob = false;
            if let Some(digest) = &digest {
                has_blob = has_row(transaction, "SELECT 1 FROM blob WHERE digest = ?1", digest)?;
                if has_blob {
                    transaction.execute(
                        "INSERT INTO image_lease (workspace, blob) VALUES (?1, ?2)",
                        [workspace, digest.as_str()],
                    )?;
                }
            }
            let leased = transaction.execute(
                "INSERT INTO image_lease (workspace, layer)
                 SELECT ?1, id FROM layer WHERE key = ?2",
                [workspace, diff_id.as_str()],
            )?;
            Ok::<_, rusqlite::Error>((has_blob, leased > 0))
        })?;
        Ok(LayerTask {
            workspace: Arc::clone(&self.workspace),
            limits: self.store.limits,
            is_resumable: digest.is_some(),
            digest,
            size,
            diff_id: diff_id.clone(),
            has_blob,
            has_layer,
        })
    }

    /// Makes the image visible under `names`, and under `repo_digest` (a reference with a digest)
    /// where it comes from a registry. Durable when it returns.
    ///
    /// # Errors
    /// When a layer is missing or the disk refuses; the image is not visible then.
    pub fn commit(
        &self,
        plan: &ImagePlan,
        layers: Vec<StoredLayer>,
        names: &[Reference],
        repo_digest: Option<&Reference>,
    ) -> Result<Image, IngestError> {
        for (digest, diff_id) in &plan.order {
            let is_there =
                |layer: &StoredLayer| layer.digest == *digest && layer.diff_id == *diff_id;
            if !layers.iter().any(is_there) {
                return Err(IngestError::MissingLayer(digest.clone()));
            }
        }
        let small = [
            (&plan.manifest, &plan.manifest_bytes),
            (&plan.id, &plan.config_bytes),
        ];
        let mut small_files = Vec::new();
        for (digest, bytes) in small {
            small_files.push((digest, self.write_blob(bytes)?, bytes.len() as u64));
        }
        let boot = self.store.boot()?;
        let leftovers = self.store.database.durably(|transaction| {
            let mut leftovers = Vec::new();
            for (digest, name, size) in &small_files {
                self.place_blob(transaction, digest, *size, &self.workspace.fd, name)?;
            }
            let mut rows = Vec::new();
            for layer in &layers {
                if let Some(blob) = &layer.blob {
                    let folder = match blob.is_partial {
                        true => &self.workspace.folders.partial,
                        false => &self.workspace.fd,
                    };
                    self.place_blob(transaction, &layer.digest, layer.size, folder, &blob.name)?;
                }
                rows.push(self.place_layer(transaction, layer, boot)?);
            }
            self.sync_folders()?;
            self.insert_image(transaction, plan, &layers, &rows)?;
            for name in names {
                leftovers.extend(set_name(transaction, name, &plan.id)?);
            }
            if let Some((reference, digest)) =
                repo_digest.and_then(|reference| Some((reference, reference.digest()?)))
            {
                transaction.execute(
                    "INSERT INTO image_digest (repository, digest, image) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET image = excluded.image",
                    [&reference.name(), digest.as_str(), plan.id.as_str()],
                )?;
            }
            transaction.execute(
                "DELETE FROM image_lease WHERE workspace = ?1",
                [&*self.workspace.name],
            )?;
            failpoint::hit("commit").map_err(self.store.io("commit in", "isle.db"))?;
            Ok::<_, IngestError>(leftovers)
        })?;
        drop(leftovers);
        failpoint::hit("committed").map_err(self.store.io("commit in", "isle.db"))?;
        Ok(self.store.image(&plan.id)?)
    }

    /// Writes a small blob into the workspace, synced.
    fn write_blob(&self, bytes: &[u8]) -> Result<CString, IngestError> {
        let name = CString::new(random_name()).expect("hexadecimal digits");
        let write = || -> io::Result<()> {
            failpoint::hit("write-blob")?;
            let mut file = create(&self.workspace.fd, &name)?;
            file.write_all(bytes)?;
            failpoint::hit("sync-blob")?;
            file.sync_data()
        };
        write().map_err(self.store.io("write a blob in", "tmp"))?;
        Ok(name)
    }

    /// Moves a blob to its address. The caller's transaction keeps others from doing so, and from
    /// clearing it away as a file without a row.
    fn place_blob(
        &self,
        transaction: &Transaction<'_>,
        digest: &Digest,
        size: u64,
        folder: &OwnedFd,
        name: &CString,
    ) -> Result<(), IngestError> {
        if has_row(transaction, "SELECT 1 FROM blob WHERE digest = ?1", digest)? {
            return Ok(());
        }
        let blobs = self.workspace.folders.blobs(digest.algorithm());
        failpoint::hit("rename-blob")
            .and_then(|()| Ok(rustix::fs::renameat(folder, name, blobs, digest.hex())?))
            .map_err(self.store.io("move a blob into", "blobs"))?;
        transaction.execute(
            "INSERT INTO blob (digest, size) VALUES (?1, ?2)",
            (digest.as_str(), size),
        )?;
        Ok(())
    }

    fn place_layer(
        &self,
        transaction: &Transaction<'_>,
        layer: &StoredLayer,
        boot: &str,
    ) -> Result<i64, IngestError> {
        let existing: Option<i64> = transaction
            .query_row(
                "SELECT id FROM layer WHERE key = ?1",
                [layer.diff_id.as_str()],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(existing) = existing {
            return Ok(existing);
        }
        let Some((name, unpacked)) = &layer.unpacked else {
            return Err(IngestError::MissingLayer(layer.digest.clone()));
        };
        let directory = random_name();
        failpoint::hit("rename-layer")
            .and_then(|()| {
                let layers = &self.workspace.folders.layers;
                Ok(rustix::fs::renameat(
                    &self.workspace.fd,
                    name,
                    layers,
                    &*directory,
                )?)
            })
            .map_err(self.store.io("move a layer into", "layers"))?;
        transaction.execute(
            "INSERT INTO layer (key, diff_id, directory, size, entries, is_opaque, implicit, boot)
             VALUES (?1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                layer.diff_id.as_str(),
                &directory,
                unpacked.bytes,
                unpacked.entries,
                unpacked.is_opaque,
                joined(unpacked),
                boot,
            ),
        )?;
        Ok(transaction.last_insert_rowid())
    }

    fn sync_folders(&self) -> Result<(), IngestError> {
        let folders = &self.workspace.folders;
        for folder in [
            folders.blobs(Algorithm::Sha256),
            folders.blobs(Algorithm::Sha512),
        ] {
            failpoint::hit("sync-folder")
                .and_then(|()| Ok(rustix::fs::fsync(folder)?))
                .map_err(self.store.io("sync", "blobs"))?;
        }
        Ok(())
    }

    fn insert_image(
        &self,
        transaction: &Transaction<'_>,
        plan: &ImagePlan,
        layers: &[StoredLayer],
        rows: &[i64],
    ) -> Result<(), IngestError> {
        let id = plan.id.as_str();
        if has_row(transaction, "SELECT 1 FROM image WHERE id = ?1", &plan.id)? {
            // The same image with layers compressed differently, or described differently: the
            // manifest that was here first stays, so that it can go on to be saved and pushed.
            return Ok(());
        }
        let created = plan.config.created().as_deref();
        let created = created.and_then(|text| text.parse::<Timestamp>().ok());
        transaction.execute(
            "INSERT INTO image (id, manifest, config, size, created, added)
             VALUES (?1, ?2, ?3, 0, ?4, ?5)",
            (
                id,
                plan.manifest.as_str(),
                &plan.config_bytes,
                created.map(Timestamp::as_second),
                Timestamp::now().as_second(),
            ),
        )?;
        for digest in [&plan.id, &plan.manifest] {
            transaction.execute(
                "INSERT OR IGNORE INTO image_blob (image, blob) VALUES (?1, ?2)",
                [id, digest.as_str()],
            )?;
        }
        for (position, (digest, diff_id)) in plan.order.iter().enumerate() {
            let place = layers
                .iter()
                .position(|layer| layer.digest == *digest && layer.diff_id == *diff_id)
                .ok_or_else(|| IngestError::MissingLayer(digest.clone()))?;
            transaction.execute(
                "INSERT INTO image_layer (image, position, layer, blob) VALUES (?1, ?2, ?3, ?4)",
                (id, position, rows[place], digest.as_str()),
            )?;
            transaction.execute(
                "INSERT OR IGNORE INTO image_blob (image, blob) VALUES (?1, ?2)",
                [id, digest.as_str()],
            )?;
        }
        transaction.execute(
            "UPDATE image SET size = (
                 SELECT coalesce(sum(layer.size), 0) FROM image_layer
                 JOIN layer ON layer.id = image_layer.layer WHERE image = ?1)
             WHERE id = ?1",
            [id],
        )?;
        Ok(())
    }
}

fn has_row(connection: &Connection, query: &str, digest: &Digest) -> rusqlite::Result<bool> {
    connection.prepare_cached(query)?.exists([digest.as_str()])
}

/// Implicit directories as one column: names cannot have a NUL.
fn joined(unpacked: &Unpacked) -> Vec<u8> {
    let names: Vec<&[u8]> = unpacked.implicit.iter().map(|name| &**name).collect();
    names.join(&0)
}

fn create(folder: &OwnedFd, name: &CString) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(fd))
}

impl LayerTask {
    /// The layer is here: [`LayerTask::start`] will bring nothing.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.has_blob && self.has_layer
    }

    /// What to call the layer before its blob has an address.
    #[must_use]
    pub fn id(&self) -> &Digest {
        self.digest.as_ref().unwrap_or(&self.diff_id)
    }

    /// Begins: finds what is here, opens the partial file of an earlier attempt, starts unpacking.
    ///
    /// # Errors
    /// When the working folder cannot be written, or a blob that is here is damaged.
    pub fn start(&self, progress: &Arc<dyn Progress>) -> Result<LayerStart, IngestError> {
        if let (Some(digest), true) = (&self.digest, self.has_blob) {
            let mut stored = verify_blob(&self.workspace.folders, digest)?;
            stored.diff_id = self.diff_id.clone();
            if !self.has_layer {
                stored.unpacked = Some(self.unpack_blob(digest, progress)?);
            }
            progress.event(&Event::Layer {
                id: digest,
                phase: Phase::AlreadyExists,
                done: stored.size,
                total: Some(stored.size),
            });
            return Ok(LayerStart::Done(stored));
        }
        LayerWriter::open(self, progress).map(LayerStart::Write)
    }

    /// Unpacks a blob of the store into the workspace, both digests checked.
    fn unpack_blob(
        &self,
        digest: &Digest,
        progress: &Arc<dyn Progress>,
    ) -> Result<(CString, Unpacked), IngestError> {
        unpack_stored(
            &self.workspace,
            digest,
            &self.diff_id,
            self.limits,
            progress,
        )
    }

    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> IngestError {
        let path = self.workspace.folders.path.join("tmp");
        move |source| {
            IngestError::Store(StoreError::Io {
                operation,
                path,
                source,
            })
        }
    }
}

/// Opens a blob of the store and looks at how it is compressed. Its digest is checked by whoever
/// reads it through.
fn verify_blob(folders: &Folders, digest: &Digest) -> Result<StoredLayer, IngestError> {
    let file = open_blob(folders, digest)?;
    let io = |source| StoreError::Io {
        operation: "read",
        path: folders.blob_path(digest),
        source,
    };
    let mut magic = [0; MAGIC_LEN];
    let count = file.read_at(&mut magic, 0).map_err(io)?;
    let compression =
        Compression::detect(&magic[..count]).map_err(|source| IngestError::Compression {
            layer: digest.to_string(),
            source,
        })?;
    Ok(StoredLayer {
        size: file.metadata().map_err(io)?.len(),
        diff_id: digest.clone(),
        digest: digest.clone(),
        compression,
        blob: None,
        unpacked: None,
    })
}

/// Opens a blob's file; one that is gone although a row names it is damage.
pub(crate) fn open_blob(folders: &Folders, digest: &Digest) -> Result<File, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(
        folders.blobs(digest.algorithm()),
        digest.hex(),
        flags,
        Mode::empty(),
    ) {
        Ok(fd) => Ok(File::from(fd)),
        Err(rustix::io::Errno::NOENT) => Err(StoreError::Damaged {
            what: "the blob",
            digest: digest.clone(),
        }),
        Err(errno) => Err(StoreError::Io {
            operation: "open",
            path: folders.blob_path(digest),
            source: errno.into(),
        }),
    }
}

/// Unpacks a blob of the store into a workspace, both digests checked.
pub(crate) fn unpack_stored(
    workspace: &Arc<Workspace>,
    digest: &Digest,
    diff_id: &Digest,
    limits: Limits,
    progress: &Arc<dyn Progress>,
) -> Result<(CString, Unpacked), IngestError> {
    let folders = &workspace.folders;
    let file = open_blob(folders, digest)?;
    let mut file = HashingReader::new(file, Some(Hasher::new(digest.algorithm())));
    let job = Job {
        layer: digest.to_string(),
        progress: Some((digest.clone(), Arc::clone(progress))),
        total: None,
        limits,
        diff: Some(diff_id.algorithm()),
        target: None,
    };
    let (name, target) = new_layer(workspace)?;
    let mut reader = BufReader::with_capacity(BUFFER, &mut file);
    let done = run(
        &mut reader,
        Job {
            target: Some(target),
            ..job
        },
    )?;
    drop(reader);
    let found = file.hasher.take().map(Hasher::finish);
    if found.as_ref() != Some(digest) {
        return Err(StoreError::Damaged {
            what: "the blob",
            digest: digest.clone(),
        }
        .into());
    }
    check_diff_id(diff_id, done.diff_id)?;
    Ok((name, done.unpacked))
}

fn check_diff_id(expected: &Digest, found: Option<Digest>) -> Result<(), IngestError> {
    match found {
        Some(found) if found == *expected => Ok(()),
        Some(found) => Err(IngestError::Mismatch {
            what: "the uncompressed layer",
            expected: expected.clone(),
            found,
        }),
        None => Ok(()),
    }
}

fn new_layer(workspace: &Workspace) -> Result<(CString, OwnedFd), IngestError> {
    let name = CString::new(random_name()).expect("hexadecimal digits");
    let make = || -> io::Result<OwnedFd> {
        failpoint::hit("make-layer")?;
        rustix::fs::mkdirat(&workspace.fd, &name, Mode::from_bits_truncate(0o755))?;
        let fd = rustix::fs::openat(&workspace.fd, &name, DIRECTORY, Mode::empty())?;
        rustix::fs::fchmod(&fd, Mode::from_bits_truncate(0o755))?;
        Ok(fd)
    };
    match make() {
        Ok(fd) => Ok((name, fd)),
        Err(source) => Err(IngestError::Store(StoreError::Io {
            operation: "make a layer's directory in",
            path: workspace.folders.path.join("tmp"),
            source,
        })),
    }
}

/// What the unpacking thread does.
struct Job {
    layer: String,
    progress: Option<(Digest, Arc<dyn Progress>)>,
    total: Option<u64>,
    limits: Limits,
    /// Compute the digest of the uncompressed bytes.
    diff: Option<Algorithm>,
    /// Unpack into; only decompress and hash without.
    target: Option<OwnedFd>,
}

struct Done {
    diff_id: Option<Digest>,
    unpacked: Unpacked,
}

/// Reads a blob to its end: decompresses, hashes, unpacks.
fn run(reader: &mut dyn io::BufRead, job: Job) -> Result<Done, IngestError> {
    let layer = job.layer;
    let decompress = |source| IngestError::Decompress {
        layer: layer.clone(),
        source,
    };
    let start = reader.fill_buf().map_err(decompress)?;
    // Buffers are far larger than a magic number; a shorter one is all there is.
    let compression = Compression::detect(start).map_err(|source| IngestError::Compression {
        layer: layer.clone(),
        source,
    })?;
    let counted = CountingReader {
        inner: reader,
        count: 0,
        reported: 0,
        total: job.total,
        progress: job.progress,
    };
    let decoder = Decoder::new(compression, counted, job.limits).map_err(decompress)?;
    let hashed = HashingReader::new(decoder, job.diff.map(Hasher::new));
    let mut archive = TarReader::new(BufReader::with_capacity(BUFFER, hashed), job.limits);
    let unpacked = match &job.target {
        Some(target) => {
            let options = UnpackOptions {
                limits: job.limits,
                ..UnpackOptions::default()
            };
            unpack(target.as_fd(), &mut archive, &options).map_err(|source| {
                IngestError::Unpack {
                    layer: layer.clone(),
                    source,
                }
            })?
        }
        None => Unpacked::default(),
    };
    // What follows the archive's end belongs to the digests.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(decompress)?;
    let mut hashed = rest.into_inner();
    Ok(Done {
        diff_id: hashed.hasher.take().map(Hasher::finish),
        unpacked,
    })
}

/// Tells the progress of reading a blob.
struct CountingReader<'a> {
    inner: &'a mut dyn io::BufRead,
    count: u64,
    reported: u64,
    total: Option<u64>,
    progress: Option<(Digest, Arc<dyn Progress>)>,
}

/// Bytes between two reports.
const REPORT_EVERY: u64 = 1 << 20;

impl io::BufRead for CountingReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.count += count as u64;
        if self.count - self.reported >= REPORT_EVERY
            && let Some((id, progress)) = &self.progress
        {
            self.reported = self.count;
            progress.event(&Event::Layer {
                id,
                phase: Phase::Unpacking,
                done: self.count,
                total: self.total,
            });
        }
    }
}

impl Read for CountingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use io::BufRead as _;
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Takes the bytes of a blob, in order, from [`LayerWriter::offset`] on.
///
/// Dropped before [`LayerWriter::finish`], it leaves a partial file that a later attempt goes on
/// with.
pub struct LayerWriter {
    workspace: Arc<Workspace>,
    limits: Limits,
    digest: Option<Digest>,
    size: Option<u64>,
    diff_id: Digest,
    has_layer: bool,
    progress: Arc<dyn Progress>,
    file: File,
    name: CString,
    is_partial: bool,
    hasher: Hasher,
    magic: Vec<u8>,
    offset: u64,
    reported: u64,
    unpacking: Option<Unpacking>,
}

struct Unpacking {
    pipe: PipeWriter,
    thread: JoinHandle<Result<Done, IngestError>>,
    directory: Option<CString>,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter")
            .field("digest", &self.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl LayerWriter {
    fn open(task: &LayerTask, progress: &Arc<dyn Progress>) -> Result<LayerWriter, IngestError> {
        let (file, name, is_partial) = open_partial(task).map_err(task.io("make a blob in"))?;
        let algorithm = task
            .digest
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let mut writer = LayerWriter {
            workspace: Arc::clone(&task.workspace),
            limits: task.limits,
            digest: task.digest.clone(),
            size: task.size,
            diff_id: task.diff_id.clone(),
            has_layer: task.has_layer,
            progress: Arc::clone(progress),
            file,
            name,
            is_partial,
            hasher: Hasher::new(algorithm),
            magic: Vec::new(),
            offset: 0,
            reported: 0,
            unpacking: None,
        };
        writer.replay()?;
        Ok(writer)
    }

    /// Bytes that are here; the next one written is the one at this offset.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Forgets all bytes: for a server that cannot go on in the middle.
    ///
    /// # Errors
    /// When the file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), IngestError> {
        if let Some(unpacking) = self.unpacking.take() {
            drop(unpacking.pipe);
            // It ends with an error that its input has ended; nothing to learn from it.
            let _ = unpacking.thread.join();
            if let Some(directory) = unpacking.directory {
                let _ = tree::remove(self.workspace.fd.as_fd(), &directory);
            }
        }
        self.file.set_len(0).map_err(self.io("empty"))?;
        io::Seek::rewind(&mut self.file).map_err(self.io("empty"))?;
        self.hasher = Hasher::new(
            self.digest
                .as_ref()
                .map_or(Algorithm::Sha256, Digest::algorithm),
        );
        self.magic.clear();
        self.offset = 0;
        self.reported = 0;
        Ok(())
    }

    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> IngestError + use<> {
        let path = self.workspace.folders.path.join("tmp");
        move |source| {
            IngestError::Store(StoreError::Io {
                operation,
                path,
                source,
            })
        }
    }

    /// Takes in what an earlier attempt has left in the file.
    fn replay(&mut self) -> Result<(), IngestError> {
        let length = self.file.metadata().map_err(self.io("read"))?.len();
        if self.size.is_some_and(|size| length > size) {
            return self.restart();
        }
        let mut file = self.file.try_clone().map_err(self.io("read"))?;
        while self.offset < length {
            let mut buffer = self.buffer();
            buffer.resize(BUFFER.min((length - self.offset) as usize), 0);
            file.read_exact(&mut buffer).map_err(self.io("read"))?;
            if let Err(error) = self.take(buffer) {
                // What was left is not what was wanted: begin anew.
                drop(error);
                return self.restart();
            }
        }
        Ok(())
    }

    fn buffer(&self) -> Vec<u8> {
        match &self.unpacking {
            Some(unpacking) => unpacking.pipe.buffer(),
            None => Vec::with_capacity(BUFFER),
        }
    }

    /// Like `write_all`, without a copy.
    pub(crate) fn push(&mut self, buffer: Vec<u8>) -> Result<(), IngestError> {
        failpoint::hit("write-blob").map_err(self.io("write a blob in"))?;
        self.file
            .write_all(&buffer)
            .map_err(self.io("write a blob in"))?;
        self.take(buffer)
    }

    /// An empty buffer for [`LayerWriter::push`].
    pub(crate) fn spare_buffer(&self) -> Vec<u8> {
        self.buffer()
    }

    fn take(&mut self, buffer: Vec<u8>) -> Result<(), IngestError> {
        self.hasher.update(&buffer);
        self.offset += buffer.len() as u64;
        if let (Some(size), Some(digest)) = (self.size, &self.digest)
            && self.offset > size
        {
            return Err(IngestError::Size {
                digest: digest.clone(),
                expected: size,
                found: self.offset,
            });
        }
        if self.magic.len() < MAGIC_LEN {
            let wanted = MAGIC_LEN - self.magic.len();
            self.magic.extend(buffer.iter().take(wanted));
        }
        if self.unpacking.is_none() {
            self.unpacking = Some(self.start_unpacking()?);
        }
        if let Some(unpacking) = &self.unpacking
            && unpacking.pipe.send(buffer).is_err()
        {
            return Err(self.unpacking_failed());
        }
        if self.offset - self.reported >= REPORT_EVERY && self.is_partial {
            self.reported = self.offset;
            self.tell(Phase::Downloading);
        }
        Ok(())
    }

    fn tell(&self, phase: Phase) {
        self.progress.event(&Event::Layer {
            id: self.digest.as_ref().unwrap_or(&self.diff_id),
            phase,
            done: self.offset,
            total: self.size,
        });
    }

    /// The thread has gone before its input ended: it knows why.
    fn unpacking_failed(&mut self) -> IngestError {
        let joined = self
            .unpacking
            .take()
            .map(|unpacking| unpacking.thread.join());
        match joined {
            Some(Ok(Err(error))) => error,
            _ => IngestError::Decompress {
                layer: self.diff_id.to_string(),
                source: io::ErrorKind::BrokenPipe.into(),
            },
        }
    }

    fn start_unpacking(&self) -> Result<Unpacking, IngestError> {
        let (pipe, reader) = pipe();
        let (directory, target) = match self.has_layer {
            true => (None, None),
            false => {
                let (name, fd) = new_layer(&self.workspace)?;
                (Some(name), Some(fd))
            }
        };
        let id = self.digest.as_ref().unwrap_or(&self.diff_id);
        // Of an uncompressed blob both digests are the same: one pass is enough.
        let is_plain = matches!(Compression::detect(&self.magic), Ok(Compression::None));
        let same = self.diff_id.algorithm()
            == self
                .digest
                .as_ref()
                .map_or(Algorithm::Sha256, Digest::algorithm);
        let job = Job {
            layer: id.to_string(),
            progress: Some((id.clone(), Arc::clone(&self.progress))),
            total: self.size,
            limits: self.limits,
            diff: (!(is_plain && same)).then(|| self.diff_id.algorithm()),
            target,
        };
        let thread = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(move || {
                let mut reader: PipeReader = reader;
                run(&mut reader, job)
            })
            .map_err(self.io("start a thread for"))?;
        Ok(Unpacking {
            pipe,
            thread,
            directory,
        })
    }

    /// All bytes are here: checks both digests, waits for the unpacking, syncs the blob.
    ///
    /// # Errors
    /// [`IngestError`] when something does not fit; what was downloaded is thrown away then.
    pub fn finish(mut self) -> Result<StoredLayer, IngestError> {
        let result = self.check_and_join();
        if result.is_err() && self.is_partial {
            // It is complete and wrong; going on with it would fail for ever.
            let partial = &self.workspace.folders.partial;
            let _ = rustix::fs::unlinkat(partial, &self.name, AtFlags::empty());
        }
        let (digest, compression, unpacked) = result?;
        self.tell(Phase::PullComplete);
        Ok(StoredLayer {
            digest,
            diff_id: self.diff_id,
            size: self.offset,
            compression,
            blob: Some(BlobFile {
                file: self.file,
                name: self.name,
                is_partial: self.is_partial,
            }),
            unpacked,
        })
    }

    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    fn check_and_join(
        &mut self,
    ) -> Result<(Digest, Compression, Option<(CString, Unpacked)>), IngestError> {
        if self.unpacking.is_none() {
            self.unpacking = Some(self.start_unpacking()?);
        }
        let Some(unpacking) = self.unpacking.take() else {
            return Err(self.unpacking_failed());
        };
        let found = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256)).finish();
        if let Some(expected) = &self.digest {
            if let Some(size) = self.size
                && size != self.offset
            {
                return Err(IngestError::Size {
                    digest: expected.clone(),
                    expected: size,
                    found: self.offset,
                });
            }
            if found != *expected {
                return Err(IngestError::Mismatch {
                    what: "the layer",
                    expected: expected.clone(),
                    found,
                });
            }
        }
        if self.is_partial {
            self.tell(Phase::DownloadComplete);
        }
        unpacking.pipe.end();
        failpoint::hit("sync-blob")
            .and_then(|()| self.file.sync_data())
            .map_err(self.io("sync a blob in"))?;
        let done = match unpacking.thread.join() {
            Ok(done) => done?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let diff_id = done.diff_id.unwrap_or_else(|| found.clone());
        check_diff_id(&self.diff_id, Some(diff_id))?;
        let compression =
            Compression::detect(&self.magic).map_err(|source| IngestError::Compression {
                layer: found.to_string(),
                source,
            })?;
        let unpacked = unpacking.directory.map(|name| (name, done.unpacked));
        Ok((found, compression, unpacked))
    }
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.buffer();
        let count = bytes.len().min(BUFFER);
        buffer.extend_from_slice(&bytes[..count]);
        self.push(buffer).map_err(io::Error::other)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the file that a blob is collected in: one that several attempts share when the blob's
/// address is known and nobody else is at it, otherwise one of our own.
fn open_partial(task: &LayerTask) -> io::Result<(File, CString, bool)> {
    failpoint::hit("make-blob")?;
    if let (Some(digest), true) = (&task.digest, task.is_resumable) {
        let name = CString::new(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
            .expect("a digest has no NUL");
        let partial = &task.workspace.folders.partial;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..8 {
            let fd = rustix::fs::openat(partial, &name, flags, Mode::RUSR | Mode::WUSR)?;
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
                break;
            }
            // Between the two calls another may have finished and moved the file away.
            let ours = rustix::fs::fstat(&fd)?;
            match rustix::fs::statat(partial, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok((File::from(fd), name, true));
                }
                _ => {}
            }
        }
    }
    let name = CString::new(random_name()).expect("hexadecimal digits");
    Ok((create(&task.workspace.fd, &name)?, name, false))
}
