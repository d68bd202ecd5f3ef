//! `import` and `commit`: images that are made here, of an archive of files.

use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::changes::{ChangeError, apply_changes};
use crate::digest::Digest;
use crate::image::{DockerConfig, Image};
use crate::ingest::{Ingest, IngestError};
use crate::layer::{LayerStart, StoredLayer};
use crate::platform::Platform;
use crate::progress::{Progress, Silent};
use crate::reference::Reference;
use crate::store::{Store, StoreError, digest_column};

/// How `import` describes the image that it makes.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// A remark for the history; `Imported from -` when not given.
    pub message: Option<String>,
    /// The image's name; none when not given.
    pub reference: Option<Reference>,
    /// What the files run on; the host's platform when not given.
    pub platform: Option<Platform>,
}

/// How [`Store::commit_layer`] describes the image that it makes.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Who made it.
    pub author: Option<String>,
    /// A remark for the history.
    pub message: Option<String>,
    /// What made the layer, for the history: the instance's command.
    pub created_by: Option<String>,
    /// Replaces the base's configuration; the base's own is kept when not given.
    pub config: Option<(oci_spec::image::Config, DockerConfig)>,
    /// Dockerfile instructions, applied on top.
    pub changes: Vec<String>,
    /// The image's name; none when not given.
    pub reference: Option<Reference>,
    /// What the files run on, when there is no base; the host's platform when not given.
    pub platform: Option<Platform>,
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An instruction.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The archive could not be read.
    #[error("cannot read the archive of files")]
    Read(#[source] std::io::Error),
    /// A name with a digest: nobody knows it beforehand.
    #[error("cannot name an image {0:?}: a digest cannot be given, it is what the content has")]
    Digest(String),
    /// More layers than overlayfs takes.
    #[error("the image would have more than {0} layers")]
    TooManyLayers(usize),
    /// The image could not be taken in.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        BuildError::Ingest(error.into())
    }
}

impl BuildError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            BuildError::Change(error) => Some(error.hint().to_owned()),
            BuildError::Ingest(error) => error.hint(),
            BuildError::Digest(_) => Some("leave the part from the @ on out".to_owned()),
            BuildError::TooManyLayers(_) => {
                Some("export the instance and import it: that makes one layer of all".to_owned())
            }
            BuildError::Read(_) => None,
        }
    }
}

impl Store {
    /// Makes an image of one layer of a root file system archive: tar, also gzip or zstd.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn import(
        &self,
        reader: &mut dyn Read,
        options: &ImportOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, BuildError> {
        let message = options.message.clone();
        let commit = CommitOptions {
            message: message.or_else(|| Some("Imported from -".to_owned())),
            changes: options.changes.clone(),
            reference: options.reference.clone(),
            platform: options.platform.clone(),
            ..CommitOptions::default()
        };
        self.add_layer(None, reader, &commit, progress)
    }

    /// Makes an image of `base` and one more layer: what an instance has changed, as a tar archive
    /// in the OCI layer format (`.wh.` names for what was deleted).
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn commit_layer(
        &self,
        base: Option<&Image>,
        diff: &mut dyn Read,
        options: &CommitOptions,
    ) -> Result<Image, BuildError> {
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        self.add_layer(base, diff, options, &silent)
    }

