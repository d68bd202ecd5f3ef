//! One request and its answer: connections, redirects, time limits. Nothing of registries yet.
//!
//! [`Transport::exchange`] is the only place where requests leave this crate. An `Authorization`
//! header is sent to the origin it is meant for, until the first redirect to another origin, and
//! never after that.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT};
use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, Method};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, BodyReader, SendBody};

use crate::certificates::Authorities;
use crate::config::Config;
use crate::credentials::Secret;
use crate::error::{Answer, RegistryError, TransportError};
use crate::location::{Location, Origin, visit};
use crate::resolver::FilesAndDns;

const MOST_REDIRECTS: usize = 5;
/// Of a refusal's body.
const LARGEST_REFUSAL: u64 = 64 << 10;

/// What is sent after the head of a request.
pub(crate) enum Content<'a> {
    None,
    Bytes(&'a [u8], &'a str),
    /// Cannot be sent twice.
    Stream(&'a mut dyn Read, u64),
}

/// A request to one place.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) location: Location,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) content: Content<'a>,
    /// Sent to this origin alone.
    pub(crate) authorization: Option<(Origin, Secret)>,
    /// Whether a redirect to another origin is followed.
    pub(crate) leaves_home: bool,
    /// A limit for the whole exchange, the body included.
    pub(crate) limit: Option<Duration>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, location: Location) -> Request<'a> {
        Request {
            method,
            location,
            headers: Vec::new(),
            content: Content::None,
            authorization: None,
            leaves_home: true,
            limit: None,
        }
    }

    pub(crate) fn get(location: Location) -> Request<'a> {
        Request::new(Method::GET, location)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Request<'a> {
        self.headers.push((name, value.into()));
        self
    }
}

/// The head of an answer, and its body yet to be read.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Who answered, after redirects.
    pub(crate) location: Location,
    pub(crate) method: String,
    /// As sent by us with the request that was answered.
    pub(crate) was_authorized: bool,
    pub(crate) body: BodyReader<'static>,
    pub(crate) length: Option<u64>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads a document that has to be small.
    pub(crate) fn small(&mut self, object: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::TooLarge {
            object: object.to_owned(),
            limit,
        };
        if self.length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut content = Vec::new();
        (&mut self.body)
            .take(limit + 1)
            .read_to_end(&mut content)
            .map_err(|error| self.broken(error))?;
        if content.len() as u64 > limit {
            return Err(too_large());
        }
        if self
            .length
            .is_some_and(|length| length != content.len() as u64)
        {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(content)
    }

    /// What a refusal says; nothing when it cannot be read.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut content = Vec::new();
        match (&mut self.body)
            .take(LARGEST_REFUSAL)
            .read_to_end(&mut content)
        {
            Ok(_) => Answer::read(&content),
            Err(_) => Answer::default(),
        }
    }

    pub(crate) fn broken(&self, error: io::Error) -> RegistryError {
        RegistryError::Transport {
            method: self.method.clone(),
            url: self.location.shown(),
            source: TransportError::of_io(error),
        }
    }

    pub(crate) fn unexpected(mut self) -> RegistryError {
        RegistryError::Status {
            answer: self.answer(),
            method: self.method,
            url: self.location.shown(),
            status: self.status,
        }
    }
}

/// Connections to every origin that was asked so far.
#[derive(Debug)]
pub(crate) struct Transport {
    config: Arc<Config>,
    authorities: Authorities,
    agents: Mutex<HashMap<Origin, Agent>>,
}

impl Transport {
    pub(crate) fn new(config: Arc<Config>) -> Transport {
        Transport {
            config,
            authorities: Authorities::default(),
            agents: Mutex::default(),
        }
    }

    /// Sends a request and follows redirects; the answer may be of any other status.
    pub(crate) fn exchange(&self, request: Request<'_>) -> Result<Response, RegistryError> {
        let Request {
            method,
            mut location,
            headers,
            mut content,
            mut authorization,
            ..
        } = request;
        let start = location.clone();
        for _ in 0..=MOST_REDIRECTS {
            if authorization
                .as_ref()
                .is_some_and(|(origin, _)| *origin != location.origin)
            {
                authorization = None;
            }
            let secret = authorization.as_ref().map(|(_, secret)| secret);
            let response = self.send(
                &method,
                &location,
                &headers,
                &mut content,
                secret,
                request.limit,
            )?;
            let is_safe = matches!(method, Method::GET | Method::HEAD);
            let is_redirect = match response.status {
                301..=303 => is_safe,
                // The content of a stream is gone by now.
                307 | 308 => !matches!(content, Content::Stream(..)),
                _ => false,
            };
            let Some(target) = response.headers.get(LOCATION).filter(|_| is_redirect) else {
                return Ok(response);
            };
            let refused = |source| RegistryError::Location {
                what: "redirect",
                from: location.origin.to_string(),
                source,
            };
            let target = target.to_str().map_err(|_| {
                refused(crate::location::LocationError::Malformed {
                    address: String::new(),
                })
            })?;
            let next = location.join(target).map_err(refused)?;
            self.may_visit(&location.origin, &next.origin)
                .map_err(refused)?;
            if !request.leaves_home && next.origin != start.origin {
                return Ok(response);
            }
            location = next;
        }
        Err(RegistryError::TooManyRedirects {
            from: start.shown(),
            limit: MOST_REDIRECTS,
        })
    }

