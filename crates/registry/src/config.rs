//! What the host and the user decided about registries.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isle_types::ByteSize;
use serde::Deserialize;
use thiserror::Error;

use crate::credentials::CredentialStore;
use crate::location::Origin;
use crate::proxy::Proxies;

/// Everything that a [`crate::Client`] needs to know beforehand.
#[derive(Clone, Debug)]
pub struct Config {
    /// Mirrors and exceptions.
    pub registries: Registries,
    /// The user's credentials.
    pub credentials: CredentialStore,
    /// Folders in the layout of Docker's `certs.d`.
    pub certificate_folders: Vec<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// How long to wait for what.
    pub patience: Patience,
    /// Sent as `User-Agent`.
    pub user_agent: String,
}

/// How long to wait, and how often to try.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From the end of a request to the head of its answer. Registries commit large uploads here.
    pub answer: Duration,
    /// Between two pieces of a body, in either direction.
    pub stall: Duration,
    /// For a whole small document: manifest, token, tag list.
    pub document: Duration,
    /// The slowest download that is not called stalled, in bytes a second over one `stall`.
    pub slowest: u64,
    /// How often a failed request is sent again.
    pub retries: u32,
    /// How long to wait before the first of these; doubled for each later one.
    pub back_off: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(300),
            stall: Duration::from_secs(60),
            document: Duration::from_secs(120),
            slowest: 256,
            retries: 4,
            back_off: Duration::from_millis(300),
        }
    }
}

impl Config {
    /// Knows of nothing but its defaults: no credentials, proxies, mirrors or exceptions.
    pub fn bare() -> Config {
        Config {
            registries: Registries::default(),
            credentials: CredentialStore::empty(),
            certificate_folders: Vec::new(),
            proxies: Proxies::default(),
            patience: Patience::default(),
            user_agent: concat!("isle/", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// What this host and this user have set up: `/etc/isle/registries.toml` (or the file that
    /// `$ISLE_REGISTRIES` names), Docker's `config.json`, `certs.d` of `/etc/isle`, `/etc/docker`
    /// and of the user, and the proxy variables.
    ///
    /// # Errors
    /// [`ConfigError`] when the file is there and is not understood in full.
    pub fn of_host() -> Result<Config, ConfigError> {
        let named = std::env::var_os("ISLE_REGISTRIES").filter(|path| !path.is_empty());
        let registries = match named {
            Some(path) => Registries::in_file(Path::new(&path))?,
            None => Registries::in_file_if_any(Path::new("/etc/isle/registries.toml"))?,
        };
        let mut certificate_folders = vec![
            PathBuf::from("/etc/isle/certs.d"),
            PathBuf::from("/etc/docker/certs.d"),
        ];
        if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            certificate_folders.push(Path::new(&home).join(".config/docker/certs.d"));
        }
        Ok(Config {
            registries,
            credentials: CredentialStore::of_user(),
            certificate_folders,
            proxies: Proxies::from_environment(),
            ..Config::bare()
        })
    }
}

/// Mirrors and exceptions by registry: the file `registries.toml`.
///
/// ```toml
/// [registry."docker.io"]
/// mirrors = ["https://mirror.example.com", "harbor.example.com/dockerhub"]
///
/// [registry."lab.example.com:5000"]
/// insecure = true                  # as Docker's insecure-registries: HTTPS unverified, else HTTP
///
/// [registry."rg.fr-par.scw.cloud"]
/// token-hosts = ["api.scaleway.com"]   # may see this registry's credentials
///
/// [registry."behind-a-proxy.example.com"]
/// upload-chunk = "50MiB"           # uploads in pieces no larger than this
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By registry, as it is named in references.
    #[serde(default)]
    pub registry: BTreeMap<String, RegistrySettings>,
}

/// What is particular to one registry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistrySettings {
    /// Asked before the registry itself when pulling, in this order:
    /// `[http[s]://]host[:port][/prefix]`, the prefix being put before the repository's name.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Certificates are not verified, and plain HTTP is used when HTTPS does not work.
    #[serde(default)]
    pub insecure: bool,
    /// Hosts beyond the registry's own domain that may see its credentials.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// Blobs larger than this are uploaded in several requests.
    #[serde(default, deserialize_with = "size_in_words")]
    pub upload_chunk: Option<ByteSize>,
}

fn size_in_words<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<ByteSize>, D::Error> {
    let size: ByteSize = String::deserialize(value)?
        .parse()
        .map_err(serde::de::Error::custom)?;
    if size.bytes() == 0 {
        return Err(serde::de::Error::custom("upload-chunk cannot be 0"));
    }
    Ok(Some(size))
}

