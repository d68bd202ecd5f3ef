//! `save`: images as one archive.
//!
//! The default format is docker-archive and OCI image layout at once, as Docker writes it since
//! 25: every reader finds what it knows. The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType};
use serde::Serialize;

use crate::digest::Digest;
use crate::image::Image;
use crate::manifest::{Document, ManifestError, parse_manifest};
use crate::progress::{Event, Phase, Progress};
use crate::reference::Reference;
use crate::store::{FindError, Store, StoreError};

/// What `save` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveFormat {
    /// Docker's archive that is also an OCI image layout.
    #[default]
    Docker,
    /// An OCI image layout only.
    Oci,
}

/// Why images could not be saved. What was written is incomplete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// No such image.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Nothing to save.
    #[error("no image was named to be saved")]
    Nothing,
    /// A manifest of the store.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The archive could not be written.
    #[error("cannot write the image archive")]
    Write(#[source] io::Error),
    /// A blob could not be read.
    #[error("cannot read blob {digest}")]
    Read {
        /// Which.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
}

impl From<StoreError> for SaveError {
    fn from(error: StoreError) -> Self {
        SaveError::Find(error.into())
    }
}

impl SaveError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            SaveError::Find(error) => error.hint(),
            SaveError::Write(error) => crate::store::io_hint(error).map(str::to_owned),
            SaveError::Read { source, .. } if source.kind() == io::ErrorKind::InvalidData => Some(
                "remove the image with `isle rmi -f` and pull or load it again; check the disk"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ArchiveEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// One image of the archive.
struct Chosen {
    image: Image,
    names: BTreeSet<Reference>,
}

impl Store {
    /// Writes images to one archive. A name saves the image under that name, an id under none.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn save(
        &self,
        names: &[String],
        format: SaveFormat,
        writer: &mut dyn Write,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), SaveError> {
        let chosen = self.chosen(names)?;
        // Held by a workspace, so that no removal takes a blob away while it is being written.
        let ingest = self.ingest()?;
        let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
        let mut entries = Vec::new();
        let mut descriptors = Vec::new();
        for Chosen { image, names } in &chosen {
            let manifest_bytes = self.document(&image.manifest)?;
            let Document::Manifest(manifest) = parse_manifest(&manifest_bytes, None)? else {
                return Err(ManifestError::Type("an index".to_owned()).into());
            };
            let mut layers = Vec::new();
            for layer in manifest.layers() {
                let digest = Digest::try_from(layer.digest()).map_err(ManifestError::from)?;
                layers.push(path(&digest));
                blobs.insert(digest, layer.size());
            }
            blobs.insert(image.id.clone(), image.config_bytes.len() as u64);
            blobs.insert(image.manifest.clone(), manifest_bytes.len() as u64);
            entries.push(ArchiveEntry {
                config: path(&image.id),
                repo_tags: names.iter().map(Reference::familiar).collect(),
                layers,
            });
            let media_type = manifest
                .media_type()
                .clone()
                .unwrap_or(MediaType::ImageManifest);
            let mut descriptor = Descriptor::new(
                media_type,
                manifest_bytes.len() as u64,
                oci_spec::image::Digest::from(&image.manifest),
            );
            if names.is_empty() {
                descriptors.push(descriptor.clone());
            }
            for name in names {
                descriptor.set_annotations(Some(annotations(name, format)));
                descriptors.push(descriptor.clone());
            }
        }
        for digest in blobs.keys() {
            ingest
                .task(Some(digest.clone()), None, None)
                .map_err(|error| match error {
                    crate::ingest::IngestError::Store(error) => SaveError::from(error),
                    other => SaveError::Write(io::Error::other(other)),
                })?;
        }
        let mut archive = tar::Builder::new(writer);
        for folder in ["blobs/", "blobs/sha256/", "blobs/sha512/"] {
            let is_used = blobs.keys().any(|digest| path(digest).starts_with(folder));
            if is_used {
                append(
                    &mut archive,
                    folder,
                    tar::EntryType::Directory,
                    0,
                    io::empty(),
                )?;
            }
        }
        for (digest, size) in &blobs {
            self.write_blob_entry(&mut archive, digest, *size, progress)?;
        }
        let index = ImageIndexBuilder::default()
            .schema_version(oci_spec::image::SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(descriptors)
            .build()
            .expect("all required fields are set");
        append_json(&mut archive, "index.json", &index)?;
        if format == SaveFormat::Docker {
            append_json(&mut archive, "manifest.json", &entries)?;
        }
        let layout = serde_json::json!({ "imageLayoutVersion": "1.0.0" });
        append_json(&mut archive, "oci-layout", &layout)?;
        if format == SaveFormat::Docker {
            append_json(&mut archive, "repositories", &repositories(&chosen))?;
        }
        let writer = archive.into_inner().map_err(SaveError::Write)?;
        writer.flush().map_err(SaveError::Write)
    }

    fn chosen(&self, names: &[String]) -> Result<Vec<Chosen>, SaveError> {
        if names.is_empty() {
            return Err(SaveError::Nothing);
        }
        let mut chosen: Vec<Chosen> = Vec::new();
        for name in names {
            let image = self.find(name)?;
            let reference = name.parse::<Reference>().ok().filter(|reference| {
                reference.digest().is_none() && image.repo_tags.contains(&reference.familiar())
            });
            let place = match chosen.iter().position(|known| known.image.id == image.id) {
                Some(place) => place,
                None => {
                    chosen.push(Chosen {
                        image,
                        names: BTreeSet::new(),
                    });
                    chosen.len() - 1
                }
            };
            chosen[place].names.extend(reference);
        }
        Ok(chosen)
    }

    fn write_blob_entry(
        &self,
        archive: &mut tar::Builder<&mut dyn Write>,
        digest: &Digest,
        size: u64,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), SaveError> {
        let reader = self.blob(digest)?;
        if reader.size() != size {
            return Err(StoreError::Damaged {
                what: "the blob",
                digest: digest.clone(),
            }
            .into());
        }
        let mut reader = Telling {
            inner: reader,
            id: digest,
            done: 0,
            total: size,
            has_failed: false,
            progress,
        };
        let name = path(digest);
        let appended = append(archive, &name, tar::EntryType::Regular, size, &mut reader);
        // The end of the reader is where the digest is checked.
        let checked = appended.and_then(|()| {
            let end = io::copy(&mut reader, &mut io::sink());
            end.map(drop).map_err(SaveError::Write)
        });
        match checked {
            Err(SaveError::Write(source)) if reader.has_failed => Err(SaveError::Read {
                digest: digest.clone(),
                source,
            }),
            other => other,
        }
    }
}

struct Telling<'a, R> {
    inner: R,
    id: &'a Digest,
    done: u64,
    total: u64,
    has_failed: bool,
    progress: &'a Arc<dyn Progress>,
}

impl<R: Read> Read for Telling<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        self.has_failed |= read.is_err();
        let count = read?;
        let before = self.done;
        self.done += count as u64;
        if before >> 20 != self.done >> 20 {
            self.progress.event(&Event::Layer {
                id: self.id,
                phase: Phase::Uploading,
                done: self.done,
                total: Some(self.total),
            });
        }
        Ok(count)
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Names as the tools that read the format look for them: in Docker's archive the full name and
/// the tag alone, in an OCI layout the full name.
fn annotations(name: &Reference, format: SaveFormat) -> HashMap<String, String> {
    let short = match format {
        SaveFormat::Docker => name.tag().unwrap_or("latest").to_owned(),
        SaveFormat::Oci => name.to_string(),
    };
    HashMap::from([
        ("io.containerd.image.name".to_owned(), name.to_string()),
        ("org.opencontainers.image.ref.name".to_owned(), short),
    ])
}

fn repositories(chosen: &[Chosen]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for Chosen { image, names } in chosen {
        let Some(top) = image.config.rootfs().diff_ids().last() else {
            continue;
        };
        let top = top.rsplit(':').next().unwrap_or(top);
        for name in names {
            repositories
                .entry(name.familiar_name())
                .or_default()
                .insert(name.tag().unwrap_or("latest").to_owned(), top.to_owned());
        }
    }
    repositories
}

fn append(
    archive: &mut tar::Builder<&mut dyn Write>,
    name: &str,
    kind: tar::EntryType,
    size: u64,
    content: impl Read,
) -> Result<(), SaveError> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(match kind {
        tar::EntryType::Directory => 0o755,
        _ => 0o644,
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    archive
        .append_data(&mut header, name, content)
        .map_err(SaveError::Write)
}

/// Keys in the order of their names. serde_json sorts them itself, unless another crate of the same program
/// asks it to keep the order in which they came: that of a `HashMap` is another each time.
fn by_name(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<String, Value> = object.into_iter().collect();
            let entries = sorted.into_iter();
            entries.map(|(key, value)| (key, by_name(value))).collect()
        }
        Value::Array(list) => list.into_iter().map(by_name).collect(),
        other => other,
    }
}

fn append_json(
    archive: &mut tar::Builder<&mut dyn Write>,
    name: &str,
    document: &impl Serialize,
) -> Result<(), SaveError> {
    // The same images give the same bytes.
    let bytes = serde_json::to_value(document)
        .and_then(|value| serde_json::to_vec(&by_name(value)))
        .map_err(|error| SaveError::Write(error.into()))?;
    append(
        archive,
        name,
        tar::EntryType::Regular,
        bytes.len() as u64,
        &*bytes,
    )
}
