//! How much room images take.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::store::{Store, StoreError};

/// The room that all images take, as `system df` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all unpacked layers, each counted once, and of block images.
    pub bytes: u64,
    /// Of these, the bytes that no image in use needs.
    pub reclaimable_bytes: u64,
    /// By image.
    pub images: BTreeMap<Digest, ImageUsage>,
}

/// The room that one image takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// Bytes of layers that other images have as well.
    pub shared_bytes: u64,
    /// Bytes of layers that it has alone, and of its block image.
    pub unique_bytes: u64,
    /// How many instances need it.
    pub holders: u64,
}

impl Store {
    /// Bytes of each layer of an image, lowest first.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn layer_sizes(&self, image: &Digest) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.database.connection().prepare_cached(
            "SELECT size FROM image_layer JOIN layer ON layer.id = image_layer.layer
             WHERE image = ?1 ORDER BY position",
        )?;
        let sizes = statement.query_map([image.as_str()], |row| row.get(0))?;
        Ok(sizes.collect::<Result<_, _>>()?)
    }

    /// The room that all images take.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let connection = self.database.connection();
        let sum = |query: &str| connection.query_row(query, [], |row| row.get::<_, u64>(0));
        let bytes = sum("SELECT coalesce(sum(size), 0) FROM layer
             WHERE id IN (SELECT layer FROM image_layer)")?
            + sum("SELECT coalesce(sum(size), 0) FROM block_image")?;
        let needed = sum("SELECT coalesce(sum(size), 0) FROM layer WHERE id IN
             (SELECT layer FROM image_layer WHERE image IN (SELECT image FROM image_hold))")?
            + sum("SELECT coalesce(sum(size), 0) FROM block_image
             WHERE image IN (SELECT image FROM image_hold)")?;
        let mut statement = connection.prepare_cached(
            "SELECT id,
                 (SELECT coalesce(sum(size), 0) FROM layer WHERE layer.id IN
                     (SELECT layer FROM image_layer WHERE image = image.id)
                  AND EXISTS (SELECT 1 FROM image_layer AS other
                     WHERE other.layer = layer.id AND other.image <> image.id)),
                 (SELECT coalesce(sum(size), 0) FROM layer WHERE layer.id IN
                     (SELECT layer FROM image_layer WHERE image = image.id)),
                 (SELECT count(*) FROM image_hold WHERE image_hold.image = image.id),
                 (SELECT coalesce(sum(size), 0) FROM block_image
                  WHERE block_image.image = image.id)
             FROM image",
        )?;
        let rows = statement.query_map([], |row| {
            let (id, shared, all): (String, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let block_image: u64 = row.get(4)?;
            let usage = ImageUsage {
                shared_bytes: shared,
                unique_bytes: all.saturating_sub(shared) + block_image,
                holders: row.get(3)?,
            };
            Ok((id, usage))
        })?;
        let mut images = BTreeMap::new();
        for row in rows {
            let (id, usage) = row?;
            // What is in the column was a digest when it was written.
            if let Ok(id) = id.parse() {
                images.insert(id, usage);
            }
        }
        Ok(Usage {
            bytes,
            reclaimable_bytes: bytes.saturating_sub(needed),
            images,
        })
    }

    /// Who needs an image: ids of instances.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn holders(&self, image: &Digest) -> Result<Vec<String>, StoreError> {
        let mut statement = self
            .database
            .connection()
            .prepare_cached("SELECT owner FROM image_hold WHERE image = ?1 ORDER BY owner")?;
        let owners = statement.query_map([image.as_str()], |row| row.get(0))?;
        Ok(owners.collect::<Result<_, _>>()?)
    }
}
