//! `push`: images to registries.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use isle_registry::{Access, Client, RegistryError, Repository, Source, Uploaded};
use oci_spec::image::{Descriptor, MediaType};

use crate::blob::open_blob;
use crate::digest::{Digest, DigestError};
use crate::folders::Folders;
use crate::image::Image;
use crate::manifest::{Document, ManifestError, parse_manifest};
use crate::progress::{Event, Phase, Progress};
use crate::pull::for_registry;
use crate::reference::Reference;
use crate::store::{FindError, Store, StoreError};

/// As many as Docker's `max-concurrent-uploads`.
const UPLOADS_AT_ONCE: usize = 5;
const REPORT_EVERY: u64 = 512 << 10;

/// Why an image was not pushed. Layers that had arrived by then stay at the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// No image has that name.
    #[error("an image does not exist locally with the tag: {name}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// A name with a digest: what it names is at the registry, or is something else.
    #[error("cannot push {name}: a digest cannot be pushed to, only a tag")]
    Digest {
        /// The name.
        name: String,
    },
    /// The registry.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl From<RegistryError> for PushError {
    fn from(error: RegistryError) -> Self {
        PushError::Registry(Box::new(error))
    }
}

impl From<DigestError> for PushError {
    fn from(error: DigestError) -> Self {
        PushError::Manifest(error.into())
    }
}

impl From<rusqlite::Error> for PushError {
    fn from(error: rusqlite::Error) -> Self {
        PushError::Store(error.into())
    }
}

impl PushError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            PushError::NotFound { name } => Some(format!(
                "`isle images` lists what is here, `isle tag IMAGE {name}` gives an image this name"
            )),
            PushError::Digest { .. } => Some("leave the part from the @ on out".to_owned()),
            PushError::Registry(error) => error.hint(),
            PushError::Store(error) => error.hint(),
            PushError::Manifest(error) => error.hint(),
        }
    }
}

impl Store {
    /// Sends the image of that very name to the registry that the name tells. Gives the digest
    /// that it has there.
    ///
    /// Tells `progress` the lines that Docker prints, too.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push(
        &self,
        client: &Client,
        reference: &Reference,
        progress: &Arc<dyn Progress>,
    ) -> Result<Digest, PushError> {
        let say = |line: &str| progress.event(&Event::Message(line));
        let name = reference.familiar();
        if reference.digest().is_some() {
            return Err(PushError::Digest { name });
        }
        let image = match self.find(&reference.to_string()) {
            Ok(image) => image,
            Err(FindError::Store(error)) => return Err(error.into()),
            Err(_) => return Err(PushError::NotFound { name }),
        };
        say(&format!(
            "The push refers to repository [{}]",
            reference.name()
        ));
        let repository = client.repository(&for_registry(reference), Access::Push)?;
        let manifest_bytes = self.document(&image.manifest)?;
        let Document::Manifest(manifest) = parse_manifest(&manifest_bytes, None)? else {
            return Err(ManifestError::Type("an index".to_owned()).into());
        };
        let mut blobs: Vec<&Descriptor> = Vec::new();
        for layer in manifest.layers() {
            let is_new = !blobs.iter().any(|known| known.digest() == layer.digest());
            if is_new && !is_kept_elsewhere(layer) {
                blobs.push(layer);
            }
        }
        self.upload_all(&repository, blobs, &siblings(&image, reference), progress)?;
        let config = self.document(&image.id)?;
        repository.push_blob(manifest.config(), config.as_slice(), None)?;
        let media_type = match manifest.media_type() {
            Some(media_type) => media_type.to_string(),
            None => MediaType::ImageManifest.to_string(),
        };
        let tag = reference.tag().unwrap_or("latest");
        let pushed = repository.push_document(tag, &media_type, &manifest_bytes)?;
        let digest = Digest::try_from(&pushed)?;
        self.note_digest(reference, &digest, &image)?;
        say(&format!(
            "{tag}: digest: {digest} size: {}",
            manifest_bytes.len()
        ));
        Ok(digest)
    }

    /// The registry knows the image by this digest from now on.
    fn note_digest(
        &self,
        reference: &Reference,
        digest: &Digest,
        image: &Image,
    ) -> Result<(), PushError> {
        self.database.write(|transaction| {
            // It may have been removed meanwhile: then there is nothing to note.
            transaction.execute(
                "INSERT INTO image_digest (repository, digest, image)
                 SELECT ?1, ?2, id FROM image WHERE id = ?3
                 ON CONFLICT DO UPDATE SET image = excluded.image",
                [&reference.name(), digest.as_str(), image.id.as_str()],
            )?;
            Ok::<_, PushError>(())
        })
    }

    fn upload_all(
        &self,
        repository: &Repository,
        blobs: Vec<&Descriptor>,
        siblings: &[String],
        progress: &Arc<dyn Progress>,
    ) -> Result<(), PushError> {
        let threads = UPLOADS_AT_ONCE.min(blobs.len());
        let queue = Mutex::new(blobs);
        let has_failed = AtomicBool::new(false);
        let failure: Mutex<Option<PushError>> = Mutex::new(None);
        let folders = &self.folders;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !has_failed.load(Ordering::Relaxed) {
                        let next = queue.lock().expect("no thread panics with the lock").pop();
                        let Some(blob) = next else { break };
                        if let Err(error) = upload(folders, repository, blob, siblings, progress) {
                            has_failed.store(true, Ordering::Relaxed);
                            let mut failure =
                                failure.lock().expect("no thread panics with the lock");
                            failure.get_or_insert(error);
                        }
                    }
                });
            }
        });
        match failure
            .into_inner()
            .expect("no thread panics with the lock")
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Layers that may not be passed on: the manifest says where they are.
fn is_kept_elsewhere(layer: &Descriptor) -> bool {
    let media_type = layer.media_type().to_string();
    let is_restricted =
        media_type.contains(".nondistributable.") || media_type.contains(".foreign.");
    is_restricted && layer.urls().as_ref().is_some_and(|urls| !urls.is_empty())
}

