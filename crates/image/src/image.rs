//! What the store knows of one image.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

/// One image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its configuration, as Docker has it.
    pub id: Digest,
    /// The digest of its manifest in this store. Differs from that in a registry only when the
    /// image came in an archive without a manifest.
    pub manifest: Digest,
    /// Its names as Docker shows them, sorted: `alpine:latest`.
    pub repo_tags: Vec<String>,
    /// What registries call it: `alpine@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes of the files of all its layers, unpacked.
    pub size: u64,
    /// When it was built, as its configuration says.
    pub created: Option<Timestamp>,
    /// When it came into this store.
    pub added: Timestamp,
    /// The image configuration of the OCI image specification.
    pub config: ImageConfiguration,
    /// The fields that Docker adds to it.
    pub docker: DockerConfig,
    /// What it runs on.
    pub platform: Platform,
    /// The configuration's bytes: what [`Image::id`] is the digest of.
    pub config_bytes: Vec<u8>,
}

impl Image {
    /// The first twelve digits of the id.
    #[must_use]
    pub fn short_id(&self) -> &str {
        self.id.short()
    }

    /// No name leads to it.
    #[must_use]
    pub fn is_dangling(&self) -> bool {
        self.repo_tags.is_empty()
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<&str, &str> {
        let labels = self.config.labels_of_config().into_iter().flatten();
        labels.map(|(key, value)| (&**key, &**value)).collect()
    }
}

/// What Docker puts into an image's configuration beyond the OCI image specification, see
/// <https://github.com/moby/docker-image-spec/blob/main/spec.md>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DockerConfig {
    /// `HEALTHCHECK`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD`
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub on_build: Vec<String>,
    /// `SHELL`
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub shell: Vec<String>,
}

/// How to find out whether an instance is well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`; empty inherits.
    #[serde(deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    /// Time between two checks; zero for the default.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub interval: Duration,
    /// How long one may take; zero for the default.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub timeout: Duration,
    /// How long failures do not count after the start; zero for the default.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub start_period: Duration,
    /// Time between two checks during the start period; zero for the default.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy; zero for the default.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Go writes a `time.Duration` as a number of nanoseconds.
mod nanoseconds {
    use super::{Deserialize, Duration};

    pub(super) fn serialize<S: serde::Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

/// Why bytes are not an image configuration.
#[derive(Debug, thiserror::Error)]
#[error("the image configuration cannot be understood")]
pub struct ConfigError {
    #[from]
    source: serde_json::Error,
}

#[derive(Deserialize)]
struct WithDocker {
    #[serde(default, deserialize_with = "null_is_default")]
    config: DockerConfig,
}

/// Reads a configuration: the specification's part and Docker's.
///
/// # Errors
/// [`ConfigError`] when it is not one.
pub fn parse_config(bytes: &[u8]) -> Result<(ImageConfiguration, DockerConfig), ConfigError> {
    let fail = |source| ConfigError { source };
    expect_object(bytes).map_err(fail)?;
    let config = serde_json::from_slice(bytes).map_err(fail)?;
    let with_docker: WithDocker = serde_json::from_slice(bytes).map_err(fail)?;
    Ok((config, with_docker.config))
}

/// serde takes a list for a struct as well; nobody else does.
pub(crate) fn expect_object(bytes: &[u8]) -> Result<(), serde_json::Error> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        _ => Err(serde::de::Error::custom("expected a JSON object")),
    }
}
