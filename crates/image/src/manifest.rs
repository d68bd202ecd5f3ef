//! Reads manifests and indexes, and chooses from an index.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/manifest.md>,
//! <https://github.com/opencontainers/image-spec/blob/main/image-index.md>

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use crate::digest::{Digest, DigestError};
use crate::platform::Platform;
use isle_archive::LIMITS;

/// What a registry or a layout has under a name.
#[derive(Clone, Debug)]
pub enum Document {
    /// The manifest of one image.
    Manifest(Box<ImageManifest>),
    /// A list of manifests, one a platform.
    Index(Box<ImageIndex>),
}

/// Why bytes are neither manifest nor index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// No JSON, or fields missing.
    #[error("the manifest cannot be understood")]
    Json(#[from] serde_json::Error),
    /// Has `layers` or `config` and `manifests`: two readers would see two images
    /// (CVE-2021-41190).
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(String),
    /// Docker's schema 1, an artifact, or something newer.
    #[error("the manifest has type {0:?}, which is not that of an image")]
    Type(String),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A cap.
    #[error("the manifest has {count} {what}, more than {limit}")]
    Limit {
        /// Bytes, layers.
        what: &'static str,
        /// How many it has.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Manifest and configuration contradict each other.
    #[error("the manifest has {layers} layers, its configuration has {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// The index has nothing for the platform.
    #[error("the image is not available for {platform}; it is for: {}", .available.join(", "))]
    NoPlatform {
        /// Asked for.
        platform: Platform,
        /// What there is.
        available: Vec<String>,
    },
    /// An index within an index within an index…
    #[error("the index leads to an index more than {0} times")]
    TooDeep(usize),
    /// A size that cannot be.
    #[error("the manifest says that {digest} has {size} bytes")]
    Size {
        /// Of what.
        digest: Digest,
        /// What it says.
        size: u64,
    },
}

impl ManifestError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ManifestError::NoPlatform { available, .. } => available
                .first()
                .map(|first| format!("another platform can be asked for: --platform {first}")),
            ManifestError::Ambiguous(_) => {
                Some("whoever made the image must repair it: do not use it".to_owned())
            }
            ManifestError::Type(found) if found.contains("v1+") => Some(
                "images of Docker's schema 1 are no longer supported: push it again with a newer docker"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Reads a document. `media_type` is what the registry (or the descriptor that led here) called
/// it; the document must be that.
///
/// # Errors
/// [`ManifestError`] when it is neither or could be taken for both.
pub fn parse_manifest(bytes: &[u8], media_type: Option<&str>) -> Result<Document, ManifestError> {
    let limit = LIMITS.json_bytes as usize;
    if bytes.len() > limit {
        return Err(ManifestError::Limit {
            what: "bytes",
            count: bytes.len(),
            limit,
        });
    }
    crate::image::expect_object(bytes)?;
    let shape: Shape = serde_json::from_slice(bytes)?;
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Err(ManifestError::Type(
            "application/vnd.docker.distribution.manifest.v1+json".to_owned(),
        ));
    }
    let is_index = shape.manifests.is_some();
    if is_index && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(ManifestError::Ambiguous(
            "it is a manifest and an index at once".to_owned(),
        ));
    }
    // Parameters (";charset=utf-8") and generic types say nothing.
    let stated = media_type
        .map(|text| text.split(';').next().unwrap_or(text).trim())
        .filter(|text| !matches!(*text, "" | "application/json" | "application/octet-stream"));
    for found in [shape.media_type.as_deref(), stated].into_iter().flatten() {
        let (says_manifest, says_index) = (
            MANIFEST_TYPES.contains(&found),
            INDEX_TYPES.contains(&found),
        );
        if !says_manifest && !says_index {
            return Err(ManifestError::Type(found.chars().take(200).collect()));
        }
        if says_index != is_index {
            return Err(ManifestError::Ambiguous(format!(
                "it is called {found}, but has the fields of the other"
            )));
        }
    }
    if is_index {
        let index: ImageIndex = serde_json::from_slice(bytes)?;
        for descriptor in index.manifests() {
            Digest::try_from(descriptor.digest())?;
        }
        return Ok(Document::Index(Box::new(index)));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes)?;
    for descriptor in manifest.layers().iter().chain([manifest.config()]) {
        let digest = Digest::try_from(descriptor.digest())?;
        if descriptor.size() > LIMITS.layer_bytes {
            return Err(ManifestError::Size {
                digest,
                size: descriptor.size(),
            });
        }
    }
    if manifest.layers().len() > LIMITS.layers {
        return Err(ManifestError::Limit {
            what: "layers",
            count: manifest.layers().len(),
            limit: LIMITS.layers,
        });
    }
    let config_type = manifest.config().media_type().to_string();
    if !matches!(
        &*config_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            | "application/octet-stream"
    ) {
        return Err(ManifestError::Type(config_type.chars().take(200).collect()));
    }
    Ok(Document::Manifest(Box::new(manifest)))
}

