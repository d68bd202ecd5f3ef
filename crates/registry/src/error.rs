//! Why a registry did not give, or take, what was asked.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::certificates::CertificateError;
use crate::credentials::CredentialsError;
use crate::location::{LocationError, Origin, printable};

/// Why a registry did not give, or take, what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry has no such thing.
    #[error("{object} not found in {registry}{answer}")]
    NotFound {
        /// `manifest of localhost:5000/a:b`, `blob sha256:…`.
        object: String,
        /// Who was asked.
        registry: String,
        /// What it said.
        answer: Answer,
    },
    /// The registry wants to know who asks, or does not let that user do this.
    #[error("access to {object} denied by {registry}{answer}")]
    Denied {
        /// What was asked for.
        object: String,
        /// Who was asked.
        registry: String,
        /// Whether we said who we are.
        is_anonymous: bool,
        /// What it said.
        answer: Answer,
    },
    /// The registry answered with a status that means neither.
    #[error("{method} {url}: status {status}{answer}")]
    Status {
        /// The request's method.
        method: String,
        /// Where it went, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        answer: Answer,
    },
    /// The registry does not accept a user name with its password, or a token.
    #[error("login to {registry} refused{answer}")]
    Login {
        /// The registry.
        registry: String,
        /// What it said.
        answer: Answer,
    },
    /// No answer came.
    #[error("no answer to {method} {url}")]
    Transport {
        /// The request's method.
        method: String,
        /// Where it went, without its query.
        url: String,
        /// Why.
        source: TransportError,
    },
    /// The server leads to a place that we do not go to.
    #[error("{what} of {from} not followed")]
    Location {
        /// `redirect`, `token realm`, `upload location`.
        what: &'static str,
        /// Who named the place.
        from: String,
        /// Why.
        source: LocationError,
    },
    /// One redirect after the other.
    #[error("more than {limit} redirects from {from}")]
    TooManyRedirects {
        /// Where they started.
        from: String,
        /// How many are followed.
        limit: usize,
    },
    /// The registry wants the user's credentials sent to a host of somebody else.
    #[error(
        "credentials for {registry} not sent to its token realm {realm}, which is of another domain"
    )]
    ForeignRealm {
        /// The registry, as named in references.
        registry: String,
        /// The host that it named.
        realm: Origin,
    },
    /// What came is not what its digest says.
    #[error("digest of {object} is {actual}, expected {expected}")]
    WrongDigest {
        /// What was fetched.
        object: String,
        /// As it was to be.
        expected: String,
        /// As it is.
        actual: String,
    },
    /// What came is longer or shorter than it should be.
    #[error("length of {object} is {actual}, expected {expected} bytes")]
    WrongLength {
        /// What was fetched.
        object: String,
        /// As it was to be.
        expected: u64,
        /// As it is: a number, or a bound that was crossed.
        actual: String,
    },
    /// A small document is not small.
    #[error("{object} is larger than {limit} bytes")]
    TooLarge {
        /// What was fetched.
        object: String,
        /// The most that is read.
        limit: u64,
    },
    /// What came cannot be understood, or can be understood in two ways.
    #[error("malformed {object}: {why}")]
    Malformed {
        /// What was fetched.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// A digest with an algorithm that we cannot compute.
    #[error("unsupported digest `{digest}`")]
    UnsupportedDigest {
        /// The digest.
        digest: String,
    },
    /// A registry's or mirror's name is no host name.
    #[error("registry name `{registry}` not usable")]
    Name {
        /// The name.
        registry: String,
        /// Why.
        source: LocationError,
    },
    /// The content to be uploaded cannot be read.
    #[error("read {object} for upload")]
    Source {
        /// What was to be uploaded.
        object: String,
        /// Why.
        source: io::Error,
    },
    /// The user's credentials cannot be read.
    #[error("credentials for {registry}")]
    Credentials {
        /// The registry.
        registry: String,
        /// Why.
        source: CredentialsError,
    },
    /// A certificate or key for the registry cannot be read.
    #[error("certificates for {registry}")]
    Certificates {
        /// The registry.
        registry: String,
        /// Why.
        source: CertificateError,
    },
}