    /// As [`Transport::exchange`], again and again while there is hope. Not for streams.
    pub(crate) fn exchange_patiently(
        &self,
        mut request: impl FnMut() -> Request<'static>,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 0;
        loop {
            let outcome = self.exchange(request());
            let is_worth_it = match &outcome {
                Ok(response) => crate::error::is_transient_status(response.status),
                Err(error) => error.is_transient(),
            };
            if !is_worth_it || attempt >= self.config.patience.retries {
                return outcome;
            }
            let asked = outcome.ok().and_then(|response| retry_after(&response));
            self.back_off(attempt, asked);
            attempt += 1;
        }
    }

    /// Waits before a request is sent again: longer each time, and never all clients in step.
    pub(crate) fn back_off(&self, attempt: u32, asked: Option<Duration>) {
        let step = self
            .config
            .patience
            .back_off
            .saturating_mul(1 << attempt.min(6));
        let mut random = [0_u8; 2];
        let share = match getrandom::fill(&mut random) {
            Ok(()) => f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX),
            Err(_) => 1.0,
        };
        std::thread::sleep(
            step.mul_f64(0.5 + share / 2.0)
                .max(asked.unwrap_or_default()),
        );
    }

    pub(crate) fn may_visit(
        &self,
        from: &Origin,
        to: &Origin,
    ) -> Result<(), crate::location::LocationError> {
        visit(from, to, self.config.registries.is_insecure(to))
    }

    fn send(
        &self,
        method: &Method,
        location: &Location,
        headers: &[(HeaderName, String)],
        content: &mut Content<'_>,
        authorization: Option<&Secret>,
        limit: Option<Duration>,
    ) -> Result<Response, RegistryError> {
        let failed = |source| RegistryError::Transport {
            method: method.to_string(),
            url: location.shown(),
            source,
        };
        let agent = self.agent(&location.origin)?;
        let mut builder = http::Request::builder()
            .method(method)
            .uri(location.uri.clone())
            .header(USER_AGENT, &self.config.user_agent);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        if let Some(secret) = authorization {
            let mut value = HeaderValue::from_str(secret.reveal())
                .map_err(|_| failed(TransportError::Http("malformed credentials".into())))?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        let is_bodiless = matches!(*method, Method::GET | Method::HEAD);
        let malformed = |error: http::Error| failed(TransportError::Http(error.to_string()));
        let mut bytes: &[u8] = &[];
        let reader: &mut dyn Read = match content {
            Content::None => {
                if !is_bodiless {
                    builder = builder.header(CONTENT_LENGTH, 0);
                }
                &mut bytes
            }
            Content::Bytes(content, media_type) => {
                builder = builder
                    .header(CONTENT_LENGTH, content.len())
                    .header(CONTENT_TYPE, &**media_type);
                bytes = content;
                &mut bytes
            }
            Content::Stream(reader, length) => {
                builder = builder
                    .header(CONTENT_LENGTH, *length)
                    .header(CONTENT_TYPE, "application/octet-stream");
                *reader
            }
        };
        let response = if is_bodiless {
            let request = builder.body(()).map_err(malformed)?;
            agent.run(
                agent
                    .configure_request(request)
                    .timeout_global(limit)
                    .build(),
            )
        } else {
            let body = SendBody::from_reader(reader);
            let request = builder.body(body).map_err(malformed)?;
            agent.run(
                agent
                    .configure_request(request)
                    .timeout_global(limit)
                    .build(),
            )
        };
        let response = response.map_err(|error| failed(TransportError::of(error)))?;
        let (head, body) = response.into_parts();
        Ok(Response {
            status: head.status.as_u16(),
            length: body.content_length(),
            headers: head.headers,
            location: location.clone(),
            method: method.to_string(),
            was_authorized: authorization.is_some(),
            body: body.into_reader(),
        })
    }

    fn agent(&self, origin: &Origin) -> Result<Agent, RegistryError> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(origin) {
            return Ok(agent.clone());
        }
        let patience = &self.config.patience;
        let proxy = match self.config.proxies.for_origin(origin) {
            None => None,
            Some(proxy) => Some(
                ureq::Proxy::new(proxy).map_err(|_| RegistryError::Transport {
                    method: "CONNECT".into(),
                    url: origin.to_string(),
                    source: TransportError::Proxy("malformed address in the environment".into()),
                })?,
            ),
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .max_idle_connections_per_host(8)
            .proxy(proxy);
        if origin.is_https {
            let is_insecure = self.config.registries.is_insecure(origin);
            let settings = self
                .authorities
                .settings(&self.config.certificate_folders, origin, is_insecure)
                .map_err(|source| RegistryError::Certificates {
                    registry: origin.host_and_port(),
                    source,
                })?;
            config = config.tls_config(settings);
        }
        let agent = Agent::with_parts(
            config.build(),
            DefaultConnector::default(),
            FilesAndDns::of_host(),
        );
        agents.insert(origin.clone(), agent.clone());
        Ok(agent)
    }
}

/// What a busy server asks for, in seconds; never more than half a minute.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds: u64 = response.header("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(30)))
}
