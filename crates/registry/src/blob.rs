//! Downloading blobs: from any offset, over broken connections, never more than was promised.

use std::fmt;
use std::io::{self, Read};
use std::time::Instant;

use oci_spec::image::{Descriptor, Digest};
use ureq::BodyReader;
use ureq::http::header::{ACCEPT_ENCODING, RANGE};

use crate::client::Repository;
use crate::document::{digest_of, parse_digest};
use crate::error::{RegistryError, TransportError};
use crate::location::Location;
use crate::transport::{Request, Response};

/// The most that [`Repository::small_blob`] reads: an image configuration is never larger.
pub const LARGEST_SMALL_BLOB: u64 = 8 << 20;

/// A blob on its way, to be read from its offset to its end.
///
/// A broken connection is mended behind the reader's back: the rest is asked for again. The length
/// is held to: a server that sends more or less is an error. **The digest is not checked here**,
/// as the reader may have begun in the middle; who keeps the bytes checks them.
///
/// Errors of `read` carry a [`RegistryError`] inside.
pub struct Blob {
    repository: Repository,
    digest: Digest,
    foreign: Vec<String>,
    length: u64,
    position: u64,
    body: Option<BodyReader<'static>>,
    /// To be read and thrown away: the server began before the offset.
    surplus: u64,
    failures: u32,
    meter: Meter,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("digest", &self.digest)
            .field("length", &self.length)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Notices a download that goes on forever, a byte at a time.
struct Meter {
    since: Instant,
    bytes: u64,
}

impl Repository {
    /// Begins to download the blob that `descriptor` describes, at `offset`.
    ///
    /// Where the registry has no such blob and the descriptor names other places (`urls`), these
    /// are asked, without credentials.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<Blob, RegistryError> {
        let digest = parse_digest(descriptor.digest().as_ref())?;
        if offset > descriptor.size() {
            return Err(RegistryError::WrongLength {
                object: format!("blob {digest}"),
                expected: descriptor.size(),
                actual: format!("at least {offset}"),
            });
        }
        let mut blob = Blob {
            repository: self.clone(),
            digest,
            foreign: descriptor.urls().clone().unwrap_or_default(),
            length: descriptor.size(),
            position: offset,
            body: None,
            surplus: 0,
            failures: 0,
            meter: Meter::start(),
        };
        blob.open()?;
        Ok(blob)
    }

    /// Downloads a small blob, such as an image configuration, and checks its digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let object = format!("blob {}", descriptor.digest());
        if descriptor.size() > LARGEST_SMALL_BLOB {
            return Err(RegistryError::TooLarge {
                object,
                limit: LARGEST_SMALL_BLOB,
            });
        }
        let digest = parse_digest(descriptor.digest().as_ref())?;
        let mut content = Vec::new();
        self.blob(descriptor, 0)?
            .read_to_end(&mut content)
            .map_err(registry_error)?;
        let actual = digest_of(digest.algorithm(), &content)?;
        if actual != digest {
            return Err(RegistryError::WrongDigest {
                object,
                expected: digest.to_string(),
                actual: actual.to_string(),
            });
        }
        Ok(content)
    }
}

/// The error that a [`Blob`] put into an I/O error.
pub fn registry_error(error: io::Error) -> RegistryError {
    let broken = |source| RegistryError::Transport {
        method: "GET".into(),
        url: "blob".into(),
        source: TransportError::of_io(source),
    };
    if error
        .get_ref()
        .is_some_and(|inner| inner.is::<RegistryError>())
    {
        match error
            .into_inner()
            .map(|inner| inner.downcast::<RegistryError>())
        {
            Some(Ok(inner)) => *inner,
            _ => broken(io::ErrorKind::Other.into()),
        }
    } else {
        broken(error)
    }
}