/// Other repositories of the same registry that have, or had, the image.
fn siblings(image: &Image, reference: &Reference) -> Vec<String> {
    let known = image
        .repo_digests
        .iter()
        .filter_map(|name| name.parse::<Reference>().ok());
    let mut siblings: Vec<String> = known
        .filter(|known| known.registry() == reference.registry())
        .map(|known| known.repository().to_owned())
        .filter(|repository| repository != reference.repository())
        .collect();
    siblings.dedup();
    siblings
}

fn upload(
    folders: &Folders,
    repository: &Repository,
    blob: &Descriptor,
    siblings: &[String],
    progress: &Arc<dyn Progress>,
) -> Result<(), PushError> {
    let digest = Digest::try_from(blob.digest())?;
    let tell = |phase, done| {
        progress.event(&Event::Layer {
            id: &digest,
            phase,
            done,
            total: Some(blob.size()),
        });
    };
    tell(Phase::Waiting, 0);
    let content = StoredContent {
        folders,
        digest: &digest,
        tell: &|done| tell(Phase::Uploading, done),
    };
    let sibling = siblings.first().map(String::as_str);
    match repository.push_blob(blob, &content, sibling)? {
        Uploaded::Existed => tell(Phase::AlreadyExists, blob.size()),
        Uploaded::Mounted | Uploaded::Sent => tell(Phase::Pushed, blob.size()),
    }
    Ok(())
}

/// A blob of the store on its way out. The registry checks its digest.
struct StoredContent<'a> {
    folders: &'a Folders,
    digest: &'a Digest,
    tell: &'a dyn Fn(u64),
}

impl Source for StoredContent<'_> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut file = open_blob(self.folders, self.digest).map_err(io::Error::other)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(Told {
            file,
            done: offset,
            reported: offset,
            tell: self.tell,
        }))
    }
}

struct Told<'a> {
    file: std::fs::File,
    done: u64,
    reported: u64,
    tell: &'a dyn Fn(u64),
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        if self.done - self.reported >= REPORT_EVERY {
            self.reported = self.done;
            (self.tell)(self.reported);
        }
        Ok(count)
    }
}
