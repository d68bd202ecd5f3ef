//! Manifests, indexes and tags of a repository.

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, Digest};
use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::ACCEPT;

use crate::client::{Endpoint, Repository};
use crate::document::{
    DOCKER_LIST, DOCKER_MANIFEST, Document, LARGEST_DOCUMENT, OCI_INDEX, OCI_MANIFEST, parse_digest,
};
use crate::error::RegistryError;
use crate::location::printable;
use crate::transport::{self, Request};

const LARGEST_TAG_PAGE: u64 = 4 << 20;
const MOST_TAG_PAGES: usize = 1000;

impl Repository {
    /// Fetches what the reference names, by digest if it has one, else by tag.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn document(&self) -> Result<Document, RegistryError> {
        match self.reference.digest() {
            Some(digest) => self.document_by_digest(&parse_digest(digest)?),
            None => {
                let tag = self.reference.tag().unwrap_or("latest");
                self.first_that_has(|endpoint| self.fetch(endpoint, tag, None))
            }
        }
    }

    /// Fetches a manifest or index of this repository by its digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn document_by_digest(&self, digest: &Digest) -> Result<Document, RegistryError> {
        self.first_that_has(|endpoint| self.fetch(endpoint, digest.as_ref(), Some(digest)))
    }

    /// Fetches an entry of an index of this repository.
    ///
    /// # Errors
    /// [`RegistryError`]; also when its length or media type is not what the index says.
    pub fn member(&self, entry: &Descriptor) -> Result<Document, RegistryError> {
        let digest = parse_digest(entry.digest().as_ref())?;
        let document = self.document_by_digest(&digest)?;
        let object = format!("manifest {digest}");
        if document.bytes.len() as u64 != entry.size() {
            return Err(RegistryError::WrongLength {
                object,
                expected: entry.size(),
                actual: document.bytes.len().to_string(),
            });
        }
        let announced = entry.media_type().to_string();
        if announced != document.media_type {
            return Err(RegistryError::Malformed {
                object,
                why: printable(
                    &format!(
                        "its index calls it {announced}, and it is {}",
                        document.media_type
                    ),
                    300,
                ),
            });
        }
        Ok(document)
    }

    fn fetch(
        &self,
        endpoint: &Endpoint,
        name: &str,
        digest: Option<&Digest>,
    ) -> Result<Document, RegistryError> {
        let object = match digest {
            Some(digest) if self.reference.digest() != Some(digest.as_ref()) => {
                format!("manifest {digest}")
            }
            _ => format!("manifest of {}", self.reference),
        };
        let location = endpoint
            .location(&format!("manifests/{name}"))
            .map_err(|source| RegistryError::Name {
                registry: endpoint.registry.clone(),
                source,
            })?;
        let accept = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let mut response = self.ask(endpoint, &self.scopes(endpoint), || Request {
            limit: Some(self.client.config().patience.document),
            ..Request::get(location.clone()).header(ACCEPT, accept.clone())
        })?;
        if response.status != 200 {
            return Err(self.refusal(object, endpoint, response));
        }
        let bytes = response.small(&object, LARGEST_DOCUMENT)?;
        let document = Document::read(bytes, response.header("content-type"), digest, &object)?;
        // What the server says of itself is worth nothing, but has to be consistent.
        let announced = response.header("docker-content-digest");
        if let (None, Some(announced)) = (digest, announced) {
            let announced = parse_digest(announced)?;
            let actual = crate::document::digest_of(announced.algorithm(), &document.bytes)?;
            if announced != actual {
                return Err(RegistryError::WrongDigest {
                    object,
                    expected: announced.to_string(),
                    actual: actual.to_string(),
                });
            }
        }
        Ok(document)
    }

    /// The digest of what a tag names now, without fetching it; `None` when there is no such tag
    /// or the registry does not say.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn digest_of_tag(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let endpoint = self.home();
        let location = endpoint
            .location(&format!("manifests/{tag}"))
            .map_err(|source| RegistryError::Name {
                registry: endpoint.registry.clone(),
                source,
            })?;
        let accept = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let response = self.ask(endpoint, &self.scopes(endpoint), || Request {
            limit: Some(self.client.config().patience.document),
            ..Request::new(Method::HEAD, location.clone()).header(ACCEPT, accept.clone())
        })?;
        match response.status {
            200 => response
                .header("docker-content-digest")
                .map(parse_digest)
                .transpose(),
            404 => Ok(None),
            _ => Err(self.refusal(
                format!("manifest of {}", self.reference),
                endpoint,
                response,
            )),
        }
    }

    /// Uploads a manifest or index under `name`: a tag, or its own digest.
    ///
    /// Everything that it names has to be in the repository already.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn push_document(
        &self,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let endpoint = self.home();
        let object = format!(
            "manifest {name} of {}/{}",
            endpoint.registry, endpoint.repository
        );
        let location = endpoint
            .location(&format!("manifests/{name}"))
            .map_err(|source| RegistryError::Name {
                registry: endpoint.registry.clone(),
                source,
            })?;
        let mut attempt = 0;
        let response = loop {
            let outcome = self.authorized(endpoint, &self.scopes(endpoint), |authorization| {
                self.client.transport().exchange(Request {
                    content: transport::Content::Bytes(bytes, media_type),
                    authorization,
                    leaves_home: false,
                    ..Request::new(Method::PUT, location.clone())
                })
            });
            // A manifest may be put twice: it is the same one.
            let is_transient = match &outcome {
                Ok(response) => crate::error::is_transient_status(response.status),
                Err(error) => error.is_transient(),
            };
            if !is_transient || attempt >= self.client.config().patience.retries {
                break outcome?;
            }
            self.client.transport().back_off(attempt, None);
            attempt += 1;
        };
        if !matches!(response.status, 200..=202) {
            return Err(self.refusal(object, endpoint, response));
        }
        let digest = crate::document::digest_of(&oci_spec::image::DigestAlgorithm::Sha256, bytes)?;
        if let Some(kept) = response.header("docker-content-digest")
            && kept.starts_with("sha256:")
            && kept != digest.as_ref()
        {
            return Err(RegistryError::WrongDigest {
                object,
                expected: digest.to_string(),
                actual: printable(kept, 100),
            });
        }
        Ok(digest)
    }

    /// The tags of the repository, sorted.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let endpoint = self.home();
        let object = format!("tags of {}/{}", endpoint.registry, endpoint.repository);
        let named = |source| RegistryError::Name {
            registry: endpoint.registry.clone(),
            source,
        };
        let mut tags = BTreeSet::new();
        let mut next = Some(endpoint.location("tags/list").map_err(named)?);
        for _ in 0..MOST_TAG_PAGES {
            let Some(location) = next.take() else { break };
            let mut response = self.ask(endpoint, &self.scopes(endpoint), || Request {
                limit: Some(self.client.config().patience.document),
                ..Request::get(location.clone())
            })?;
            if response.status != 200 {
                return Err(self.refusal(object, endpoint, response));
            }
            let content = response.small(&object, LARGEST_TAG_PAGE)?;
            let page: Page =
                serde_json::from_slice(&content).map_err(|error| RegistryError::Malformed {
                    object: object.clone(),
                    why: error.to_string(),
                })?;
            tags.extend(page.tags.unwrap_or_default());
            if let Some(link) = response.header("link").and_then(next_page) {
                let link = location
                    .join(link)
                    .map_err(|source| RegistryError::Location {
                        what: "next page",
                        from: endpoint.origin.to_string(),
                        source,
                    })?;
                // The list goes on where it began, or not at all.
                next = (link.origin == endpoint.origin && link != location).then_some(link);
            }
        }
        Ok(tags.into_iter().filter(|tag| is_tag(tag)).collect())
    }
}

/// The target of `Link: </v2/a/tags/list?n=2&last=x>; rel="next"` (RFC 8288).
fn next_page(header: &str) -> Option<&str> {
    let (target, parameters) = header.strip_prefix('<')?.split_once('>')?;
    parameters
        .replace([' ', '"'], "")
        .contains(";rel=next")
        .then_some(target)
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
