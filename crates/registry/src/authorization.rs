//! From a refused request to one with the right `Authorization` header.
//!
//! Basic authentication is RFC 7617. The token flow is described in
//! <https://distribution.github.io/distribution/spec/auth/token/> (with a password) and
//! <https://distribution.github.io/distribution/spec/auth/oauth/> (with an identity token).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use ureq::http::header::WWW_AUTHENTICATE;
use ureq::http::{HeaderMap, Method};

use crate::challenge::{Challenge, parse};
use crate::client::{Client, Endpoint};
use crate::credentials::{Credential, Secret};
use crate::error::RegistryError;
use crate::location::{Location, encoded, may_learn_credentials};
use crate::transport::{Content, Request};

const LARGEST_TOKEN_ANSWER: u64 = 1 << 20;
const LONGEST_TOKEN: usize = 32 << 10;
/// How long a token is good for when its server does not say.
const DEFAULT_LIFETIME: u64 = 60;
const CLIENT_ID: &str = "isle";

/// What was learned about how to ask, by origin and scopes.
#[derive(Debug, Default)]
pub(crate) struct Authorizations {
    kept: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    header: Secret,
    until: Option<Instant>,
}

impl Authorizations {
    pub(crate) fn current(&self, endpoint: &Endpoint, scopes: &[String]) -> Option<Secret> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(&key(endpoint, scopes))?;
        let is_good = found.until.is_none_or(|until| Instant::now() < until);
        is_good.then(|| found.header.clone())
    }

    fn keep(&self, endpoint: &Endpoint, scopes: &[String], kept: Kept) {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(key(endpoint, scopes), kept);
    }
}

fn key(endpoint: &Endpoint, scopes: &[String]) -> String {
    format!(
        "{} {} {}",
        endpoint.origin,
        endpoint.registry,
        scopes.join(" ")
    )
}

/// What a token server issued.
pub(crate) struct Token {
    pub(crate) access: Secret,
    /// An identity token, if one was asked for and granted.
    pub(crate) refresh: Option<Secret>,
    lifetime: Duration,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// How a registry wants to be asked.
pub(crate) enum Scheme {
    Basic,
    Bearer(Challenge),
}

impl Scheme {
    /// The strongest scheme that the registry offers and we know.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Scheme> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().take(8);
        let challenges: Vec<_> = texts
            .filter_map(|text| parse(text.to_str().ok()?))
            .flatten()
            .collect();
        let find = |scheme: &str| challenges.iter().find(|found| found.scheme == scheme);
        match (find("bearer"), find("basic")) {
            (Some(bearer), _) if bearer.parameter("realm").is_some() => {
                Some(Scheme::Bearer(bearer.clone()))
            }
            (_, Some(_)) => Some(Scheme::Basic),
            _ => None,
        }
    }
}

pub(crate) fn basic(username: &str, password: &Secret) -> Secret {
    Secret::new(format!(
        "Basic {}",
        BASE64.encode(format!("{username}:{}", password.reveal()))
    ))
}

pub(crate) fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}

impl Client {
    /// The header for the next attempt after a 401; `None` when we have nothing to offer.
    pub(crate) fn authorize(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        headers: &HeaderMap,
    ) -> Result<Option<Secret>, RegistryError> {
        let Some(scheme) = Scheme::of(headers) else {
            return Ok(None);
        };
        let registry = &endpoint.registry;
        let credential = self.config().credentials.get(registry).map_err(|source| {
            RegistryError::Credentials {
                registry: registry.clone(),
                source,
            }
        })?;
        let kept = match (scheme, &credential) {
            (_, Some(Credential::RegistryToken(token))) => Kept {
                header: bearer(token),
                until: None,
            },
            (Scheme::Basic, Some(Credential::Password { username, password })) => Kept {
                header: basic(username, password),
                until: None,
            },
            (Scheme::Basic, _) => return Ok(None),
            (Scheme::Bearer(challenge), _) => {
                let token = self.token(endpoint, &challenge, scopes, credential.as_ref(), false)?;
                // A little early rather than a little late.
                let until = Instant::now().checked_add(token.lifetime.mul_f64(0.9));
                Kept {
                    header: bearer(&token.access),
                    until,
                }
            }
        };
        self.authorizations().keep(endpoint, scopes, kept.clone());
        Ok(Some(kept.header))
    }

