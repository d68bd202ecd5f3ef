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
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::compression::UnsupportedCompression;
use crate::digest::{Algorithm, Digest, DigestError};
use crate::failpoint;
use crate::folders::{Workspace, random_name};
use crate::image::{ConfigError, Image, parse_config};
use crate::implicit::joined;
use crate::layer::{LayerTask, StoredLayer, create};
use crate::manifest::{Document, ManifestError, parse_manifest};
use crate::placement::Placement;
use crate::reference::Reference;
use crate::store::{Store, StoreError, io_hint, set_name};
use isle_archive::UnpackError;

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
    pub(crate) store: &'s Store,
    pub(crate) workspace: Arc<Workspace>,
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
    pub(crate) order: Vec<(Digest, Digest)>,
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

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        // What fails here is done by the next sweep, which sees that the workspace is gone.
        let _ = self.store.database.write(|transaction| {
            transaction.execute(
                "DELETE FROM image_lease WHERE workspace = ?1",
                [&*self.workspace.name],
            )
        });
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
                let size = Some(descriptor.size());
                layers.push(self.task(Some(pair.0.clone()), size, Some(&pair.1))?);
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
        diff_id: Option<&Digest>,
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
            let mut has_layer = false;
            if let Some(diff_id) = diff_id {
                has_layer = 0 < transaction.execute(
                    "INSERT INTO image_lease (workspace, layer)
                         SELECT ?1, id FROM layer WHERE key = ?2",
                    [workspace, diff_id.as_str()],
                )?;
            }
            Ok::<_, rusqlite::Error>((has_blob, has_layer))
        })?;
        Ok(LayerTask {
            workspace: Arc::clone(&self.workspace),
            limits: self.store.limits,
            is_download: true,
            digest,
            size,
            diff_id: diff_id.cloned(),
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
        let placements = self.placements(plan, &layers)?;
        let small = [
            (&plan.manifest, &plan.manifest_bytes),
            (&plan.id, &plan.config_bytes),
        ];
        let mut small_files = Vec::new();
        for (digest, bytes) in small {
            small_files.push((digest, self.write_blob(bytes)?, bytes.len() as u64));
        }
        let boot = self.store.boot()?;
        self.store.database.durably(|transaction| {
            for (digest, name, size) in &small_files {
                self.place_blob(transaction, digest, *size, &self.workspace.fd, name)?;
            }
            for layer in &layers {
                if let Some(blob) = &layer.blob {
                    let folder = match blob.is_partial {
                        true => &self.workspace.folders.partial,
                        false => &self.workspace.fd,
                    };
                    self.place_blob(transaction, &layer.digest, layer.size, folder, &blob.name)?;
                }
            }
            let mut rows = Vec::new();
            for placement in &placements {
                rows.push(self.place_layer(transaction, placement, boot)?);
            }
            self.sync_folders()?;
            self.insert_image(transaction, plan, &rows)?;
            for name in names {
                set_name(transaction, name, &plan.id)?;
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
            Ok::<_, IngestError>(())
        })?;
        // The locks on downloaded files are held until they are in their places.
        drop(layers);
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
        placement: &Placement,
        boot: &str,
    ) -> Result<i64, IngestError> {
        let existing: Option<i64> = transaction
            .query_row(
                "SELECT id FROM layer WHERE key = ?1",
                [placement.key.as_str()],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(existing) = existing {
            return Ok(existing);
        }
        let Some((name, unpacked)) = &placement.fresh else {
            return Err(IngestError::MissingLayer(placement.diff_id.clone()));
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
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                placement.key.as_str(),
                placement.diff_id.as_str(),
                &directory,
                unpacked.bytes,
                unpacked.entries,
                unpacked.is_opaque,
                joined(&unpacked.implicit),
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
        for (position, ((digest, _), row)) in plan.order.iter().zip(rows).enumerate() {
            transaction.execute(
                "INSERT INTO image_layer (image, position, layer, blob) VALUES (?1, ?2, ?3, ?4)",
                (id, position, row, digest.as_str()),
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
