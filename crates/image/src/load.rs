//! `load`: images from archives and directories, as docker, podman, skopeo, buildah and others
//! write them.
//!
//! | what | told by |
//! |---|---|
//! | OCI image layout | `index.json` |
//! | docker-archive | `manifest.json` |
//! | docker-archive before Docker 1.10 | `repositories` |
//!
//! An archive that is both (Docker writes such since 25) is read as OCI, because that keeps the
//! digests of manifests; names are taken from both.

use std::io::Read;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;

use crate::compression::Compression;
use crate::digest::{Digest, DigestError, Hasher};
use crate::image::{ConfigError, Image, parse_config};
use crate::ingest::IngestError;
use crate::layer::{LayerStart, LayerTask, StoredLayer};
use crate::legacy::legacy_images;
use crate::manifest::{Document, ManifestError, choose, is_image, parse_manifest};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::{Reference, ReferenceError};
use crate::source::{LoadInput, Member, Source, SourceError};
use crate::store::{Store, StoreError};

/// One image that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The image.
    pub image: Image,
    /// The names that it was given, as Docker shows them; none when the archive had none.
    pub names: Vec<String>,
}

/// Why an archive could not be loaded. Images of it that came before the failure are there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The archive itself.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It has none of the files that make it an image archive.
    #[error("this is not an image archive: it has neither index.json nor manifest.json")]
    NotAnImage,
    /// It is one, with nothing in it.
    #[error("the image archive has no image")]
    Empty,
    /// Its list of images cannot be understood.
    #[error("cannot understand {file} of the image archive")]
    Json {
        /// Which file.
        file: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A file is not what its name says.
    #[error(
        "the file {file:?} of the image archive does not have the digest that it should: found {found}"
    )]
    Mismatch {
        /// Which file.
        file: String,
        /// What its digest is.
        found: Digest,
    },
    /// A name of an image.
    #[error("the image archive gives an image a name that is none")]
    Reference(#[from] ReferenceError),
    /// More images than it may have.
    #[error("the image archive has {0} images, more than {1}")]
    TooMany(usize, usize),
    /// An image for another platform than asked for.
    #[error("the image archive has the image for {found}, not for {wanted}")]
    Platform {
        /// Asked for.
        wanted: Box<Platform>,
        /// What there is.
        found: Box<Platform>,
    },
    /// Number of layers.
    #[error(
        "the image archive lists {layers} layers for an image whose configuration has {diff_ids}"
    )]
    LayerCount {
        /// In `manifest.json`.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// One of its images.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

impl From<ManifestError> for LoadError {
    fn from(error: ManifestError) -> Self {
        LoadError::Ingest(error.into())
    }
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> Self {
        LoadError::Ingest(error.into())
    }
}

impl From<DigestError> for LoadError {
    fn from(error: DigestError) -> Self {
        LoadError::Ingest(error.into())
    }
}

impl From<ConfigError> for LoadError {
    fn from(error: ConfigError) -> Self {
        LoadError::Ingest(error.into())
    }
}

impl LoadError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            LoadError::NotAnImage => {
                Some("`isle import` makes an image of a plain root file system archive".to_owned())
            }
            LoadError::Source(SourceError::Compression(error)) => Some(error.hint().to_owned()),
            LoadError::Source(SourceError::Io(error)) => {
                crate::store::io_hint(error).map(str::to_owned)
            }
            LoadError::Source(_) | LoadError::Mismatch { .. } => {
                Some("the archive is incomplete or damaged: write or download it again".to_owned())
            }
            LoadError::Ingest(error) => error.hint(),
            LoadError::Reference(error) => Some(error.hint().to_owned()),
            LoadError::Platform { found, .. } => Some(format!("load it with --platform {found}")),
            _ => None,
        }
    }
}

/// An entry of docker-archive's `manifest.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ArchiveImage {
    pub(crate) config: String,
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Option<Vec<String>>,
}

impl Store {
    /// Loads all images of an archive or directory.
    ///
    /// Of an image for several platforms, the one for `platform` (the host's when not given) is
    /// taken. Each image is committed as soon as it is complete.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        &self,
        input: LoadInput<'_>,
        platform: Option<&Platform>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<Loaded>, LoadError> {
        let source = Source::open(input, &self.folders, self.limits)?;
        let listed = listed_images(&source)?;
        if let Some(index) = source.document("index.json")? {
            let index = oci_index(&index)?;
            if is_complete(&source, &index)? {
                return self.load_layout(&source, &index, &listed, platform, progress);
            }
        }
        let images = match listed {
            Some(images) => images,
            None => return self.load_legacy(&source, platform, progress),
        };
        if images.is_empty() {
            return Err(LoadError::Empty);
        }
        let mut loaded = Vec::new();
        for image in &images {
            let config = source
                .document(&image.config)?
                .ok_or_else(|| SourceError::Missing(image.config.clone()))?;
            check_name(&image.config, &config)?;
            loaded.push(self.load_listed(&source, image, config, platform, progress)?);
        }
        Ok(loaded)
    }