    fn add_layer(
        &self,
        base: Option<&Image>,
        reader: &mut dyn Read,
        options: &CommitOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, BuildError> {
        if let Some(reference) = options.reference.as_ref().filter(|r| r.digest().is_some()) {
            return Err(BuildError::Digest(reference.familiar()));
        }
        // Everything that can be refused is refused before the archive is read.
        let mut document = base_document(base, options)?;
        apply_changes(object(&mut document, "config"), &options.changes)?;
        let ingest = self.ingest()?;
        let mut layers = match base {
            Some(base) => self.base_layers(&ingest, base, progress)?,
            None => Vec::new(),
        };
        let mut order: Vec<usize> = match base {
            Some(base) => self.base_order(base, &layers)?,
            None => Vec::new(),
        };
        if order.len() >= self.limits.layers {
            return Err(BuildError::TooManyLayers(self.limits.layers));
        }
        let layer = bring_stream(&ingest, reader, progress)?;
        finish_document(&mut document, &layer.diff_id, base, options);
        order.push(layers.len());
        layers.push(layer);
        let bytes = serde_json::to_vec(&document).expect("a JSON value can be written");
        let ordered: Vec<&StoredLayer> = order.iter().map(|place| &layers[*place]).collect();
        let plan = ingest.plan_of(bytes, &ordered)?;
        let names: Vec<Reference> = options.reference.iter().cloned().collect();
        Ok(ingest.commit(&plan, layers, &names, None)?)
    }

    /// The distinct layers of a base image, kept from being removed meanwhile.
    fn base_layers(
        &self,
        ingest: &Ingest<'_>,
        base: &Image,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<StoredLayer>, BuildError> {
        let mut layers: Vec<StoredLayer> = Vec::new();
        for (blob, diff_id) in self.layer_digests(&base.id)? {
            if layers
                .iter()
                .any(|l| l.digest == blob && l.diff_id == diff_id)
            {
                continue;
            }
            let task = ingest.task(Some(blob.clone()), None, Some(&diff_id))?;
            match task.start(progress)? {
                LayerStart::Done(layer) => layers.push(layer),
                LayerStart::Write(_) => return Err(IngestError::MissingLayer(blob).into()),
            }
        }
        Ok(layers)
    }

    fn base_order(&self, base: &Image, layers: &[StoredLayer]) -> Result<Vec<usize>, BuildError> {
        let mut order = Vec::new();
        for (blob, diff_id) in self.layer_digests(&base.id)? {
            let place = layers
                .iter()
                .position(|l| l.digest == blob && l.diff_id == diff_id)
                .ok_or(IngestError::MissingLayer(blob))?;
            order.push(place);
        }
        Ok(order)
    }

    /// Blob and diff id of each layer, lowest first.
    pub(crate) fn layer_digests(
        &self,
        image: &Digest,
    ) -> Result<Vec<(Digest, Digest)>, StoreError> {
        let mut statement = self.database.connection().prepare_cached(
            "SELECT blob, diff_id FROM image_layer JOIN layer ON layer.id = image_layer.layer
             WHERE image = ?1 ORDER BY position",
        )?;
        let rows = statement.query_map([image.as_str()], |row| {
            Ok((digest_column(row, 0)?, digest_column(row, 1)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

pub(crate) fn bring_stream(
    ingest: &Ingest<'_>,
    reader: &mut dyn Read,
    progress: &Arc<dyn Progress>,
) -> Result<StoredLayer, BuildError> {
    let mut task = ingest.task(None, None, None)?;
    task.is_download = false;
    let mut writer = match task.start(progress)? {
        LayerStart::Done(layer) => return Ok(layer),
        LayerStart::Write(writer) => writer,
    };
    loop {
        let mut buffer = writer.spare_buffer();
        buffer.resize(crate::pipe::BUFFER, 0);
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                buffer.truncate(count);
                writer.push(buffer)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BuildError::Read(error)),
        }
    }
    Ok(writer.finish()?)
}

fn base_document(base: Option<&Image>, options: &CommitOptions) -> Result<Value, BuildError> {
    let mut document = match base {
        // The base's own bytes, so that fields that we do not know live on.
        Some(base) => serde_json::from_slice(&base.config_bytes)
            .map_err(|source| BuildError::Ingest(IngestError::Config(source.into())))?,
        None => {
            let platform = options.platform.clone().unwrap_or_else(Platform::host);
            let mut document = json!({
                "architecture": platform.architecture,
                "os": platform.os,
                "config": {},
            });
            if let Some(variant) = platform.variant {
                document["variant"] = variant.into();
            }
            document
        }
    };
    if let Some((config, docker)) = &options.config {
        let mut merged = json!(config);
        if let (Some(merged), Value::Object(docker)) = (merged.as_object_mut(), json!(docker)) {
            merged.extend(docker);
        }
        document["config"] = merged;
    }
    Ok(document)
}

fn object<'d>(document: &'d mut Value, key: &str) -> &'d mut Map<String, Value> {
    if !document[key].is_object() {
        document[key] = json!({});
    }
    document[key].as_object_mut().expect("made one just now")
}

fn finish_document(
    document: &mut Value,
    diff_id: &Digest,
    base: Option<&Image>,
    options: &CommitOptions,
) {
    let now = Timestamp::now().to_string();
    let mut diff_ids: Vec<Value> = match base {
        Some(base) => base
            .config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|id| json!(id))
            .collect(),
        None => Vec::new(),
    };
    diff_ids.push(json!(diff_id));
    document["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    document["created"] = now.clone().into();
    if let Some(author) = &options.author {
        document["author"] = author.clone().into();
    }
    let mut step = json!({ "created": now });
    for (key, value) in [
        ("created_by", &options.created_by),
        ("comment", &options.message),
        ("author", &options.author),
    ] {
        if let Some(value) = value {
            step[key] = value.clone().into();
        }
    }
    if !document["history"].is_array() {
        document["history"] = json!([]);
    }
    if let Some(history) = document["history"].as_array_mut() {
        history.push(step);
    }
    // What Docker's classic builder left there speaks of another container.
    if let Some(fields) = document.as_object_mut() {
        fields.remove("container");
        fields.remove("container_config");
    }
}
