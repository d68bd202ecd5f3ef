//! What users call an image: `alpine`, `ghcr.io/org/app:1.2`, `redis@sha256:…`.
//!
//! The grammar and the defaults (`docker.io`, `library/`, `latest`) are those of
//! <https://github.com/distribution/reference>. Parsed by hand because looking a name up is on
//! the way of every `isle run`, and compiling the grammar's regular expression takes longer than
//! all the rest of the look-up.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What Docker Hub was called once.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Where Docker Hub keeps names without a slash.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY_LEN: usize = 255;
const MAX_TAG_LEN: usize = 128;

/// A complete reference: registry, repository, and a tag, a digest or both.
///
/// `Display` writes it in full (`docker.io/library/alpine:latest`), [`Reference::familiar`] as
/// Docker shows it (`alpine:latest`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference {text:?}: {problem}")]
pub struct ReferenceError {
    text: String,
    problem: &'static str,
}

impl ReferenceError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "a reference looks like alpine, alpine:3.20, ghcr.io/owner/name:tag or name@sha256:<64 digits>"
    }
}

impl Reference {
    /// `docker.io`, `ghcr.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/alpine`, `owner/name`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when the text had neither tag nor digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, when the text had one.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository in full, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Registry and repository as Docker shows them: what it fills in by itself left out.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        let short = match self.repository.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name,
            _ => &self.repository,
        };
        // `docker.io/ghcr.io/x` without its registry would be another image, of another registry.
        let (registry, repository) = split_registry(short);
        match (registry.as_str(), &repository) == (DEFAULT_REGISTRY, &self.repository) {
            true => short.to_owned(),
            false => self.name(),
        }
    }

    /// The reference as Docker shows it.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tag: None,
            digest: Some(digest),
        }
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// When it is not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError {
                text: tag.to_owned(),
                problem: "not a tag",
            });
        }
        Ok(Reference {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tag: Some(tag.to_owned()),
            digest: None,
        })
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |problem| {
            Err(ReferenceError {
                text: text.chars().take(300).collect(),
                problem,
            })
        };
        if text.is_empty() {
            return fail("it is empty");
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => match digest.parse() {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => return fail("what follows the @ is not a digest"),
            },
        };
        // A colon before the last slash belongs to the registry's port.
        let tag_at = match (rest.rfind(':'), rest.rfind('/')) {
            (Some(colon), Some(slash)) if colon < slash => None,
            (colon, _) => colon,
        };
        let (name, tag) = match tag_at {
            None => (rest, None),
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return fail("the tag may have letters, digits, _ . - and at most 128 of them");
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(&registry) {
            return fail("the registry is not a host name with an optional port");
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return fail("the repository must be lower case");
        }
        if repository.len() > MAX_REPOSITORY_LEN {
            return fail("the repository is longer than 255 characters");
        }
        if !repository.split('/').all(is_path_component) {
            return fail("the repository may have a-z 0-9, separated by . _ __ - and /");
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return fail("64 hexadecimal digits are an image's id, not a name");
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Reference {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '[']) || first == "localhost" || has_upper(first) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = match registry {
        LEGACY_REGISTRY => DEFAULT_REGISTRY,
        other => other,
    };
    let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
        true => format!("{OFFICIAL}{repository}"),
        false => repository.to_owned(),
    };
    (registry.to_owned(), repository)
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => ("ip", Some(port)),
            None if rest.is_empty() => ("ip", None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !text.is_empty()
        && text.len() <= MAX_TAG_LEN
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(is_alphanumeric) || !bytes.last().is_some_and(is_alphanumeric) {
        return false;
    }
    bytes
        .split(is_alphanumeric)
        .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn names_are_completed_as_docker_completes_them() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine:3.20",
            ),
            (
                "docker.io/library/alpine:latest",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "index.docker.io/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "owner/name",
                "docker.io/owner/name:latest",
                "owner/name:latest",
            ),
            // Shown shorter it would be another registry's.
            (
                "docker.io/ghcr.io/name",
                "docker.io/ghcr.io/name:latest",
                "docker.io/ghcr.io/name:latest",
            ),
            (
                "docker.io/localhost/name:1",
                "docker.io/localhost/name:1",
                "docker.io/localhost/name:1",
            ),
            (
                "docker.io/index.docker.io/name:1",
                "docker.io/index.docker.io/name:1",
                "docker.io/index.docker.io/name:1",
            ),
            (
                "localhost/name",
                "localhost/name:latest",
                "localhost/name:latest",
            ),
            (
                "localhost:5000/a/b:c",
                "localhost:5000/a/b:c",
                "localhost:5000/a/b:c",
            ),
            (
                "test.com:tag",
                "docker.io/library/test.com:tag",
                "test.com:tag",
            ),
            (
                "ghcr.io/o/n__m-.-x".trim_end_matches("-.-x"),
                "ghcr.io/o/n__m:latest",
                "ghcr.io/o/n__m:latest",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "lower:Upper",
                "docker.io/library/lower:Upper",
                "lower:Upper",
            ),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse(), Ok(reference), "{full}");
        }
        let pinned: Reference = format!("redis@{ZERO}").parse().unwrap();
        assert_eq!(
            (pinned.tag(), pinned.digest().unwrap().as_str()),
            (None, ZERO)
        );
        let both: Reference = format!("redis:7@{ZERO}").parse().unwrap();
        assert_eq!(both.familiar(), format!("redis:7@{ZERO}"));
    }

    #[test]
    fn what_is_no_reference_is_refused_by_name() {
        for text in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a:",
            "a:-x",
            "a:b:c",
            "a@",
            "a@sha256:0",
            "a b",
            "../etc",
            "a/../b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "http://a/b",
            "a:b/c:d e",
            "ex ample.com/a",
            "docker.io/",
            "localhost:x/a",
            "exa_mple.com/a",
            &"0".repeat(64),
            &"a".repeat(300),
            &format!("a:{}", "x".repeat(129)),
            "Ａ",
            "a\0b",
            "a@md5:00",
        ] {
            let error = text.parse::<Reference>().expect_err(text);
            assert!(
                error.to_string().starts_with("invalid reference"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_parses_again(text in "[a-zA-Z0-9:/@._\\-\\[\\]]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