/// Why the configuration of registries is not usable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has a key or value that is not known.
    #[error("malformed {}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: Box<toml::de::Error>,
    },
    /// A registry or mirror is not `host[:port]`.
    #[error("malformed registry `{name}` in {}", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What was found.
        name: String,
    },
}

impl Registries {
    fn in_file_if_any(path: &Path) -> Result<Registries, ConfigError> {
        match Registries::in_file(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Registries::default())
            }
            other => other,
        }
    }

    /// Reads a `registries.toml`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn in_file(path: &Path) -> Result<Registries, ConfigError> {
        let content = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Registries::parse(&content, path)
    }

    pub(crate) fn parse(content: &str, path: &Path) -> Result<Registries, ConfigError> {
        let registries: Registries =
            toml::from_str(content).map_err(|source| ConfigError::Malformed {
                path: path.into(),
                source: Box::new(source),
            })?;
        for (name, settings) in &registries.registry {
            let malformed = |name: &str| ConfigError::Name {
                path: path.into(),
                name: name.to_owned(),
            };
            if name.contains('/') || Origin::of_host(name, true).is_err() {
                return Err(malformed(name));
            }
            for mirror in &settings.mirrors {
                Mirror::parse(mirror).ok_or_else(|| malformed(mirror))?;
            }
        }
        Ok(registries)
    }

    pub(crate) fn settings(&self, registry: &str) -> Option<&RegistrySettings> {
        self.registry.get(registry)
    }

    /// Whether the user allowed unencrypted or unverified connections to this place.
    pub(crate) fn is_insecure(&self, origin: &Origin) -> bool {
        let is_insecure = |name: &str| self.settings(name).is_some_and(|found| found.insecure);
        is_insecure(&origin.host_and_port())
            || is_insecure(&format!("{}:{}", origin.host, origin.port))
            || self
                .registry
                .values()
                .flat_map(|settings| &settings.mirrors)
                .any(|mirror| {
                    Mirror::parse(mirror).is_some_and(|mirror| {
                        mirror.is_https == Some(false)
                            && Origin::of_host(&mirror.host, false).as_ref() == Ok(origin)
                    })
                })
    }
}

/// One entry of `mirrors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// `None`: as for any registry of that name.
    pub(crate) is_https: Option<bool>,
    pub(crate) host: String,
    /// Without slashes at its ends; may be empty.
    pub(crate) prefix: String,
}

impl Mirror {
    pub(crate) fn parse(text: &str) -> Option<Mirror> {
        let (is_https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(true), rest),
            Some(("http", rest)) => (Some(false), rest),
            Some(_) => return None,
            None => (None, text),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        Origin::of_host(host, true).ok()?;
        let prefix = prefix.trim_matches('/');
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let is_folder = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_plain)
        };
        (prefix.is_empty() || prefix.split('/').all(is_folder)).then(|| Mirror {
            is_https,
            host: host.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(content: &str) -> Result<Registries, ConfigError> {
        Registries::parse(content, Path::new("registries.toml"))
    }

    #[test]
    fn the_documented_file_is_understood() {
        let registries = parse(
            r#"
            [registry."docker.io"]
            mirrors = ["http://10.0.0.5:5000", "harbor.example.com/dockerhub"]
            [registry."lab.example.com:5000"]
            insecure = true
            upload-chunk = "50MiB"
            token-hosts = ["auth.example.net"]
            "#,
        )
        .unwrap();
        let lab = registries.settings("lab.example.com:5000").unwrap();
        assert_eq!(lab.upload_chunk.map(ByteSize::bytes), Some(50 << 20));
        let insecure = |host: &str, is_https| {
            registries.is_insecure(&Origin::of_host(host, is_https).unwrap())
        };
        assert!(insecure("lab.example.com:5000", false));
        assert!(!insecure("lab.example.com", false));
        assert!(
            insecure("10.0.0.5:5000", false),
            "a mirror named with http:// is plain on purpose"
        );
        assert!(!insecure("docker.io", false));
        let mirror = Mirror::parse("harbor.example.com/dockerhub").unwrap();
        assert_eq!(
            (mirror.host.as_str(), mirror.prefix.as_str()),
            ("harbor.example.com", "dockerhub")
        );
    }

    #[test]
    fn unknown_keys_and_malformed_names_are_refused() {
        for bad in [
            "[registry.\"a.test\"]\ninsecur = true",
            "[mirrors]",
            "[registry.\"a.test/path\"]",
            "[registry.\"https://a.test\"]",
            "[registry.\"a.test\"]\nmirrors = [\"ftp://b.test\"]",
            "[registry.\"a.test\"]\nmirrors = [\"b.test/../x\"]",
            "[registry.\"a.test\"]\nupload-chunk = \"many\"",
            "not toml",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
