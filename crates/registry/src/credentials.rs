//! What the user entrusted to us for a registry: Docker's `config.json` and its credential helpers.
//!
//! The file is `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. It belongs to Docker:
//! what we do not know in it is kept as it stands, and it is replaced as a whole, never written
//! in place.
//!
//! Format: <https://docs.docker.com/reference/cli/docker/#docker-cli-configuration-file-configjson-properties>

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::helper::{Helper, HelperError};

/// The key under which Docker keeps the credentials of Docker Hub.
pub const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

const LARGEST_FILE: u64 = 4 << 20;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A text that is not printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` as a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself: to send it, or to store it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How a user proves to a registry who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A user name with its password or access token.
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth refresh token, to be exchanged at the registry's token realm.
    IdentityToken {
        /// The user name that it was issued for, where known.
        username: String,
        /// The token.
        token: Secret,
    },
    /// A bearer token, sent to the registry as it stands.
    RegistryToken(Secret),
}

/// Where credentials are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// In the file itself, where everyone who reads it can read them.
    File(PathBuf),
    /// With the helper program `docker-credential-<name>`.
    Helper(String),
}

/// The user's credentials.
#[derive(Clone, Debug)]
pub struct CredentialStore {
    /// `None`: there is no home directory; the store is empty and cannot be written.
    file: Option<PathBuf>,
}

/// Why credentials were not read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file is there and cannot be read.
    #[error("read credentials from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be replaced.
    #[error("write credentials to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no JSON object, or one of its entries is of the wrong shape.
    #[error("malformed {} in {}", what, path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which part of it; never its value.
        what: String,
    },
    /// The helper program failed.
    #[error("credentials of {server} from a credential helper")]
    Helper {
        /// The registry, as the helper knows it.
        server: String,
        /// Why.
        source: HelperError,
    },
    /// Neither `$DOCKER_CONFIG` nor `$HOME` says where the file is.
    #[error("no place to keep credentials: neither DOCKER_CONFIG nor HOME is set")]
    NoHome,
}

impl CredentialsError {
    /// What the user can do about it, where known.
    pub fn hint(&self) -> Option<String> {
        match self {
            CredentialsError::Malformed { path, .. } => Some(format!(
                "repair {}, or move it away and log in again",
                path.display()
            )),
            CredentialsError::Helper { source, .. } => source.hint(),
            CredentialsError::NoHome => Some("set DOCKER_CONFIG to a directory".into()),
            _ => None,
        }
    }
}

impl CredentialStore {
    /// The store that Docker uses: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub fn of_user() -> CredentialStore {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = set("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")));
        CredentialStore {
            file: folder.map(|folder| folder.join("config.json")),
        }
    }

    /// The store in one file, whether it exists or not.
    pub fn in_file(path: impl Into<PathBuf>) -> CredentialStore {
        CredentialStore {
            file: Some(path.into()),
        }
    }

    /// A store that holds nothing: everything is asked for anonymously.
    pub fn empty() -> CredentialStore {
        CredentialStore { file: None }
    }

    /// The credential for a registry, named as in references (`docker.io`, `localhost:5000`).
    ///
    /// As with Docker, a helper named for the registry comes first, then the general helper, then
    /// the file. A helper that knows nothing of the registry is no error.
    ///
    /// # Errors
    /// [`CredentialsError`] when the file or the helper cannot be read: going on as an anonymous
    /// user would end in a puzzling refusal.
    pub fn get(&self, registry: &str) -> Result<Option<Credential>, CredentialsError> {
        let Some(document) = self.read()? else {
            return Ok(None);
        };
        let server = server_key(registry);
        if let Some(helper) = self.helper(&document, server)? {
            let found = helper
                .get(server)
                .map_err(|source| CredentialsError::Helper {
                    server: server.into(),
                    source,
                })?;
            if found.is_some() {
                return Ok(found);
            }
            return Ok(None);
        }
        let Some(entry) = self.entry(&document, server)? else {
            return Ok(None);
        };
        self.credential_of(server, entry)
    }

    /// Keeps the credential of a registry, in place of what was kept for it before.
    ///
    /// # Errors
    /// [`CredentialsError`]; then the file is as it was.
    pub fn put(&self, registry: &str, credential: &Credential) -> Result<Keeper, CredentialsError> {
        let path = self.file.clone().ok_or(CredentialsError::NoHome)?;
        let mut document = self.read()?.unwrap_or_default();
        let server = server_key(registry);
        let helper = self.helper(&document, server)?;
        let mut entry = Map::new();
        let keeper = match &helper {
            Some(helper) => {
                helper
                    .store(server, credential)
                    .map_err(|source| CredentialsError::Helper {
                        server: server.into(),
                        source,
                    })?;
                Keeper::Helper(helper.name().into())
            }
            None => {
                match credential {
                    Credential::Password { username, password } => {
                        let pair = format!("{username}:{}", password.reveal());
                        entry.insert("auth".into(), BASE64.encode(pair).into());
                    }
                    Credential::IdentityToken { username, token } => {
                        entry.insert("auth".into(), BASE64.encode(format!("{username}:")).into());
                        entry.insert("identitytoken".into(), token.reveal().into());
                    }
                    Credential::RegistryToken(token) => {
                        entry.insert("registrytoken".into(), token.reveal().into());
                    }
                }
                Keeper::File(path)
            }
        };
        let auths = self.auths_mut(&mut document)?;
        // What an earlier login kept under another spelling of the server would shadow this one.
        auths.retain(|key, _| hostname(key) != hostname(server) || key == server);
        // With a helper the entry is empty: it tells Docker for whom the helper holds something.
        auths.insert(server.into(), Value::Object(entry));
        self.write(&document)?;
        Ok(keeper)
    }

    /// Forgets the credential of a registry. `false`: none was kept.
    ///
    /// # Errors
    /// [`CredentialsError`]; then the file is as it was.
    pub fn remove(&self, registry: &str) -> Result<bool, CredentialsError> {
        let Some(mut document) = self.read()? else {
            return Ok(false);
        };
        let server = server_key(registry);
        let was_listed = self.entry(&document, server)?.is_some();
        if let Some(helper) = self.helper(&document, server)? {
            let erased = helper
                .erase(server)
                .map_err(|source| CredentialsError::Helper {
                    server: server.into(),
                    source,
                })?;
            if !was_listed {
                return Ok(erased);
            }
        }
        if was_listed {
            let auths = self.auths_mut(&mut document)?;
            auths.retain(|key, _| hostname(key) != hostname(server));
            self.write(&document)?;
        }
        Ok(was_listed)
    }

    fn read(&self) -> Result<Option<Map<String, Value>>, CredentialsError> {
        let Some(path) = &self.file else {
            return Ok(None);
        };
        let failed = |source| CredentialsError::Read {
            path: path.clone(),
            source,
        };
        let content = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > LARGEST_FILE => {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            Ok(_) => fs::read(path).map_err(failed)?,
        };
        if content.trim_ascii().is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice(&content) {
            Ok(Value::Object(document)) => Ok(Some(document)),
            Ok(_) => Err(self.malformed("document, which is not an object")),
            Err(error) => Err(self.malformed(&format!(
                "JSON at line {} column {}",
                error.line(),
                error.column()
            ))),
        }
    }

    fn malformed(&self, what: &str) -> CredentialsError {
        let path = self.file.clone().unwrap_or_default();
        CredentialsError::Malformed {
            path,
            what: what.into(),
        }
    }

    fn helper(
        &self,
        document: &Map<String, Value>,
        server: &str,
    ) -> Result<Option<Helper>, CredentialsError> {
        let own = match document.get("credHelpers") {
            None | Some(Value::Null) => None,
            Some(Value::Object(helpers)) => helpers
                .get(server)
                .or_else(|| helpers.get(hostname(server)))
                .or_else(|| {
                    helpers
                        .get("docker.io")
                        .filter(|_| server == DOCKER_HUB_SERVER)
                }),
            Some(_) => return Err(self.malformed("`credHelpers`")),
        };
        let name = match own.or(document.get("credsStore")) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(name)) if name.is_empty() => return Ok(None),
            Some(Value::String(name)) => name,
            Some(_) => return Err(self.malformed("credential helper name")),
        };
        Helper::named(name)
            .map(Some)
            .ok_or_else(|| self.malformed("credential helper name"))
    }

    fn entry<'a>(
        &self,
        document: &'a Map<String, Value>,
        server: &str,
    ) -> Result<Option<&'a Map<String, Value>>, CredentialsError> {
        let auths = match document.get("auths") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(auths)) => auths,
            Some(_) => return Err(self.malformed("`auths`")),
        };
        let found = auths.get(server).or_else(|| {
            auths
                .iter()
                .find(|(key, _)| hostname(key) == hostname(server))
                .map(|(_, entry)| entry)
        });
        match found {
            None => Ok(None),
            Some(Value::Object(entry)) => Ok(Some(entry)),
            Some(_) => Err(self.malformed(&format!("`auths` entry of {server}"))),
        }
    }

    fn auths_mut<'a>(
        &self,
        document: &'a mut Map<String, Value>,
    ) -> Result<&'a mut Map<String, Value>, CredentialsError> {
        let auths = document
            .entry("auths")
            .or_insert_with(|| Value::Object(Map::new()));
        if auths.is_null() {
            *auths = Value::Object(Map::new());
        }
        auths
            .as_object_mut()
            .ok_or_else(|| self.malformed("`auths`"))
    }

    fn credential_of(
        &self,
        server: &str,
        entry: &Map<String, Value>,
    ) -> Result<Option<Credential>, CredentialsError> {
        let text = |name: &str| match entry.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(self.malformed(&format!("`{name}` of {server}"))),
        };
        let (mut username, mut password) =
            (text("username")?.to_owned(), text("password")?.to_owned());
        let auth = text("auth")?;
        if !auth.is_empty() {
            let pair = BASE64
                .decode(auth)
                .ok()
                .and_then(|pair| String::from_utf8(pair).ok());
            let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
            let (user, pass) =
                pair.ok_or_else(|| self.malformed(&format!("`auth` of {server}")))?;
            username = user.to_owned();
            // As Docker does: old versions padded the password with NULs.
            password = pass.trim_matches('\0').to_owned();
        }
        let (identity, registry) = (text("identitytoken")?, text("registrytoken")?);
        Ok(if !registry.is_empty() {
            Some(Credential::RegistryToken(Secret::new(registry)))
        } else if !identity.is_empty() {
            Some(Credential::IdentityToken {
                username,
                token: Secret::new(identity),
            })
        } else if username.is_empty() && password.is_empty() {
            None
        } else {
            Some(Credential::Password {
                username,
                password: Secret::new(password),
            })
        })
    }

    /// Replaces the file: readers see the old one or the new one, whole.
    fn write(&self, document: &Map<String, Value>) -> Result<(), CredentialsError> {
        let path = self.file.as_ref().ok_or(CredentialsError::NoHome)?;
        let failed = |source| CredentialsError::Write {
            path: path.clone(),
            source,
        };
        // A link to a file kept elsewhere (a dotfiles repository) stays one, as with Docker.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let folder = target.parent().unwrap_or(Path::new("."));
        if !folder.exists() {
            let mut builder = fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(folder).map_err(failed)?;
        }
        let mut content = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut content, indented);
        serde::Serialize::serialize(document, &mut serializer)
            .map_err(|error| failed(error.into()))?;
        let mut file = tempfile::Builder::new()
            .prefix(".config.json.")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(folder)
            .map_err(failed)?;
        file.write_all(&content).map_err(failed)?;
        if let Ok(old) = fs::metadata(&target) {
            // A file of another user (sudo with that user's HOME) stays theirs.
            let owner = (Some(old.uid()), Some(old.gid()));
            let _ = std::os::unix::fs::fchown(file.as_file(), owner.0, owner.1);
        }
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&target).map_err(|error| failed(error.error))?;
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)
    }
}

/// The name under which Docker keeps a registry's credentials.
pub fn server_key(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB_SERVER,
        other => other,
    }
}

/// `https://host:port/path` without scheme and path.
fn hostname(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let bare = bare.split('/').next().unwrap_or(bare);
    match bare {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(content: &str) -> (tempfile::TempDir, CredentialStore) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, content).unwrap();
        (folder, CredentialStore::in_file(path))
    }

    fn password(username: &str, password: &str) -> Credential {
        Credential::Password {
            username: username.into(),
            password: Secret::new(password),
        }
    }

    #[test]
    fn credentials_are_found_by_every_spelling_docker_accepts() {
        let (_folder, store) = store(
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
                "https://quay.io/v2/": {"username": "u", "password": "p"},
                "localhost:5000": {"auth": "YTpi"},
                "empty.test": {}}}"#,
        );
        assert_eq!(
            store.get("docker.io").unwrap(),
            Some(password("user", "pa:ss"))
        );
        assert_eq!(store.get("quay.io").unwrap(), Some(password("u", "p")));
        assert_eq!(
            store.get("localhost:5000").unwrap(),
            Some(password("a", "b"))
        );
        assert_eq!(store.get("localhost").unwrap(), None);
        assert_eq!(store.get("localhost:500").unwrap(), None);
        assert_eq!(store.get("empty.test").unwrap(), None);
    }

    #[test]
    fn identity_and_registry_tokens_come_before_passwords() {
        let (_folder, store) = store(
            r#"{"auths": {"a.test": {"auth": "dTo=", "identitytoken": "refresh"},
                "b.test": {"auth": "dTpw", "registrytoken": "bearer"}}}"#,
        );
        let expected = Credential::IdentityToken {
            username: "u".into(),
            token: Secret::new("refresh"),
        };
        assert_eq!(store.get("a.test").unwrap(), Some(expected));
        let expected = Credential::RegistryToken(Secret::new("bearer"));
        assert_eq!(store.get("b.test").unwrap(), Some(expected));
    }

    #[test]
    fn a_login_keeps_what_it_does_not_know_and_a_logout_takes_only_its_own() {
        let (folder, store) = store(
            r#"{"proxies": {"default": {"httpProxy": "http://p"}}, "psFormat": "x",
                "auths": {"https://a.test/v1/": {"auth": "eDp5"}, "b.test": {"auth": "dTpw", "email": "e"}}}"#,
        );
        let path = folder.path().join("config.json");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let keeper = store.put("a.test", &password("new", "secret")).unwrap();
        assert_eq!(keeper, Keeper::File(path.clone()));
        let value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "proxies": {"default": {"httpProxy": "http://p"}}, "psFormat": "x",
                "auths": {"a.test": {"auth": "bmV3OnNlY3JldA=="}, "b.test": {"auth": "dTpw", "email": "e"}}
            })
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(store.remove("a.test").unwrap());
        assert!(!store.remove("a.test").unwrap());
        assert_eq!(store.get("a.test").unwrap(), None);
        assert_eq!(store.get("b.test").unwrap(), Some(password("u", "p")));
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn the_first_login_makes_the_file_and_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/.docker/config.json");
        let store = CredentialStore::in_file(&path);
        assert_eq!(store.get("a.test").unwrap(), None);
        assert!(!store.remove("a.test").unwrap());
        store.put("docker.io", &password("u", "p")).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\n\t\"auths\": {\n\t\t\"https://index.docker.io/v1/\": {\n\t\t\t\"auth\": \"dTpw\"\n\t\t}\n\t}\n}"
        );
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let (folder, real) = store("{}");
        let link = folder.path().join("link.json");
        std::os::unix::fs::symlink("config.json", &link).unwrap();
        CredentialStore::in_file(&link)
            .put("a.test", &password("u", "p"))
            .unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(real.get("a.test").unwrap(), Some(password("u", "p")));
    }

    #[test]
    fn a_broken_file_is_named_and_never_overwritten() {
        for broken in [
            "{",
            "[]",
            r#"{"auths": []}"#,
            r#"{"auths": {"a.test": 1}}"#,
            r#"{"auths": {"a.test": {"auth": "bm9jb2xvbg=="}}}"#,
            r#"{"auths": {"a.test": {"auth": "%%%"}}}"#,
            r#"{"credsStore": 5}"#,
            r#"{"credsStore": "../../bin/sh"}"#,
        ] {
            let (folder, store) = store(broken);
            let error = store.get("a.test").unwrap_err();
            assert!(error.to_string().contains("config.json"), "{error}");
            let unchanged = fs::read_to_string(folder.path().join("config.json")).unwrap();
            assert_eq!(unchanged, broken);
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert!(!format!("{:?}", password("u", "hunter2")).contains("hunter2"));
    }
}