/// Why no answer came.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The name is not known.
    #[error("host not found")]
    HostNotFound,
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// It took too long.
    #[error("timed out while {during}")]
    TimedOut {
        /// What was waited for.
        during: &'static str,
    },
    /// Bytes come so slowly that it would never end.
    #[error("stalled: fewer than {bytes} bytes in {} s", within.as_secs_f64())]
    Stalled {
        /// The bytes that should have come.
        bytes: u64,
        /// The time they had.
        within: Duration,
    },
    /// The connection broke.
    #[error("connection broken")]
    Broken(#[source] io::Error),
    /// The server's certificate is not signed by anybody we believe, or not for this host.
    #[error("certificate not accepted: {0}")]
    Certificate(String),
    /// The server does not speak TLS.
    #[error("server does not speak TLS")]
    NotTls,
    /// TLS went wrong otherwise.
    #[error("TLS: {0}")]
    Tls(String),
    /// The proxy did not let us through.
    #[error("proxy: {0}")]
    Proxy(String),
    /// The server does not speak HTTP properly.
    #[error("HTTP: {0}")]
    Http(String),
}

impl RegistryError {
    /// What the user can do about it, where known.
    pub fn hint(&self) -> Option<String> {
        match self {
            RegistryError::Denied {
                registry,
                is_anonymous: true,
                ..
            } => Some(format!(
                "the repository may not exist, or may require `isle login{}`",
                if registry == "docker.io" {
                    String::new()
                } else {
                    format!(" {registry}")
                }
            )),
            RegistryError::Login { .. } => {
                Some("check the user name and the password or access token".to_owned())
            }
            RegistryError::ForeignRealm { registry, realm } => Some(format!(
                "if {host} is trusted with them, add to /etc/isle/registries.toml: \
                 [registry.\"{registry}\"] token-hosts = [\"{host}\"]",
                host = realm.host
            )),
            RegistryError::Transport { url, source, .. } => {
                let host = url
                    .split("//")
                    .nth(1)
                    .and_then(|rest| rest.split('/').next())?;
                match source {
                    TransportError::Certificate(_) => Some(format!(
                        "put the certificate of its authority into /etc/docker/certs.d/{host}/ca.crt"
                    )),
                    TransportError::NotTls => Some(format!(
                        "to use plain HTTP, add to /etc/isle/registries.toml: \
                         [registry.\"{host}\"] insecure = true"
                    )),
                    TransportError::Refused => {
                        Some(format!("see that a registry is running at {host}"))
                    }
                    TransportError::HostNotFound => Some(format!(
                        "check how {host} is spelt, and the name servers in /etc/resolv.conf"
                    )),
                    TransportError::Proxy(_) => {
                        Some("see HTTPS_PROXY, HTTP_PROXY and NO_PROXY".to_owned())
                    }
                    _ => None,
                }
            }
            RegistryError::Credentials { source, .. } => source.hint(),
            _ => None,
        }
    }

    /// Whether the same request may well succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Transport { source, .. } => matches!(
                source,
                TransportError::TimedOut { .. }
                    | TransportError::Stalled { .. }
                    | TransportError::Broken(_)
            ),
            RegistryError::Status { status, .. } => is_transient_status(*status),
            _ => false,
        }
    }
}

pub(crate) fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

impl From<RegistryError> for io::Error {
    fn from(error: RegistryError) -> io::Error {
        io::Error::other(error)
    }
}

impl TransportError {
    pub(crate) fn of(error: ureq::Error) -> TransportError {
        match error {
            ureq::Error::HostNotFound => TransportError::HostNotFound,
            ureq::Error::Timeout(what) => TransportError::TimedOut {
                during: match what {
                    ureq::Timeout::Resolve => "looking up the host",
                    ureq::Timeout::Connect => "connecting",
                    ureq::Timeout::SendRequest | ureq::Timeout::SendBody => "sending",
                    ureq::Timeout::RecvResponse | ureq::Timeout::Await100 => {
                        "waiting for the answer"
                    }
                    ureq::Timeout::RecvBody | ureq::Timeout::PerRead => "receiving",
                    _ => "talking to the server",
                },
            },
            ureq::Error::Io(error) => TransportError::of_io(error),
            ureq::Error::Rustls(error) => TransportError::of_tls(&error.to_string()),
            ureq::Error::Tls(what) => TransportError::Tls(what.into()),
            ureq::Error::Pem(error) => TransportError::Tls(error.to_string()),
            ureq::Error::ConnectProxyFailed(said) => TransportError::Proxy(printable(&said, 200)),
            ureq::Error::InvalidProxyUrl => TransportError::Proxy("malformed address".into()),
            ureq::Error::ConnectionFailed => TransportError::Refused,
            other => TransportError::Http(printable(&other.to_string(), 200)),
        }
    }

