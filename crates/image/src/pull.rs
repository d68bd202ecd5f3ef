//! `pull`: images from registries.
//!
//! The registry is asked for a manifest, the manifest for its configuration, and an [`Ingest`] for
//! what is missing; that is downloaded by a few threads at once, largest first. What breaks off is
//! gone on with: within a download by the registry's client, after a failed pull by the next one.

use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use isle_registry::{Access, Client, RegistryError, Repository, registry_error};
use oci_spec::image::{Descriptor, ImageManifest};

use crate::digest::{Digest, DigestError};
use crate::image::Image;
use crate::ingest::IngestError;
use crate::layer::{LayerStart, LayerTask, LayerWriter, StoredLayer};
use crate::manifest::{Document, ManifestError, choose, parse_manifest};
use crate::platform::Platform;
use crate::progress::{Event, Phase, Progress};
use crate::reference::Reference;
use crate::store::{FindError, Store, StoreError};

/// As many as Docker's `max-concurrent-downloads`.
const DOWNLOADS_AT_ONCE: usize = 3;

/// What to pull, and whether.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// `None` for that of the host.
    pub platform: Option<Platform>,
    /// When to ask the registry.
    pub policy: PullPolicy,
}

/// When to ask the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time: the name may mean another image by now.
    #[default]
    Always,
    /// When the store has no image of that name.
    Missing,
    /// Not at all.
    Never,
}

/// Why an image was not pulled. Nothing of it is visible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// What the registry has is not what it should be.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// It is not in the store, and the registry may not be asked.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The registry has it for another platform only.
    #[error("the image is for {found}, not for {wanted}")]
    Platform {
        /// Asked for: `linux/arm64`.
        wanted: String,
        /// What there is.
        found: String,
    },
}

impl From<RegistryError> for PullError {
    fn from(error: RegistryError) -> Self {
        PullError::Registry(Box::new(error))
    }
}

impl From<ManifestError> for PullError {
    fn from(error: ManifestError) -> Self {
        PullError::Ingest(error.into())
    }
}

impl From<DigestError> for PullError {
    fn from(error: DigestError) -> Self {
        PullError::Ingest(error.into())
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        PullError::Ingest(error.into())
    }
}

impl PullError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            PullError::Registry(error) => error.hint(),
            PullError::Ingest(error) => error.hint(),
            PullError::Find(error) => error.hint(),
            PullError::Platform { found, .. } => Some(format!("pull it with --platform {found}")),
        }
    }
}

impl Store {
    /// All tags that the registry has of a reference's repository, sorted.
    ///
    /// # Errors
    /// [`PullError::Registry`].
    pub fn remote_tags(
        client: &Client,
        reference: &Reference,
    ) -> Result<Vec<Reference>, PullError> {
        let repository = client.repository(&for_registry(reference), Access::Pull)?;
        // What the registry's client lets through is a tag by our own grammar too.
        let tags = repository.tags()?.into_iter();
        Ok(tags
            .filter_map(|tag| reference.with_tag(&tag).ok())
            .collect())
    }

