//! Manifests and indexes as they come from a registry: one meaning each, or refused.
//!
//! A document that one engine reads as an image and another as an index makes a signature on it
//! worthless (CVE-2021-41190). So the media type that the server announces, the one inside the
//! document and the fields that are there must all say the same.

use std::collections::HashSet;
use std::fmt;

use oci_spec::image::{Digest, DigestAlgorithm};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::error::RegistryError;
use crate::location::printable;

/// The most that is read of a manifest or index: what registries themselves accept.
pub const LARGEST_DOCUMENT: u64 = 4 << 20;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest or an index, with the bytes that its digest is of.
#[derive(Clone, Debug)]
pub struct Document {
    /// The digest, computed from the bytes.
    pub digest: Digest,
    /// One of the four media types of manifests and indexes.
    pub media_type: String,
    /// The document itself; this is what has to be kept.
    pub bytes: Vec<u8>,
}

impl Document {
    /// Whether it is an index of several images rather than the manifest of one.
    pub fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }

    /// Checks a document, whose origin `object` names in errors.
    ///
    /// `announced` is the media type that came with it; `expected` its digest, where known.
    ///
    /// # Errors
    /// [`RegistryError::WrongDigest`], [`RegistryError::UnsupportedDigest`] and
    /// [`RegistryError::Malformed`].
    pub fn read(
        bytes: Vec<u8>,
        announced: Option<&str>,
        expected: Option<&Digest>,
        object: &str,
    ) -> Result<Document, RegistryError> {
        let algorithm = expected.map_or(&DigestAlgorithm::Sha256, Digest::algorithm);
        let digest = digest_of(algorithm, &bytes)?;
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(RegistryError::WrongDigest {
                object: object.into(),
                expected: expected.to_string(),
                actual: digest.to_string(),
            });
        }
        let malformed = |why: String| RegistryError::Malformed {
            object: object.into(),
            why: printable(&why, 300),
        };
        let outline: Outline =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let media_type = outline.media_type(announced).map_err(malformed)?;
        Ok(Document {
            digest,
            media_type: media_type.into(),
            bytes,
        })
    }
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// The known media type that `text` names, or `None`.
fn known(text: &str) -> Option<&'static str> {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST]
        .into_iter()
        .find(|known| *known == text)
}

/// What can be seen of a document without believing it.
#[derive(Default)]
struct Outline {
    names: HashSet<String>,
    media_type: Option<String>,
    schema_version: Option<u64>,
}

impl Outline {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn media_type(&self, announced: Option<&str>) -> Result<&'static str, String> {
        match self.schema_version {
            Some(2) => {}
            Some(1) => {
                return Err(
                    "schema 1 is not supported any more; push the image again with a current tool"
                        .into(),
                );
            }
            _ => return Err("schemaVersion is not 2".into()),
        }
        let looks_like_index = self.has("manifests");
        let looks_like_manifest = self.has("config") || self.has("layers");
        if looks_like_index && looks_like_manifest {
            return Err("it is both an image manifest and an index".into());
        }
        if self.has("fsLayers") || self.has("history") || self.has("signatures") {
            return Err("it has fields of schema 1".into());
        }
        if !looks_like_index && !looks_like_manifest {
            return Err("it is neither an image manifest nor an index".into());
        }
        let inside = match self.media_type.as_deref() {
            None | Some("") => None,
            Some(text) => Some(known(text).ok_or(format!("unknown media type `{text}`"))?),
        };
        let announced = announced
            .map(|text| {
                text.split(';')
                    .next()
                    .unwrap_or(text)
                    .trim()
                    .to_ascii_lowercase()
            })
            .filter(|text| !is_vague(text));
        let announced = match announced.as_deref() {
            None => None,
            Some(text) => Some(known(text).ok_or(format!("unknown media type `{text}`"))?),
        };
        let media_type = match (inside, announced) {
            (Some(inside), Some(announced)) if inside != announced => {
                return Err(format!(
                    "it calls itself {inside}, and the registry calls it {announced}"
                ));
            }
            (Some(inside), _) => inside,
            (None, Some(announced)) => announced,
            (None, None) if looks_like_index => OCI_INDEX,
            (None, None) => OCI_MANIFEST,
        };
        if is_index(media_type) != looks_like_index {
            return Err(format!("its fields are not those of {media_type}"));
        }
        Ok(media_type)
    }
}