    fn load_legacy(
        &self,
        source: &Source,
        platform: Option<&Platform>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<Loaded>, LoadError> {
        let mut loaded = Vec::new();
        for (image, config) in legacy_images(source)? {
            loaded.push(self.load_listed(source, &image, config, platform, progress)?);
        }
        match loaded.is_empty() {
            true => Err(LoadError::Empty),
            false => Ok(loaded),
        }
    }

    /// An image of a docker-archive: there is no manifest, so one is made.
    fn load_listed(
        &self,
        source: &Source,
        listed: &ArchiveImage,
        config_bytes: Vec<u8>,
        platform: Option<&Platform>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Loaded, LoadError> {
        let names = references(listed.repo_tags.as_deref().unwrap_or_default())?;
        let (config, _) = parse_config(&config_bytes)?;
        check_platform(platform, &Platform::of(&config))?;
        let files = listed.layers.as_deref().unwrap_or_default();
        let diff_ids = config.rootfs().diff_ids();
        if files.len() != diff_ids.len() {
            return Err(LoadError::LayerCount {
                layers: files.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let ingest = self.ingest()?;
        let mut work = Vec::new();
        let mut places: Vec<(&str, usize)> = Vec::new();
        let mut order = Vec::new();
        for (file, diff_id) in files.iter().zip(diff_ids) {
            let diff_id: Digest = diff_id.parse()?;
            if let Some((_, place)) = places.iter().find(|(known, _)| *known == diff_id.as_str()) {
                order.push(*place);
                continue;
            }
            let member = source.require(file)?;
            let is_plain = Compression::detect(&member.start().map_err(SourceError::Io)?)
                == Ok(Compression::None);
            // The address is known without reading it: from the name, or because nothing is
            // compressed.
            let digest = match blob_name(file) {
                Some(digest) => Some(digest),
                None => is_plain.then(|| diff_id.clone()),
            };
            let mut task = ingest.task(digest, Some(member.size), Some(&diff_id))?;
            task.is_download = false;
            order.push(work.len());
            places.push((diff_ids[order.len() - 1].as_str(), work.len()));
            work.push((task, member));
        }
        let layers = bring(work, progress)?;
        let ordered: Vec<&StoredLayer> = order.iter().map(|place| &layers[*place]).collect();
        let plan = ingest.plan_of(config_bytes, &ordered)?;
        let image = ingest.commit(&plan, layers, &names, None)?;
        Ok(Loaded {
            image,
            names: names.iter().map(Reference::familiar).collect(),
        })
    }

    fn load_layout(
        &self,
        source: &Source,
        index: &ImageIndex,
        listed: &Option<Vec<ArchiveImage>>,
        platform: Option<&Platform>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<Loaded>, LoadError> {
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        // Descriptors with one name are one image for several platforms.
        let mut groups: Vec<(Option<Reference>, Vec<Descriptor>)> = Vec::new();
        for descriptor in index.manifests().iter().filter(|found| is_image(found)) {
            let name = annotated_name(descriptor);
            match groups
                .iter_mut()
                .find(|(known, _)| *known == name && descriptor.platform().is_some())
            {
                Some((_, group)) if group.iter().all(|other| other.platform().is_some()) => {
                    group.push(descriptor.clone());
                }
                _ => groups.push((name, vec![descriptor.clone()])),
            }
        }
        if groups.is_empty() {
            return Err(LoadError::Empty);
        }
        let mut loaded: Vec<Loaded> = Vec::new();
        for (name, group) in groups {
            let descriptor = match &*group {
                [only] => only.clone(),
                _ => {
                    let mut several = index.clone();
                    several.set_manifests(group);
                    choose(&several, wanted)?.clone()
                }
            };
            let manifest = resolve(source, &descriptor, wanted, self.limits.index_depth)?;
            let mut names: Vec<Reference> = name.into_iter().collect();
            let image = self.load_manifest(source, &manifest, platform, progress, |id| {
                for listed in listed.iter().flatten() {
                    if blob_name(&listed.config).as_ref() == Some(id) {
                        names.extend(references(listed.repo_tags.as_deref().unwrap_or_default())?);
                    }
                }
                names.sort();
                names.dedup();
                Ok(names.clone())
            })?;
            let names: Vec<String> = names.iter().map(Reference::familiar).collect();
            match loaded.iter_mut().find(|known| known.image.id == image.id) {
                Some(known) => {
                    known.image = image;
                    known.names.extend(names);
                    known.names.sort();
                    known.names.dedup();
                }
                None => loaded.push(Loaded { image, names }),
            }
        }
        Ok(loaded)
    }

    fn load_manifest(
        &self,
        source: &Source,
        manifest: &[u8],
        platform: Option<&Platform>,
        progress: &Arc<dyn Progress>,
        names: impl FnOnce(&Digest) -> Result<Vec<Reference>, LoadError>,
    ) -> Result<Image, LoadError> {
        let Document::Manifest(parsed) = parse_manifest(manifest, None)? else {
            return Err(ManifestError::Type("an index".to_owned()).into());
        };
        let id = Digest::try_from(parsed.config().digest())?;
        let config_name = blob_path(&id);
        let config = source
            .document(&config_name)?
            .ok_or(SourceError::Missing(config_name))?;
        let ingest = self.ingest()?;
        let plan = {
            let mut plan = ingest.plan(manifest, &config)?;
            check_platform(platform, &Platform::of(&plan.config))?;
            let mut work = Vec::new();
            for mut task in std::mem::take(&mut plan.layers) {
                task.is_download = false;
                let Some(digest) = &task.digest else { continue };
                // What is here already need not be in the archive.
                let path = blob_path(digest);
                let member = match source.find(&path)? {
                    Some(member) => member,
                    None if task.is_present() => source.require("index.json")?,
                    None => return Err(SourceError::Missing(path).into()),
                };
                work.push((task, member));
            }
            (plan, work)
        };
        let (plan, work) = plan;
        let layers = bring(work, progress)?;
        let names = names(&id)?;
        Ok(ingest.commit(&plan, layers, &names, None)?)
    }
}

/// Brings layers in, several at a time.
pub(crate) fn bring(
    work: Vec<(LayerTask, Member)>,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<StoredLayer>, IngestError> {
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(work.len())
        .clamp(1, 4);
    let count = work.len();
    // The largest first: the last one to end decides how long it takes.
    let mut queue: Vec<(usize, (LayerTask, Member))> = work.into_iter().enumerate().collect();
    queue.sort_by_key(|(_, (_, member))| member.size);
    let queue = Mutex::new(queue);
    let has_failed = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, Result<StoredLayer, IngestError>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !has_failed.load(Ordering::Relaxed) {
                    let next = queue.lock().expect("no thread panics with the lock").pop();
                    let Some((place, (task, member))) = next else {
                        break;
                    };
                    let result = bring_one(&task, &member, progress, &has_failed);
                    let is_err = result.is_err();
                    // In this order: the failure that others break off for comes first.
                    results
                        .lock()
                        .expect("no thread panics with the lock")
                        .push((place, result));
                    has_failed.fetch_or(is_err, Ordering::Relaxed);
                }
            });
        }
    });
    let mut results = results
        .into_inner()
        .expect("no thread panics with the lock");
    // Of several failures, the one that the others broke off for is the first.
    if let Some(failed) = results.iter().position(|(_, result)| result.is_err()) {
        let (_, result) = results.swap_remove(failed);
        return result.map(|_| Vec::new());
    }
    results.sort_by_key(|(place, _)| *place);
    let layers: Vec<StoredLayer> = results.into_iter().filter_map(|(_, r)| r.ok()).collect();
    debug_assert_eq!(layers.len(), count);
    Ok(layers)
}

fn bring_one(
    task: &LayerTask,
    member: &Member,
    progress: &Arc<dyn Progress>,
    has_failed: &AtomicBool,
) -> Result<StoredLayer, IngestError> {
    let mut writer = match task.start(progress)? {
        LayerStart::Done(layer) => return Ok(layer),
        LayerStart::Write(writer) => writer,
    };
    let mut reader = member.reader();
    loop {
        let mut buffer = writer.spare_buffer();
        buffer.resize(crate::pipe::BUFFER, 0);
        let count = reader
            .read(&mut buffer)
            .map_err(|source| IngestError::Decompress {
                layer: task.id().map_or_else(String::new, Digest::to_string),
                source,
            })?;
        if count == 0 || has_failed.load(Ordering::Relaxed) {
            break;
        }
        buffer.truncate(count);
        writer.push(buffer)?;
    }
    writer.finish()
}

fn listed_images(source: &Source) -> Result<Option<Vec<ArchiveImage>>, LoadError> {
    let Some(bytes) = source.document("manifest.json")? else {
        return Ok(None);
    };
    let images: Vec<ArchiveImage> =
        serde_json::from_slice(&bytes).map_err(|source| LoadError::Json {
            file: "manifest.json".to_owned(),
            source,
        })?;
    let limit = isle_archive::LIMITS.images;
    match images.len() > limit {
        true => Err(LoadError::TooMany(images.len(), limit)),
        false => Ok(Some(images)),
    }
}

fn oci_index(bytes: &[u8]) -> Result<ImageIndex, LoadError> {
    match parse_manifest(bytes, None)? {
        Document::Index(index) => {
            let limit = isle_archive::LIMITS.images;
            match index.manifests().len() > limit {
                true => Err(LoadError::TooMany(index.manifests().len(), limit)),
                false => Ok(*index),
            }
        }
        Document::Manifest(_) => Err(ManifestError::Ambiguous(
            "index.json is a manifest, not an index".to_owned(),
        )
        .into()),
    }
}

/// Docker's classic store writes an `index.json` whose manifests are not always in the archive.
fn is_complete(source: &Source, index: &ImageIndex) -> Result<bool, LoadError> {
    for descriptor in index.manifests().iter().filter(|found| is_image(found)) {
        let digest = Digest::try_from(descriptor.digest())?;
        if source.find(&blob_path(&digest))?.is_none() {
            return Ok(source.find("manifest.json")?.is_none());
        }
    }
    Ok(true)
}

/// Follows indexes down to the manifest for a platform.
fn resolve(
    source: &Source,
    descriptor: &Descriptor,
    wanted: &Platform,
    depth: usize,
) -> Result<Vec<u8>, LoadError> {
    let digest = Digest::try_from(descriptor.digest())?;
    let name = blob_path(&digest);
    let bytes = source.document(&name)?.ok_or(SourceError::Missing(name))?;
    if !digest.matches(&bytes) {
        return Err(IngestError::Mismatch {
            what: "the manifest",
            found: Digest::of(&bytes),
            expected: digest,
        }
        .into());
    }
    if descriptor.size() != bytes.len() as u64 {
        return Err(IngestError::Size {
            digest,
            expected: descriptor.size(),
            found: bytes.len() as u64,
        }
        .into());
    }
    let media_type = descriptor.media_type().to_string();
    match parse_manifest(&bytes, Some(&media_type))? {
        Document::Manifest(_) => Ok(bytes),
        Document::Index(_) if depth == 0 => {
            Err(ManifestError::TooDeep(isle_archive::LIMITS.index_depth).into())
        }
        Document::Index(index) => resolve(source, choose(&index, wanted)?, wanted, depth - 1),
    }
}

/// The name that a layout gives an image. A bare `latest`, as skopeo and new Docker write it
/// beside the full name, is none.
fn annotated_name(descriptor: &Descriptor) -> Option<Reference> {
    let annotations = descriptor.annotations().as_ref()?;
    let full = annotations.get("io.containerd.image.name");
    let short = annotations
        .get("org.opencontainers.image.ref.name")
        .filter(|name| name.contains(['/', ':']));
    [full, short]
        .into_iter()
        .flatten()
        .find_map(|name| name.parse::<Reference>().ok())
        .filter(|reference| reference.digest().is_none())
}

fn references(names: &[String]) -> Result<Vec<Reference>, ReferenceError> {
    names.iter().map(|name| name.parse()).collect()
}

fn check_platform(wanted: Option<&Platform>, found: &Platform) -> Result<(), LoadError> {
    match wanted {
        Some(wanted) if wanted.fit(found).is_none() => Err(LoadError::Platform {
            wanted: Box::new(wanted.clone()),
            found: Box::new(found.clone()),
        }),
        _ => Ok(()),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest in `blobs/sha256/<hex>`, or in a configuration's `<hex>.json`.
fn blob_name(file: &str) -> Option<Digest> {
    let file = file.strip_prefix("./").unwrap_or(file);
    if let Some(rest) = file.strip_prefix("blobs/") {
        return rest.replacen('/', ":", 1).parse().ok();
    }
    let stem = file.strip_suffix(".json")?;
    format!("sha256:{stem}").parse().ok()
}

/// A file that is called by its digest must have it.
fn check_name(file: &str, bytes: &[u8]) -> Result<(), LoadError> {
    let Some(expected) = blob_name(file) else {
        return Ok(());
    };
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let found = hasher.finish();
    match found == expected {
        true => Ok(()),
        false => Err(LoadError::Mismatch {
            file: file.to_owned(),
            found,
        }),
    }
}