    pub(crate) fn of_io(error: io::Error) -> TransportError {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<ureq::Error>())
        {
            return match error
                .into_inner()
                .map(|inner| inner.downcast::<ureq::Error>())
            {
                Some(Ok(inner)) => TransportError::of(*inner),
                _ => TransportError::Http("unknown".into()),
            };
        }
        // rustls' own type is not ours to name; it comes wrapped as invalid data.
        let tls = error
            .get_ref()
            .filter(|_| error.kind() == io::ErrorKind::InvalidData)
            .map(ToString::to_string);
        match (tls, error.kind()) {
            (Some(said), _) => TransportError::of_tls(&said),
            (None, io::ErrorKind::ConnectionRefused) => TransportError::Refused,
            (None, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                TransportError::TimedOut {
                    during: "talking to the server",
                }
            }
            (None, _) => TransportError::Broken(error),
        }
    }

    fn of_tls(said: &str) -> TransportError {
        if said.contains("InvalidContentType") || said.contains("corrupt message") {
            TransportError::NotTls
        } else if said.contains("certificate") {
            TransportError::Certificate(printable(said, 200))
        } else {
            TransportError::Tls(printable(said, 200))
        }
    }
}

/// What a registry says in the body of a refusal.
///
/// See <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes>. It is
/// cut short and freed of control characters; its display starts with `: ` unless it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Code, as in `MANIFEST_UNKNOWN`, and message.
    pub errors: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn read(body: &[u8]) -> Answer {
        #[derive(Deserialize)]
        struct Errors {
            #[serde(default)]
            errors: Option<Vec<Entry>>,
            #[serde(default)]
            details: Option<String>,
        }
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            message: Option<String>,
        }
        let Ok(Errors { errors, details }) = serde_json::from_slice(body) else {
            return Answer::default();
        };
        let mut errors: Vec<_> = errors
            .unwrap_or_default()
            .into_iter()
            .take(3)
            .map(|entry| {
                let code = printable(&entry.code.unwrap_or_default(), 60);
                (code, printable(&entry.message.unwrap_or_default(), 200))
            })
            .collect();
        if let (Some(details), true) = (details, errors.is_empty()) {
            // Token servers in the manner of Docker Hub's.
            errors.push((String::new(), printable(&details, 200)));
        }
        Answer { errors }
    }

    /// Whether the registry gave this code.
    pub fn has(&self, code: &str) -> bool {
        self.errors
            .iter()
            .any(|(found, _)| found.eq_ignore_ascii_case(code))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (code, message) in &self.errors {
            let code = code.to_ascii_lowercase().replace('_', " ");
            match (code.is_empty(), message.is_empty()) {
                (true, true) => {}
                (true, false) => write!(f, ": {message}")?,
                (false, true) => write!(f, ": {code}")?,
                (false, false) => write!(f, ": {code}: {message}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_in_docker_words() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        let answer = Answer::read(body);
        assert_eq!(answer.to_string(), ": manifest unknown: manifest unknown");
        assert!(answer.has("manifest_unknown"));
        assert_eq!(
            Answer::read(br#"{"details":"incorrect username or password"}"#).to_string(),
            ": incorrect username or password"
        );
    }

    #[test]
    fn a_body_that_is_no_refusal_says_nothing() {
        for body in [
            &b"<html>"[..],
            b"",
            b"[]",
            b"{\"errors\":5}",
            b"{\"errors\":null}",
            b"{}",
        ] {
            assert_eq!(Answer::read(body), Answer::default());
        }
        let hostile = br#"{"errors":[{"code":"\u001b[2J","message":null}]}"#;
        assert!(!Answer::read(hostile).to_string().contains('\u{1b}'));
    }
}
