//! The client: who is asked, in which order, and with which right.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::distribution::Reference;
use ureq::http::Method;

use crate::authorization::Authorizations;
use crate::config::{Config, Mirror};
use crate::error::{RegistryError, TransportError};
use crate::location::{Location, LocationError, Origin};
use crate::transport::{Request, Response, Transport};

/// Talks to registries. Clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    transport: Transport,
    authorizations: Authorizations,
    origins: Mutex<HashMap<String, Origin>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

/// What a [`Repository`] is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; mirrors are asked first.
    Pull,
    /// Reading and writing; the registry itself is asked.
    Push,
}

/// One repository of one registry, with its mirrors.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) client: Client,
    pub(crate) reference: Reference,
    pub(crate) endpoints: Vec<Endpoint>,
    access: Access,
}

/// A place that has a repository: the registry itself or a mirror of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As in references: what credentials are kept under.
    pub(crate) registry: String,
    pub(crate) origin: Origin,
    /// The repository's name there.
    pub(crate) repository: String,
}

impl Client {
    /// A client that does as `config` says. Nothing is connected yet.
    pub fn new(config: Config) -> Client {
        let config = Arc::new(config);
        let transport = Transport::new(Arc::clone(&config));
        Client {
            inner: Arc::new(Inner {
                config,
                transport,
                authorizations: Authorizations::default(),
                origins: Mutex::default(),
            }),
        }
    }