impl Blob {
    /// How long the whole blob is, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How far it has been read, from its start.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn object(&self) -> String {
        format!("blob {}", self.digest)
    }

    fn open(&mut self) -> Result<(), RegistryError> {
        self.surplus = 0;
        self.meter = Meter::start();
        if self.position == self.length {
            return Ok(());
        }
        let repository = self.repository.clone();
        let from_registry = repository.first_that_has(|endpoint| {
            let location = endpoint
                .location(&format!("blobs/{}", self.digest))
                .map_err(|source| RegistryError::Name {
                    registry: endpoint.registry.clone(),
                    source,
                })?;
            let response = repository.ask(endpoint, &repository.scopes(endpoint), || {
                self.request(location.clone())
            })?;
            match response.status {
                200 | 206 => self.accept(response),
                _ => Err(repository.refusal(self.object(), endpoint, response)),
            }
        });
        match from_registry {
            Err(RegistryError::NotFound { .. }) if !self.foreign.is_empty() => {}
            other => return other,
        }
        let mut last = None;
        for url in self.foreign.clone() {
            match self.open_foreign(&url) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        last.map_or(from_registry, Err)
    }

    /// A layer kept elsewhere: asked for as a stranger would (CVE-2020-15157).
    fn open_foreign(&mut self, url: &str) -> Result<(), RegistryError> {
        let registry = &self.repository.home().origin;
        let refused = |source| RegistryError::Location {
            what: "foreign layer address",
            from: registry.to_string(),
            source,
        };
        let location = Location::parse(url).map_err(refused)?;
        let transport = self.repository.client.transport();
        transport
            .may_visit(registry, &location.origin)
            .map_err(refused)?;
        let response = transport.exchange_patiently(|| self.request(location.clone()))?;
        match response.status {
            200 | 206 => self.accept(response),
            _ => Err(response.unexpected()),
        }
    }

    fn request(&self, location: Location) -> Request<'static> {
        // A digest is of the bytes as they are kept.
        let request = Request::get(location).header(ACCEPT_ENCODING, "identity");
        match self.position {
            0 => request,
            position => request.header(RANGE, format!("bytes={position}-")),
        }
    }

    /// Takes the body of an answer, if it is as long as it has to be.
    fn accept(&mut self, response: Response) -> Result<(), RegistryError> {
        let (from, total) = match response.status {
            206 => match response.header("content-range").and_then(content_range) {
                Some((from, total)) => (from, total.unwrap_or(self.length)),
                None => (self.position, self.length),
            },
            // It knows no ranges, and starts at the beginning.
            _ => (0, response.length.unwrap_or(self.length)),
        };
        let wrong = |actual: String| RegistryError::WrongLength {
            object: self.object(),
            expected: self.length,
            actual,
        };
        if total != self.length {
            return Err(wrong(total.to_string()));
        }
        if from > self.position {
            return Err(RegistryError::Malformed {
                object: self.object(),
                why: format!(
                    "asked for it from byte {}, it came from byte {from}",
                    self.position
                ),
            });
        }
        if let Some(length) = response.length
            && length != self.length - from
        {
            return Err(wrong((from + length).to_string()));
        }
        self.surplus = self.position - from;
        self.body = Some(response.body);
        Ok(())
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> Result<usize, TransportError> {
        let Some(body) = &mut self.body else {
            return Err(TransportError::Broken(io::ErrorKind::NotConnected.into()));
        };
        while self.surplus > 0 {
            let step = usize::try_from(self.surplus)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            match body
                .read(&mut buffer[..step])
                .map_err(TransportError::of_io)?
            {
                0 => return Err(TransportError::Broken(io::ErrorKind::UnexpectedEof.into())),
                n => self.surplus -= n as u64,
            }
        }
        match body.read(buffer).map_err(TransportError::of_io)? {
            0 => Err(TransportError::Broken(io::ErrorKind::UnexpectedEof.into())),
            n => Ok(n),
        }
    }

    /// The whole blob is here: there must be nothing after it.
    fn finish(&mut self) -> Result<(), RegistryError> {
        let Some(mut body) = self.body.take() else {
            return Ok(());
        };
        match body.read(&mut [0_u8; 1]) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(RegistryError::WrongLength {
                object: self.object(),
                expected: self.length,
                actual: format!("more than {}", self.length),
            }),
        }
    }

    /// Asks for the rest after a break, as often as there is hope.
    fn mend(&mut self, mut cause: TransportError) -> Result<(), RegistryError> {
        self.body = None;
        let client = self.repository.client.clone();
        loop {
            let failed = RegistryError::Transport {
                method: "GET".into(),
                url: self.object(),
                source: cause,
            };
            if self.failures >= client.config().patience.retries || !failed.is_transient() {
                return Err(failed);
            }
            client.transport().back_off(self.failures, None);
            self.failures += 1;
            match self.open() {
                Ok(()) => return Ok(()),
                Err(RegistryError::Transport { source, .. }) => cause = source,
                Err(other) => return Err(other),
            }
        }
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let patience = self.repository.client.config().patience.clone();
        loop {
            let left = self.length - self.position;
            if left == 0 {
                self.finish()?;
                return Ok(0);
            }
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let outcome = self.read_once(&mut buffer[..most]).and_then(|count| {
                let least = patience
                    .slowest
                    .saturating_mul(patience.stall.as_secs().max(1));
                self.meter.count(count, least, patience.stall)?;
                Ok(count)
            });
            match outcome {
                Ok(count) => {
                    self.position += count as u64;
                    if self.meter.is_going_well() {
                        self.failures = 0;
                    }
                    return Ok(count);
                }
                Err(cause) => self.mend(cause)?,
            }
        }
    }
}

impl Meter {
    fn start() -> Meter {
        Meter {
            since: Instant::now(),
            bytes: 0,
        }
    }

    fn count(
        &mut self,
        bytes: usize,
        least: u64,
        within: std::time::Duration,
    ) -> Result<(), TransportError> {
        self.bytes += bytes as u64;
        if self.since.elapsed() < within {
            return Ok(());
        }
        if self.bytes < least {
            return Err(TransportError::Stalled {
                bytes: least,
                within,
            });
        }
        *self = Meter::start();
        Ok(())
    }

    /// A connection that carried this much earns the next one its full number of attempts.
    fn is_going_well(&self) -> bool {
        self.bytes >= 1 << 20
    }
}

/// `bytes 10-99/100`, or `/*` when the whole is not known (RFC 9110 section 14.4).
fn content_range(header: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = range.split_once('-')?;
    let (from, to): (u64, u64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (from <= to).then_some((from, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 10-99/100"), Some((10, Some(100))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for bad in [
            "",
            "bytes */100",
            "bytes 5-1/10",
            "items 0-1/2",
            "bytes a-b/c",
            "bytes 0-1",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
