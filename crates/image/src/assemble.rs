//! Images made of layers that are in the store: what a build leads to, and what it is made of on its way.

use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use rusqlite::OptionalExtension;
use serde_json::{Value, json};

use crate::build::{BuildError, bring_stream};
use crate::digest::Digest;
use crate::folders::{Workspace, random_name};
use crate::image::Image;
use crate::ingest::{Ingest, IngestError};
use crate::layer::{LayerStart, StoredLayer};
use crate::progress::{Progress, Silent};
use crate::reference::Reference;
use crate::store::{Store, StoreError, set_name};

/// A layer of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// Where its archive is.
    pub blob: Digest,
    /// The digest of the archive, not compressed.
    pub diff_id: Digest,
}

/// What [`Store::assemble`] makes.
#[derive(Debug, Default)]
pub struct Assembly<'a> {
    /// Layers of other images of this store, lowest first.
    pub layers: &'a [LayerRef],
    /// The image configuration; its `rootfs` is filled in.
    pub document: Value,
    /// The image's names.
    pub names: &'a [Reference],
    /// It is a step on the way to another one: not listed, not pruned with images, see
    /// [`Store::remove_intermediate`].
    pub is_intermediate: bool,
}

impl Store {
    /// The layers of an image, lowest first.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn layer_refs(&self, image: &Digest) -> Result<Vec<LayerRef>, StoreError> {
        let digests = self.layer_digests(image)?;
        let refs = digests.into_iter();
        Ok(refs
            .map(|(blob, diff_id)| LayerRef { blob, diff_id })
            .collect())
    }

    /// Makes an image of layers that are here and, on top, what an archive in the OCI layer format holds.
    /// Durable when it returns.
    ///
    /// # Errors
    /// [`BuildError`], [`BuildError::Read`] when the archive cannot be read.
    pub fn assemble(
        &self,
        assembly: Assembly<'_>,
        top: Option<&mut dyn Read>,
    ) -> Result<Image, BuildError> {
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        let ingest = self.ingest()?;
        let mut layers: Vec<StoredLayer> = Vec::new();
        let mut order = Vec::new();
        for layer in assembly.layers {
            let known = layers
                .iter()
                .position(|known| known.digest == layer.blob && known.diff_id == layer.diff_id);
            order.push(known.unwrap_or(layers.len()));
            if known.is_none() {
                layers.push(stored(&ingest, layer, &silent)?);
            }
        }
        if let Some(top) = top {
            if order.len() >= self.limits.layers {
                return Err(BuildError::TooManyLayers(self.limits.layers));
            }
            order.push(layers.len());
            layers.push(bring_stream(&ingest, top, &silent)?);
        }
        let mut document = assembly.document;
        let ordered: Vec<&StoredLayer> = order.iter().map(|place| &layers[*place]).collect();
        let diff_ids: Vec<&Digest> = ordered.iter().map(|layer| &layer.diff_id).collect();
        document["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let bytes = serde_json::to_vec(&document).expect("a JSON value can be written");
        let plan = ingest.plan_of(bytes, &ordered)?;
        let image = ingest.commit(&plan, layers, assembly.names, None)?;
        if assembly.is_intermediate {
            self.database
                .write(|transaction| {
                    transaction.execute(
                        "INSERT OR IGNORE INTO intermediate_image (image) VALUES (?1)",
                        [image.id.as_str()],
                    )
                })
                .map_err(StoreError::from)?;
        }
        Ok(image)
    }

    /// Whether an image is there, and then whether it is a step on the way to another one.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn is_intermediate(&self, image: &Digest) -> Result<Option<bool>, StoreError> {
        Ok(self
            .database
            .connection()
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM intermediate_image WHERE image = ?1)
                 FROM image WHERE id = ?1",
            )?
            .query_row([image.as_str()], |row| row.get(0))
            .optional()?)
    }

    /// Makes steps of builds of images that were just loaded; those with a name stay as they are.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn mark_intermediate(&self, images: &[Digest]) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            for image in images {
                transaction.execute(
                    "INSERT OR IGNORE INTO intermediate_image (image)
                     SELECT id FROM image WHERE id = ?1 AND id NOT IN (SELECT image FROM image_name)",
                    [image.as_str()],
                )?;
            }
            Ok(())
        })
    }

    /// Points names at an image that is there, durably; those that do so already cost nothing.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn name_image(&self, image: &Image, names: &[Reference]) -> Result<(), StoreError> {
        let is_named = |name: &Reference| image.repo_tags.contains(&name.familiar());
        if names.iter().all(is_named) {
            return Ok(());
        }
        self.database.durably(|transaction| {
            for name in names {
                set_name(transaction, name, &image.id)?;
            }
            Ok(())
        })
    }

    /// Removes steps that nobody needs; returns how many bytes became free.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn remove_intermediate(&self, images: &[Digest]) -> Result<u64, StoreError> {
        self.collect()?;
        self.database.durably(|transaction| {
            for image in images {
                transaction.execute(
                    "DELETE FROM image WHERE id = ?1
                     AND EXISTS (SELECT 1 FROM intermediate_image WHERE image = ?1)
                     AND NOT EXISTS (SELECT 1 FROM image_hold WHERE image = ?1)
                     AND NOT EXISTS (SELECT 1 FROM image_name WHERE image = ?1)",
                    [image.as_str()],
                )?;
            }
            Ok::<_, StoreError>(())
        })?;
        self.sweep()
    }

    /// Bytes of an image's topmost layer, unpacked.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn top_layer_size(&self, image: &Digest) -> Result<u64, StoreError> {
        let size = self
            .database
            .connection()
            .prepare_cached(
                "SELECT layer.size FROM image_layer JOIN layer ON layer.id = image_layer.layer
                 WHERE image = ?1 ORDER BY position DESC LIMIT 1",
            )?
            .query_row([image.as_str()], |row| row.get(0))
            .optional()?;
        Ok(size.unwrap_or(0))
    }

    /// The files of an image as one tree that cannot be written, mounted where nobody sees it.
    ///
    /// # Errors
    /// When a layer cannot be used, or the kernel refuses.
    pub fn view(&self, image: &Image, workspace: &Workspace) -> Result<OwnedFd, StoreError> {
        let layers = self.layers(image)?;
        let mount = || -> io::Result<OwnedFd> {
            let folder = workspace.path().join(random_name());
            DirBuilder::new().mode(0o700).create(&folder)?;
            crate::merged::mounted(self.root(), &layers, &folder)
        };
        mount().map_err(self.io("mount the layers in", "layers"))
    }
}

fn stored(
    ingest: &Ingest<'_>,
    layer: &LayerRef,
    progress: &Arc<dyn Progress>,
) -> Result<StoredLayer, BuildError> {
    let task = ingest.task(Some(layer.blob.clone()), None, Some(&layer.diff_id))?;
    match task.start(progress)? {
        LayerStart::Done(layer) => Ok(layer),
        LayerStart::Write(_) => Err(IngestError::MissingLayer(layer.blob.clone()).into()),
    }
}