    /// Asks the realm that the registry names for a token.
    ///
    /// `is_lasting` asks for an identity token too.
    pub(crate) fn token(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scopes: &[String],
        credential: Option<&Credential>,
        is_lasting: bool,
    ) -> Result<Token, RegistryError> {
        let refused = |source| RegistryError::Location {
            what: "token realm",
            from: endpoint.origin.to_string(),
            source,
        };
        let realm =
            Location::parse(challenge.parameter("realm").unwrap_or_default()).map_err(refused)?;
        self.transport()
            .may_visit(&endpoint.origin, &realm.origin)
            .map_err(refused)?;
        let settings = self.config().registries.settings(&endpoint.registry);
        let allowed = settings
            .map(|settings| settings.token_hosts.as_slice())
            .unwrap_or_default();
        if credential.is_some() && !may_learn_credentials(&endpoint.origin, &realm.origin, allowed)
        {
            let (registry, realm) = (endpoint.registry.clone(), realm.origin);
            return Err(RegistryError::ForeignRealm { registry, realm });
        }
        let service = challenge.parameter("service");
        let answer = match credential {
            Some(Credential::IdentityToken { token, .. }) => {
                let mut form = vec![
                    ("grant_type", "refresh_token".to_owned()),
                    ("client_id", CLIENT_ID.to_owned()),
                    ("refresh_token", token.reveal().to_owned()),
                ];
                form.extend(service.map(|service| ("service", service.to_owned())));
                form.push(("scope", scopes.join(" ")));
                let form: Vec<_> = form
                    .iter()
                    .map(|(name, value)| format!("{name}={}", encoded(value)))
                    .collect();
                let form = form.join("&");
                self.transport().exchange(Request {
                    content: Content::Bytes(form.as_bytes(), "application/x-www-form-urlencoded"),
                    leaves_home: false,
                    limit: Some(self.config().patience.document),
                    ..Request::new(Method::POST, realm.clone())
                })
            }
            _ => {
                let account = match credential {
                    Some(Credential::Password { username, password }) => Some((username, password)),
                    _ => None,
                };
                let mut query: Vec<(&str, &str)> = Vec::new();
                query.extend(service.map(|service| ("service", service)));
                query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                query.extend(account.map(|(username, _)| ("account", username.as_str())));
                if is_lasting {
                    query.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
                }
                let location = realm.with_query(&query).map_err(refused)?;
                let authorization = account
                    .map(|(username, password)| (realm.origin.clone(), basic(username, password)));
                self.transport().exchange_patiently(|| Request {
                    authorization: authorization.clone(),
                    leaves_home: false,
                    limit: Some(self.config().patience.document),
                    ..Request::get(location.clone())
                })
            }
        };
        let mut answer = answer?;
        match answer.status {
            200 => {}
            401 | 403 => {
                return Err(RegistryError::Denied {
                    object: "a token".into(),
                    registry: endpoint.registry.clone(),
                    is_anonymous: credential.is_none(),
                    answer: answer.answer(),
                });
            }
            _ => return Err(answer.unexpected()),
        }
        let content = answer.small("token", LARGEST_TOKEN_ANSWER)?;
        let malformed = |why: &str| RegistryError::Malformed {
            object: format!("token of {}", realm.origin),
            why: why.into(),
        };
        let answer: TokenAnswer =
            serde_json::from_slice(&content).map_err(|_| malformed("not a token document"))?;
        let is_given = |token: &String| !token.is_empty();
        let access = answer
            .token
            .filter(is_given)
            .or(answer.access_token.filter(is_given));
        let access = access.ok_or_else(|| malformed("it has no token"))?;
        let is_sound = |token: &str| {
            token.len() <= LONGEST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_sound(&access)
            || answer
                .refresh_token
                .as_deref()
                .is_some_and(|t| !is_sound(t))
        {
            return Err(malformed(
                "its token is too long or has characters that no token has",
            ));
        }
        // Lifetimes below a minute are read as a minute, as Docker does for old token servers.
        let lifetime = answer
            .expires_in
            .unwrap_or_default()
            .clamp(DEFAULT_LIFETIME, 86_400);
        Ok(Token {
            access: Secret::new(access),
            refresh: answer.refresh_token.filter(is_given).map(Secret::new),
            lifetime: Duration::from_secs(lifetime),
        })
    }
}