/// What servers of plain files say about everything.
fn is_vague(media_type: &str) -> bool {
    matches!(
        media_type,
        "" | "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream"
    )
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outline, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Outline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a manifest or an index")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
                let mut outline = Outline::default();
                let mut folded = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    // Go's decoder takes `Layers` for `layers`; what differs in case only would be
                    // read differently there and here.
                    if !folded.insert(name.to_lowercase()) {
                        return Err(serde::de::Error::custom(format!("field `{name}` twice")));
                    }
                    match name.as_str() {
                        "mediaType" => outline.media_type = map.next_value()?,
                        "schemaVersion" => outline.schema_version = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                    outline.names.insert(name);
                }
                for name in [
                    "config",
                    "layers",
                    "manifests",
                    "mediaType",
                    "schemaVersion",
                ] {
                    if folded.contains(&name.to_lowercase()) && !outline.has(name) {
                        return Err(serde::de::Error::custom(format!(
                            "field `{name}` is misspelt"
                        )));
                    }
                }
                Ok(outline)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Computes a digest of `content`.
pub(crate) fn digest_of(
    algorithm: &DigestAlgorithm,
    content: &[u8],
) -> Result<Digest, RegistryError> {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let text = match algorithm {
        DigestAlgorithm::Sha256 => format!("sha256:{}", hex(&Sha256::digest(content))),
        DigestAlgorithm::Sha384 => format!("sha384:{}", hex(&Sha384::digest(content))),
        DigestAlgorithm::Sha512 => format!("sha512:{}", hex(&Sha512::digest(content))),
        other => {
            return Err(RegistryError::UnsupportedDigest {
                digest: other.to_string(),
            });
        }
    };
    text.parse()
        .map_err(|_| RegistryError::UnsupportedDigest { digest: text })
}

/// Reads a digest that names something: one of an algorithm that we can check.
///
/// # Errors
/// [`RegistryError::UnsupportedDigest`]; also for anything that is no digest, such as a path.
pub fn parse_digest(text: &str) -> Result<Digest, RegistryError> {
    let unsupported = || RegistryError::UnsupportedDigest {
        digest: printable(text, 200),
    };
    let digest: Digest = text.parse().map_err(|_| unsupported())?;
    match digest.algorithm() {
        DigestAlgorithm::Sha256 | DigestAlgorithm::Sha384 | DigestAlgorithm::Sha512 => Ok(digest),
        _ => Err(unsupported()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn descriptor(media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "size": 2, "digest": format!("sha256:{}", "a".repeat(64))})
    }

    fn manifest() -> serde_json::Value {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json"), "layers": []})
    }

    fn read(
        document: &serde_json::Value,
        announced: Option<&str>,
    ) -> Result<Document, RegistryError> {
        Document::read(
            document.to_string().into_bytes(),
            announced,
            None,
            "manifest",
        )
    }

    #[test]
    fn the_four_kinds_are_read_whether_announced_or_not() {
        for announced in [
            None,
            Some(OCI_MANIFEST),
            Some("application/json"),
            Some("text/plain; charset=utf-8"),
        ] {
            let document = read(&manifest(), announced).unwrap();
            assert_eq!(document.media_type, OCI_MANIFEST);
            assert!(!document.is_index());
        }
        let mut plain = manifest();
        plain.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(
            read(&plain, Some(DOCKER_MANIFEST)).unwrap().media_type,
            DOCKER_MANIFEST
        );
        assert_eq!(read(&plain, None).unwrap().media_type, OCI_MANIFEST);
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert_eq!(
            read(&index, Some(DOCKER_LIST)).unwrap().media_type,
            DOCKER_LIST
        );
        assert!(read(&index, None).unwrap().is_index());
    }

    #[test]
    fn a_document_with_two_meanings_is_refused() {
        let changed = |name: &str, value: serde_json::Value| {
            let mut document = manifest();
            document[name] = value;
            document
        };
        for (document, announced) in [
            (changed("manifests", json!([])), None),
            (changed("Manifests", json!([])), None),
            (changed("Layers", json!([])), None),
            (changed("fsLayers", json!([])), None),
            (changed("mediaType", json!(OCI_INDEX)), None),
            (changed("mediaType", json!("text/html")), None),
            (changed("schemaVersion", json!(1)), None),
            (manifest(), Some(OCI_INDEX)),
            (manifest(), Some(DOCKER_MANIFEST)),
            (
                manifest(),
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            ),
            (
                json!({"schemaVersion": 2, "manifests": []}),
                Some(OCI_MANIFEST),
            ),
            (json!({"schemaVersion": 2}), None),
            (json!([]), None),
            (json!("text"), None),
        ] {
            let error = read(&document, announced).unwrap_err();
            assert!(
                matches!(error, RegistryError::Malformed { .. }),
                "{document}: {error}"
            );
        }
        let twice = manifest().to_string().replacen('{', "{\"layers\":[],", 1);
        assert!(Document::read(twice.into_bytes(), None, None, "m").is_err());
    }

    #[test]
    fn bytes_that_are_not_of_their_digest_are_refused() {
        let bytes = manifest().to_string().into_bytes();
        for algorithm in [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
            let digest = digest_of(&algorithm, &bytes).unwrap();
            assert!(Document::read(bytes.clone(), None, Some(&digest), "m").is_ok());
            let mut changed = bytes.clone();
            changed.push(b' ');
            let error = Document::read(changed, None, Some(&digest), "m").unwrap_err();
            assert!(matches!(error, RegistryError::WrongDigest { .. }));
        }
    }

    #[test]
    fn a_path_is_no_digest() {
        for bad in [
            "sha256:../../../../etc/passwd",
            "sha256:",
            "../x",
            "sha256:/abc",
            "md5:abcd",
            "sha256:ABCDEF",
            "",
            "sha256:aa/bb",
            "x:y",
        ] {
            assert!(parse_digest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_crash() {
        let bomb = format!("{{\"schemaVersion\":2,\"x\":{}", "[".repeat(1_000_000));
        assert!(Document::read(bomb.into_bytes(), None, None, "m").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::read(bytes, None, None, "m");
        }

        #[test]
        fn no_mutation_of_a_manifest_makes_the_reader_fail(at in 0_usize..300, byte in any::<u8>()) {
            let mut bytes = manifest().to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Document::read(bytes, Some(OCI_MANIFEST), None, "m");
        }
    }
}