    /// Brings the image that `reference` names into the store, and gives it that name.
    ///
    /// Tells `progress` the lines that Docker prints, too.
    ///
    /// # Errors
    /// [`PullError`]. What was downloaded until then is kept for the next attempt.
    pub fn pull(
        &self,
        client: &Client,
        reference: &Reference,
        options: &PullOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, PullError> {
        let known = match self.find(&reference.to_string()) {
            Ok(image) => Some(image),
            Err(FindError::NotFound { .. }) if options.policy != PullPolicy::Never => None,
            Err(error) => return Err(error.into()),
        };
        let fits = |image: &Image| {
            let wanted = options.platform.as_ref();
            wanted.is_none_or(|wanted| wanted.fit(&image.platform).is_some())
        };
        match (options.policy, known) {
            (PullPolicy::Missing, Some(image)) if fits(&image) => Ok(image),
            (PullPolicy::Never, Some(image)) => match (fits(&image), &options.platform) {
                (false, Some(wanted)) => Err(PullError::Platform {
                    wanted: wanted.to_string(),
                    found: image.platform.to_string(),
                }),
                _ => Ok(image),
            },
            (_, known) => self.fetch(client, reference, options, known.as_ref(), progress),
        }
    }

    fn fetch(
        &self,
        client: &Client,
        reference: &Reference,
        options: &PullOptions,
        known: Option<&Image>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image, PullError> {
        let say = |line: &str| progress.event(&Event::Message(line));
        let repository = client.repository(&for_registry(reference), Access::Pull)?;
        let host = Platform::host();
        let wanted = options.platform.as_ref().unwrap_or(&host);
        let (named, manifest_bytes, manifest) = self.resolve(&repository, wanted)?;
        let title = reference
            .digest()
            .map_or_else(|| reference.tag().unwrap_or("latest"), Digest::as_str);
        say(&format!("{title}: Pulling from {}", reference.repository()));

        let id = Digest::try_from(manifest.config().digest())?;
        let config_bytes = match self.find(id.as_str()) {
            Ok(image) => image.config_bytes,
            Err(_) => repository.small_blob(manifest.config())?,
        };
        let ingest = self.ingest()?;
        let plan = ingest.plan(&manifest_bytes, &config_bytes)?;
        let is_chosen = !named.matches(&manifest_bytes);
        let found = Platform::of(&plan.config);
        check_platform(options, &host, &found, is_chosen, progress)?;
        let layers = download(&repository, &manifest, &plan.layers, progress)?;
        // As with Docker, a name with a digest is no name: it leads to the image anyway.
        let names: Vec<Reference> = match reference.digest() {
            None => vec![reference.clone()],
            Some(_) => Vec::new(),
        };
        let image = ingest.commit(
            &plan,
            layers,
            &names,
            Some(&reference.with_digest(named.clone())),
        )?;
        say(&format!("Digest: {named}"));
        let is_same = known.is_some_and(|known| known.id == image.id);
        say(&format!(
            "Status: {} for {}",
            if is_same {
                "Image is up to date"
            } else {
                "Downloaded newer image"
            },
            reference.familiar(),
        ));
        Ok(image)
    }

    /// Follows the reference to the manifest for `wanted`. The digest is that of what the
    /// reference names, be it an index.
    fn resolve(
        &self,
        repository: &Repository,
        wanted: &Platform,
    ) -> Result<(Digest, Vec<u8>, ImageManifest), PullError> {
        let mut document = repository.document()?;
        let named = Digest::try_from(&document.digest)?;
        let mut depth = 0;
        loop {
            let index = match parse_manifest(&document.bytes, Some(&document.media_type))? {
                Document::Manifest(manifest) => return Ok((named, document.bytes, *manifest)),
                Document::Index(index) => index,
            };
            depth += 1;
            if depth > self.limits.index_depth {
                return Err(ManifestError::TooDeep(self.limits.index_depth).into());
            }
            document = repository.member(choose(&index, wanted)?)?;
        }
    }
}

/// The reference in the words of the registry's client.
pub(crate) fn for_registry(reference: &Reference) -> isle_registry::Reference {
    let registry = reference.registry().to_owned();
    let repository = reference.repository().to_owned();
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => {
            isle_registry::Reference::with_digest(registry, repository, digest.to_string())
        }
        (None, tag) => {
            let tag = tag.unwrap_or("latest").to_owned();
            isle_registry::Reference::with_tag(registry, repository, tag)
        }
    }
}

/// What was asked for must be what comes; what was not asked for is only said, as by Docker.
fn check_platform(
    options: &PullOptions,
    host: &Platform,
    found: &Platform,
    is_chosen: bool,
    progress: &Arc<dyn Progress>,
) -> Result<(), PullError> {
    match &options.platform {
        // Old configurations leave the variant out; what an index says of it has been looked at.
        Some(wanted) if is_chosen && is_of_same_machine(wanted, found) => Ok(()),
        Some(wanted) if wanted.fit(found).is_none() => Err(PullError::Platform {
            wanted: wanted.to_string(),
            found: found.to_string(),
        }),
        None if host.fit(found).is_none() => {
            progress.event(&Event::Message(&format!(
                "WARNING: the image is for {found}, this host is {host}; no other platform was asked for"
            )));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn is_of_same_machine(one: &Platform, other: &Platform) -> bool {
    (&one.os, &one.architecture) == (&other.os, &other.architecture)
}

/// Downloads and unpacks what is missing, a few layers at a time.
fn download(
    repository: &Repository,
    manifest: &ImageManifest,
    tasks: &[LayerTask],
    progress: &Arc<dyn Progress>,
) -> Result<Vec<StoredLayer>, PullError> {
    for task in tasks.iter().filter(|task| !task.is_present()) {
        if let Some(id) = task.id() {
            progress.event(&Event::Layer {
                id,
                phase: Phase::Waiting,
                done: 0,
                total: task.size,
            });
        }
    }
    let progress: &Arc<dyn Progress> = &(Arc::new(InOrder::new(progress)) as Arc<dyn Progress>);
    // The largest first: the last one to end decides how long it takes.
    let mut queue: Vec<&LayerTask> = tasks.iter().collect();
    queue.sort_by_key(|task| task.size);
    let queue = Mutex::new(queue);
    let has_failed = AtomicBool::new(false);
    let results: Mutex<Vec<Result<StoredLayer, PullError>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..DOWNLOADS_AT_ONCE.min(tasks.len()) {
            scope.spawn(|| {
                while !has_failed.load(Ordering::Relaxed) {
                    let next = queue.lock().expect("no thread panics with the lock").pop();
                    let Some(task) = next else { break };
                    let result = download_one(repository, manifest, task, progress, &has_failed);
                    let Some(result) = result.transpose() else {
                        break;
                    };
                    if result.is_err() {
                        has_failed.store(true, Ordering::Relaxed);
                    }
                    let mut results = results.lock().expect("no thread panics with the lock");
                    results.push(result);
                }
            });
        }
    });
    results
        .into_inner()
        .expect("no thread panics with the lock")
        .into_iter()
        .collect()
}

/// Layers are unpacked while they come in; people are told of one after the other, as by Docker.
struct InOrder {
    inner: Arc<dyn Progress>,
    complete: Mutex<HashSet<Digest>>,
}

impl InOrder {
    fn new(inner: &Arc<dyn Progress>) -> InOrder {
        InOrder {
            inner: Arc::clone(inner),
            complete: Mutex::default(),
        }
    }
}

impl Progress for InOrder {
    fn event(&self, event: &Event<'_>) {
        if let Event::Layer { id, phase, .. } = event {
            let mut complete = self
                .complete
                .lock()
                .expect("no thread panics with the lock");
            match phase {
                Phase::DownloadComplete => drop(complete.insert((*id).clone())),
                Phase::Unpacking if !complete.contains(*id) => return,
                _ => {}
            }
        }
        self.inner.event(event);
    }
}

/// `None`: another layer has failed, and this one was left where it was.
fn download_one(
    repository: &Repository,
    manifest: &ImageManifest,
    task: &LayerTask,
    progress: &Arc<dyn Progress>,
    has_failed: &AtomicBool,
) -> Result<Option<StoredLayer>, PullError> {
    let descriptor = descriptor_of(manifest, task)?;
    let mut writer = match task.start(progress)? {
        LayerStart::Done(layer) => return Ok(Some(layer)),
        LayerStart::Write(writer) => writer,
    };
    let is_pure = writer.offset() == 0 && !repository.has_mirrors();
    match transfer(repository, descriptor, writer, has_failed) {
        // What an earlier attempt left, or what a mirror gave, was wrong: once more, all of it,
        // from the registry itself.
        Err(PullError::Ingest(error)) if !is_pure && is_wrong_content(&error) => {
            if let Some(id) = task.id() {
                progress.event(&Event::Layer {
                    id,
                    phase: Phase::Retrying,
                    done: 0,
                    total: task.size,
                });
            }
            writer = match task.start(progress)? {
                LayerStart::Done(layer) => return Ok(Some(layer)),
                LayerStart::Write(writer) => writer,
            };
            writer.restart()?;
            transfer(
                &repository.without_mirrors(),
                descriptor,
                writer,
                has_failed,
            )
        }
        other => other,
    }
}

fn is_wrong_content(error: &IngestError) -> bool {
    matches!(
        error,
        IngestError::Mismatch { .. }
            | IngestError::Size { .. }
            | IngestError::Compression { .. }
            | IngestError::Decompress { .. }
            | IngestError::Unpack { .. }
    )
}

fn transfer(
    repository: &Repository,
    descriptor: &Descriptor,
    mut writer: LayerWriter,
    has_failed: &AtomicBool,
) -> Result<Option<StoredLayer>, PullError> {
    let mut blob = repository.blob(descriptor, writer.offset())?;
    loop {
        if has_failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut buffer = writer.spare_buffer();
        let room = buffer.capacity().max(64 << 10);
        buffer.resize(room, 0);
        let mut filled = 0;
        while filled < room {
            match blob.read(&mut buffer[filled..]).map_err(registry_error)? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(Some(writer.finish()?));
        }
        buffer.truncate(filled);
        writer.push(buffer)?;
    }
}

/// The manifest's own words on a layer: they may name other places that have it.
fn descriptor_of<'m>(
    manifest: &'m ImageManifest,
    task: &LayerTask,
) -> Result<&'m Descriptor, PullError> {
    let wanted = task.digest.as_ref().map(Digest::as_str);
    let mut layers = manifest.layers().iter();
    layers
        .find(|layer| Some(layer.digest().as_ref()) == wanted)
        .ok_or_else(|| {
            let missing = "a layer that the manifest does not have".to_owned();
            ManifestError::Ambiguous(missing).into()
        })
}
