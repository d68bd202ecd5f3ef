//! Where each layer of an image that is about to be committed goes, or already is.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rusqlite::OptionalExtension;
use rustix::fs::Mode;

use crate::blob::open_blob;
use crate::decode::unpack_file;
use crate::digest::Digest;
use crate::folders::DIRECTORY;
use crate::implicit::{apply, inherited, split};
use crate::ingest::{ImagePlan, Ingest, IngestError};
use crate::layer::StoredLayer;
use crate::store::digest_column;
use isle_archive::Unpacked;

/// One layer of the image, at its position.
#[derive(Debug)]
pub(crate) struct Placement {
    /// What its row is found by: the diff id, or the chain id.
    pub(crate) key: Digest,
    pub(crate) diff_id: Digest,
    /// The directory in the workspace that becomes the layer, unless there is a row already.
    pub(crate) fresh: Option<(CString, Unpacked)>,
}

struct Row {
    layer: i64,
    implicit: Vec<u8>,
}

/// Where a layer's files are at this moment.
enum Files {
    /// In the store, by row.
    Stored(i64),
    /// In the workspace.
    Fresh(CString),
}

impl Ingest<'_> {
    /// Finds a place for each layer of the plan, lowest first. What layers take over from those
    /// below them is settled here.
    pub(crate) fn placements(
        &self,
        plan: &ImagePlan,
        layers: &[StoredLayer],
    ) -> Result<Vec<Placement>, IngestError> {
        let mut placements: Vec<Placement> = Vec::new();
        let mut below: Vec<Files> = Vec::new();
        let mut chain: Option<Digest> = None;
        for (digest, diff_id) in &plan.order {
            let chain_id = match &chain {
                None => diff_id.clone(),
                Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
            };
            chain = Some(chain_id.clone());
            let layer = layers
                .iter()
                .find(|layer| layer.digest == *digest && layer.diff_id == *diff_id)
                .ok_or_else(|| IngestError::MissingLayer(digest.clone()))?;
            let (placement, files) = self.place(layer, chain_id, &below, &placements)?;
            placements.push(placement);
            below.push(files);
        }
        Ok(placements)
    }

    fn place(
        &self,
        layer: &StoredLayer,
        chain_id: Digest,
        below: &[Files],
        placed: &[Placement],
    ) -> Result<(Placement, Files), IngestError> {
        let row = self.leased_row(&layer.diff_id)?;
        let implicit: Vec<Vec<u8>> = match (&layer.unpacked, &row) {
            (Some((_, unpacked)), _) => unpacked.implicit.iter().cloned().collect(),
            (None, Some(row)) => split(&row.implicit),
            (None, None) => return Err(IngestError::MissingLayer(layer.digest.clone())),
        };
        let takes_over = match implicit.is_empty() {
            true => Vec::new(),
            false => {
                let below = below
                    .iter()
                    .map(|files| self.open_files(files))
                    .collect::<Result<Vec<_>, _>>()?;
                inherited(implicit, &below).map_err(self.layer_io("look into"))?
            }
        };
        let placement = |key, fresh| Placement {
            key,
            diff_id: layer.diff_id.clone(),
            fresh,
        };
        if takes_over.is_empty() {
            let files = match (&row, &layer.unpacked) {
                (Some(row), _) => Files::Stored(row.layer),
                (None, Some((name, _))) => Files::Fresh(name.clone()),
                (None, None) => return Err(IngestError::MissingLayer(layer.digest.clone())),
            };
            let fresh = layer.unpacked.clone();
            return Ok((placement(layer.diff_id.clone(), fresh), files));
        }
        if let Some(row) = self.leased_row(&chain_id)? {
            return Ok((placement(chain_id, None), Files::Stored(row.layer)));
        }
        // The same layer may stand on other layers too, with nothing to take over: then this one
        // needs a directory of its own.
        let is_taken = |name: &CString| {
            placed
                .iter()
                .any(|other| other.fresh.as_ref().is_some_and(|(taken, _)| taken == name))
        };
        let (name, unpacked) = match &layer.unpacked {
            Some((name, unpacked)) if !is_taken(name) => (name.clone(), unpacked.clone()),
            _ => self.unpack_again(layer)?,
        };
        let directory = self.open_fresh(&name)?;
        apply(&directory, &takes_over).map_err(self.layer_io("set the attributes of"))?;
        let files = Files::Fresh(name.clone());
        Ok((placement(chain_id, Some((name, unpacked))), files))
    }

    fn unpack_again(&self, layer: &StoredLayer) -> Result<(CString, Unpacked), IngestError> {
        let file = match &layer.blob {
            Some(blob) => blob.file.try_clone().map_err(self.layer_io("read"))?,
            None => open_blob(&self.workspace.folders, &layer.digest)?,
        };
        let limits = self.store.limits;
        let id = (&layer.digest, &layer.diff_id);
        unpack_file(&self.workspace, file, id, limits)
    }

    /// A layer's row, kept from being swept until this ingest ends.
    fn leased_row(&self, key: &Digest) -> Result<Option<Row>, IngestError> {
        let row = self.store.database.write(|transaction| {
            transaction.execute(
                "INSERT INTO image_lease (workspace, layer) SELECT ?1, id FROM layer WHERE key = ?2",
                [&*self.workspace.name, key.as_str()],
            )?;
            transaction
                .query_row(
                    "SELECT id, implicit FROM layer WHERE key = ?1",
                    [key.as_str()],
                    |row| {
                        Ok(Row {
                            layer: row.get(0)?,
                            implicit: row.get(1)?,
                        })
                    },
                )
                .optional()
        })?;
        Ok(row)
    }

    fn open_files(&self, files: &Files) -> Result<OwnedFd, IngestError> {
        let layer = match files {
            Files::Fresh(name) => return self.open_fresh(name),
            Files::Stored(layer) => layer,
        };
        // A layer of an earlier boot is made whole first, with the help of an image that has it.
        let connection = self.store.database.connection();
        let owner = connection
            .query_row(
                "SELECT image FROM image_layer WHERE layer = ?1 LIMIT 1",
                [layer],
                |row| digest_column(row, 0),
            )
            .optional()?;
        if let Some(owner) = owner {
            self.store.layers(&self.store.image(&owner)?)?;
        }
        let directory: String = connection.query_row(
            "SELECT directory FROM layer WHERE id = ?1",
            [layer],
            |row| row.get(0),
        )?;
        let layers = &self.workspace.folders.layers;
        rustix::fs::openat(layers, &*directory, DIRECTORY, Mode::empty())
            .map_err(|errno| self.layer_io("open")(errno.into()))
    }

    fn open_fresh(&self, name: &CString) -> Result<OwnedFd, IngestError> {
        rustix::fs::openat(&self.workspace.fd, name, DIRECTORY, Mode::empty())
            .map_err(|errno| self.layer_io("open")(errno.into()))
    }

    fn layer_io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> IngestError {
        let io = self.store.io(operation, "layers");
        move |source| IngestError::Store(io(source))
    }
}