    /// What the client was made with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    pub(crate) fn authorizations(&self) -> &Authorizations {
        &self.inner.authorizations
    }

    /// Opens the repository that `reference` names.
    ///
    /// This talks to a registry only where it has to find out whether it speaks HTTPS.
    ///
    /// # Errors
    /// [`RegistryError`] when the registry's name is none, or the registry cannot be reached.
    pub fn repository(
        &self,
        reference: &Reference,
        access: Access,
    ) -> Result<Repository, RegistryError> {
        let registry = reference.registry();
        let mut endpoints = Vec::new();
        if access == Access::Pull
            && let Some(settings) = self.config().registries.settings(registry)
        {
            for mirror in settings
                .mirrors
                .iter()
                .filter_map(|text| Mirror::parse(text))
            {
                // A mirror that cannot be reached is passed over, as one that lacks the image is.
                if let Ok(origin) = self.origin(&mirror.host, mirror.is_https) {
                    let repository = match mirror.prefix.as_str() {
                        "" => reference.repository().to_owned(),
                        prefix => format!("{prefix}/{}", reference.repository()),
                    };
                    endpoints.push(Endpoint {
                        registry: mirror.host,
                        origin,
                        repository,
                    });
                }
            }
        }
        endpoints.push(self.endpoint(registry, reference.repository())?);
        Ok(Repository {
            client: self.clone(),
            reference: reference.clone(),
            endpoints,
            access,
        })
    }

    pub(crate) fn endpoint(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Endpoint, RegistryError> {
        Ok(Endpoint {
            registry: registry.to_owned(),
            origin: self.origin(registry, None)?,
            repository: repository.to_owned(),
        })
    }

    /// Where a registry is: HTTPS, unless the user allowed otherwise or it is this very machine.
    fn origin(&self, registry: &str, is_https: Option<bool>) -> Result<Origin, RegistryError> {
        let host = match registry {
            "docker.io" | "index.docker.io" => "registry-1.docker.io",
            other => other,
        };
        let failed = |source| RegistryError::Name {
            registry: registry.to_owned(),
            source,
        };
        let secure = Origin::of_host(host, true).map_err(failed)?;
        let plain = Origin::of_host(host, false).map_err(failed)?;
        if let Some(is_https) = is_https {
            return Ok(if is_https { secure } else { plain });
        }
        let is_insecure = self
            .config()
            .registries
            .settings(registry)
            .is_some_and(|s| s.insecure);
        let candidates = match (plain.is_loopback(), is_insecure) {
            (false, false) => return Ok(secure),
            (true, _) => [plain, secure],
            (false, true) => [secure, plain],
        };
        let mut origins = self
            .inner
            .origins
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = origins.get(host) {
            return Ok(known.clone());
        }
        let mut first_error = None;
        for origin in candidates {
            match self.speaks(&origin) {
                Ok(true) => {
                    origins.insert(host.to_owned(), origin.clone());
                    return Ok(origin);
                }
                Ok(false) => {}
                Err(error) => {
                    // Nobody listens: the other scheme will find nobody either.
                    let is_final = matches!(
                        error,
                        RegistryError::Transport {
                            source: TransportError::HostNotFound,
                            ..
                        }
                    );
                    first_error.get_or_insert(error);
                    if is_final {
                        break;
                    }
                }
            }
        }
        Err(first_error.unwrap_or_else(|| RegistryError::Status {
            method: "GET".into(),
            url: format!(
                "{}/v2/",
                Origin::of_host(host, true).map_or(String::new(), |o| o.to_string())
            ),
            status: 400,
            answer: crate::error::Answer::default(),
        }))
    }

    /// Whether there is a registry at `origin`, speaking this scheme. Nothing secret is sent.
    fn speaks(&self, origin: &Origin) -> Result<bool, RegistryError> {
        let location = Location::on(origin, "/v2/").map_err(|source| RegistryError::Name {
            registry: origin.host_and_port(),
            source,
        })?;
        let outcome = self.transport().exchange(Request {
            leaves_home: false,
            limit: Some(self.config().patience.connect),
            ..Request::get(location)
        });
        match outcome {
            // 400 is what an HTTPS server says to plain HTTP.
            Ok(response) => Ok(response.status != 400),
            // Who sends us somewhere has understood us.
            Err(RegistryError::Location { .. } | RegistryError::TooManyRedirects { .. }) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

impl Endpoint {
    /// The address of `path` below this repository.
    pub(crate) fn location(&self, path: &str) -> Result<Location, LocationError> {
        Location::on(&self.origin, &format!("/v2/{}/{path}", self.repository))
    }
}

impl Repository {
    /// The registry's name, as in references.
    pub fn registry(&self) -> &str {
        self.reference.registry()
    }

    /// The reference that this repository was opened with.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Whether anybody but the registry itself is asked.
    pub fn has_mirrors(&self) -> bool {
        self.endpoints.len() > 1
    }

    /// The same repository at the registry itself, for when a mirror has given something wrong.
    pub fn without_mirrors(&self) -> Repository {
        Repository {
            endpoints: vec![self.home().clone()],
            ..self.clone()
        }
    }

    pub(crate) fn scopes(&self, endpoint: &Endpoint) -> Vec<String> {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        vec![format!("repository:{}:{actions}", endpoint.repository)]
    }

    /// The registry itself, not a mirror.
    pub(crate) fn home(&self) -> &Endpoint {
        self.endpoints
            .last()
            .expect("a repository has at least its own registry")
    }

    /// Sends a request that may be sent again: with what we know of the registry, and after a 401
    /// once more with what it wants.
    pub(crate) fn ask(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        request: impl Fn() -> Request<'static>,
    ) -> Result<Response, RegistryError> {
        self.authorized(endpoint, scopes, |authorization| {
            self.client.transport().exchange_patiently(|| Request {
                authorization: authorization.clone(),
                ..request()
            })
        })
    }

    /// Runs `exchange` with the authorization we have, and after a 401 once more with a new one.
    pub(crate) fn authorized(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        mut exchange: impl FnMut(
            Option<(Origin, crate::credentials::Secret)>,
        ) -> Result<Response, RegistryError>,
    ) -> Result<Response, RegistryError> {
        let at_home = |secret| (endpoint.origin.clone(), secret);
        let known = self.client.authorizations().current(endpoint, scopes);
        let response = exchange(known.map(at_home))?;
        // A 401 of somebody that we were sent to is not this registry's question.
        if response.status != 401 || response.location.origin != endpoint.origin {
            return Ok(response);
        }
        match self.client.authorize(endpoint, scopes, &response.headers)? {
            None => Ok(response),
            Some(fresh) => {
                drop(response);
                exchange(Some(at_home(fresh)))
            }
        }
    }

    /// Asks the mirrors and then the registry, until one has it.
    pub(crate) fn first_that_has<T>(
        &self,
        mut ask: impl FnMut(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        for mirror in &self.endpoints[..self.endpoints.len() - 1] {
            match ask(mirror) {
                // What a mirror lacks or gets wrong, the registry itself may have right.
                Err(_) => {}
                found => return found,
            }
        }
        ask(self.home())
    }

    /// The error for an answer that is neither what was asked for nor a redirect.
    pub(crate) fn refusal(
        &self,
        object: String,
        endpoint: &Endpoint,
        mut response: Response,
    ) -> RegistryError {
        match response.status {
            404 => RegistryError::NotFound {
                object,
                registry: endpoint.registry.clone(),
                answer: if response.method == Method::HEAD.as_str() {
                    Default::default()
                } else {
                    response.answer()
                },
            },
            401 | 403 => RegistryError::Denied {
                object,
                registry: if response.location.origin == endpoint.origin {
                    endpoint.registry.clone()
                } else {
                    response.location.origin.host_and_port()
                },
                is_anonymous: !response.was_authorized
                    || self
                        .client
                        .config()
                        .credentials
                        .get(&endpoint.registry)
                        .is_ok_and(|credential| credential.is_none()),
                answer: response.answer(),
            },
            _ => response.unexpected(),
        }
    }
}