/// The manifest (or index) of an index that fits a platform best. What has no platform counts
/// only when it is the only one; attestations never count.
///
/// # Errors
/// [`ManifestError::NoPlatform`].
pub fn choose<'i>(
    index: &'i ImageIndex,
    platform: &Platform,
) -> Result<&'i Descriptor, ManifestError> {
    let candidates: Vec<&Descriptor> = index
        .manifests()
        .iter()
        .filter(|descriptor| is_image(descriptor))
        .collect();
    let offered = |descriptor: &Descriptor| {
        descriptor.platform().as_ref().map(|offered| {
            Platform::from_parts(
                offered.os(),
                offered.architecture(),
                offered.variant().as_deref(),
            )
        })
    };
    let mut best: Option<(u32, &Descriptor)> = None;
    for descriptor in &candidates {
        let fit = offered(descriptor).and_then(|offered| platform.fit(&offered));
        // The first of equals wins, as the specification asks.
        if let Some(fit) = fit
            && best.is_none_or(|(best, _)| fit > best)
        {
            best = Some((fit, descriptor));
        }
    }
    match (best, &*candidates) {
        (Some((_, descriptor)), _) => Ok(descriptor),
        (None, [only]) if only.platform().is_none() => Ok(only),
        _ => Err(ManifestError::NoPlatform {
            platform: platform.clone(),
            available: candidates
                .iter()
                .filter_map(|descriptor| offered(descriptor))
                .map(|offered| offered.to_string())
                .collect(),
        }),
    }
}

pub(crate) fn is_image(descriptor: &Descriptor) -> bool {
    let media_type = descriptor.media_type().to_string();
    let is_known = MANIFEST_TYPES.contains(&&*media_type) || INDEX_TYPES.contains(&&*media_type);
    // BuildKit keeps provenance as a manifest for the platform unknown/unknown.
    let is_attestation = descriptor
        .annotations()
        .as_ref()
        .is_some_and(|annotations| {
            annotations
                .get("vnd.docker.reference.type")
                .is_some_and(|kind| kind == "attestation-manifest")
        });
    is_known && !is_attestation
}

/// The manifest of an image whose layers and configuration are given, for images that come
/// without one.
pub(crate) fn compose(config: &[u8], layers: &[(Digest, u64, MediaType)]) -> Vec<u8> {
    let descriptor = |media_type: MediaType, size: u64, digest: &Digest| {
        Descriptor::new(media_type, size, oci_spec::image::Digest::from(digest))
    };
    let manifest = oci_spec::image::ImageManifestBuilder::default()
        .schema_version(oci_spec::image::SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(
            MediaType::ImageConfig,
            config.len() as u64,
            &Digest::of(config),
        ))
        .layers(
            layers
                .iter()
                .map(|(digest, size, media_type)| descriptor(media_type.clone(), *size, digest))
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("all required fields are set");
    serde_json::to_vec(&manifest).expect("a manifest can be written")
}
