//! `login` and `logout`: credentials are tried before they are kept.

use ureq::http::Method;

use crate::authorization::{Scheme, basic, bearer};
use crate::client::Client;
use crate::credentials::{Credential, CredentialsError, Keeper};
use crate::error::RegistryError;
use crate::location::Location;
use crate::transport::Request;

/// What a login came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Where the credential is kept now.
    pub keeper: Keeper,
    /// The registry gave an identity token, which is kept in place of the password.
    pub has_identity_token: bool,
}

impl Client {
    /// Tries a credential against a registry and keeps it if the registry accepts it.
    ///
    /// `registry` is a name as in references; see [`registry_of_server`] for what users type.
    ///
    /// # Errors
    /// [`RegistryError::Login`] when it is not accepted; then nothing is changed.
    pub fn login(&self, registry: &str, credential: &Credential) -> Result<Login, RegistryError> {
        let accepted = self.check(registry, credential)?;
        let keeper = self
            .config()
            .credentials
            .put(registry, &accepted)
            .map_err(|source| RegistryError::Credentials {
                registry: registry.to_owned(),
                source,
            })?;
        let has_identity_token =
            matches!(credential, Credential::Password { .. }) && accepted != *credential;
        Ok(Login {
            keeper,
            has_identity_token,
        })
    }

    /// Forgets the credential of a registry. `false`: there was none.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn logout(&self, registry: &str) -> Result<bool, CredentialsError> {
        self.config().credentials.remove(registry)
    }

    /// Tries a credential; gives the one to keep, which may be an identity token in its place.
    ///
    /// # Errors
    /// [`RegistryError::Login`] when the registry does not accept it.
    pub fn check(
        &self,
        registry: &str,
        credential: &Credential,
    ) -> Result<Credential, RegistryError> {
        let endpoint = self.endpoint(registry, "")?;
        let location =
            Location::on(&endpoint.origin, "/v2/").map_err(|source| RegistryError::Name {
                registry: registry.to_owned(),
                source,
            })?;
        let ask = |authorization| {
            self.transport().exchange_patiently(|| Request {
                authorization: Option::clone(&authorization),
                leaves_home: false,
                limit: Some(self.config().patience.document),
                ..Request::new(Method::GET, location.clone())
            })
        };
        let first = ask(None)?;
        let scheme = match first.status {
            // It lets everybody in.
            200 => return Ok(credential.clone()),
            401 => Scheme::of(&first.headers),
            _ => return Err(first.unexpected()),
        };
        let (header, kept) = match (scheme, credential) {
            (_, Credential::RegistryToken(token)) => (bearer(token), credential.clone()),
            (Some(Scheme::Basic), Credential::Password { username, password }) => {
                (basic(username, password), credential.clone())
            }
            (Some(Scheme::Bearer(challenge)), _) => {
                let issued = self.token(&endpoint, &challenge, &[], Some(credential), true);
                let issued = issued.map_err(|error| named_login(error, registry))?;
                let kept = match (credential, issued.refresh) {
                    (Credential::Password { username, .. }, Some(token)) => {
                        Credential::IdentityToken {
                            username: username.clone(),
                            token,
                        }
                    }
                    _ => credential.clone(),
                };
                (bearer(&issued.access), kept)
            }
            (Some(Scheme::Basic), Credential::IdentityToken { .. }) | (None, _) => {
                return Err(RegistryError::Malformed {
                    object: format!("challenge of {registry}"),
                    why: "no way to authenticate that is known here".into(),
                });
            }
        };
        let mut second = ask(Some((endpoint.origin.clone(), header)))?;
        match second.status {
            200 => Ok(kept),
            401 | 403 => Err(RegistryError::Login {
                registry: registry.to_owned(),
                answer: second.answer(),
            }),
            _ => Err(second.unexpected()),
        }
    }
}

fn named_login(error: RegistryError, registry: &str) -> RegistryError {
    match error {
        RegistryError::Denied { answer, .. } => RegistryError::Login {
            registry: registry.to_owned(),
            answer,
        },
        other => other,
    }
}

/// The registry that a user means with `isle login SERVER`; Docker Hub when there is none.
///
/// Docker accepts `https://host/v1/` as well as `host`.
pub fn registry_of_server(server: Option<&str>) -> String {
    let server = server.map(str::trim).unwrap_or_default();
    let bare = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    match bare.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_as_for_docker_login() {
        for (typed, registry) in [
            (None, "docker.io"),
            (Some(""), "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("localhost:5000"), "localhost:5000"),
            (Some("https://ghcr.io"), "ghcr.io"),
            (Some("http://localhost:5000/v2/"), "localhost:5000"),
        ] {
            assert_eq!(registry_of_server(typed), registry);
        }
    }
}
