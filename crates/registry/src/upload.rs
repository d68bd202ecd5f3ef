//! Uploading blobs: not at all where the registry has them, else in one piece or in several.
//!
//! See <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push>. A blob goes up
//! in a single PUT. Where that breaks, the registry is asked how much it has kept, and the rest
//! follows in a PATCH; a registry that has kept nothing gets all of it again.

use std::io::{self, Read};

use oci_spec::image::{Descriptor, Digest};
use ureq::http::Method;
use ureq::http::header::{CONTENT_RANGE, HeaderName};

use crate::client::Repository;
use crate::document::parse_digest;
use crate::error::RegistryError;
use crate::location::{Location, encoded, printable};
use crate::transport::{Content, Request, Response};

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there already.
    Existed,
    /// The registry had it in another repository and linked it.
    Mounted,
    /// It was sent.
    Sent,
}

/// The content of a blob to be uploaded. It can be read again from any offset: connections break.
pub trait Source {
    /// Opens the content at `offset`.
    ///
    /// # Errors
    /// What reading it says.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>>;
}

impl<F> Source for F
where
    F: Fn(u64) -> io::Result<Box<dyn Read>>,
{
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        self(offset)
    }
}

impl Source for [u8] {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.len());
        Ok(Box::new(&self[start..]))
    }
}

/// Where an upload goes on, and how much of it is there.
struct Upload {
    location: Location,
    /// Bytes that the registry has kept.
    kept: u64,
}

impl Repository {
    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let digest = parse_digest(digest.as_ref())?;
        let endpoint = self.home();
        let location = self.at_home(&format!("blobs/{digest}"))?;
        let response = self.ask(endpoint, &self.scopes(endpoint), || Request {
            limit: Some(self.client.config().patience.document),
            ..Request::new(Method::HEAD, location.clone())
        })?;
        match response.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.refusal(format!("blob {digest}"), endpoint, response)),
        }
    }

    /// Makes sure that the repository has the blob that `descriptor` describes.
    ///
    /// `from` names another repository of the same registry which is believed to have it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: &(impl Source + ?Sized),
        from: Option<&str>,
    ) -> Result<Uploaded, RegistryError> {
        let digest = parse_digest(descriptor.digest().as_ref())?;
        if self.has_blob(&digest)? {
            return Ok(Uploaded::Existed);
        }
        let mut upload = match self.begin(&digest, from)? {
            None => return Ok(Uploaded::Mounted),
            Some(upload) => upload,
        };
        let mut attempt = 0;
        loop {
            let Err(error) = self.send(&digest, descriptor.size(), source, &mut upload) else {
                return Ok(Uploaded::Sent);
            };
            if !error.is_transient() || attempt >= self.client.config().patience.retries {
                return Err(error);
            }
            self.client.transport().back_off(attempt, None);
            attempt += 1;
            let kept_before = upload.kept;
            if !self.look_up(&mut upload, descriptor.size()) {
                upload = match self.begin(&digest, None)? {
                    None => return Ok(Uploaded::Mounted),
                    Some(upload) => upload,
                };
            } else if upload.kept > kept_before {
                attempt = 0;
            }
        }
    }

    /// Opens an upload; `None` when the registry could mount the blob from elsewhere instead.
    fn begin(&self, digest: &Digest, from: Option<&str>) -> Result<Option<Upload>, RegistryError> {
        let endpoint = self.home();
        let mut scopes = self.scopes(endpoint);
        let path = match from.filter(|from| *from != endpoint.repository) {
            None => "blobs/uploads/".to_owned(),
            Some(from) => {
                scopes.push(format!("repository:{from}:pull"));
                let (digest, from) = (encoded(digest.as_ref()), encoded(from));
                format!("blobs/uploads/?mount={digest}&from={from}")
            }
        };
        let location = self.at_home(&path)?;
        let response = self.ask(endpoint, &scopes, || Request {
            leaves_home: false,
            ..Request::new(Method::POST, location.clone())
        })?;
        match response.status {
            201 if from.is_some() => Ok(None),
            202 => Ok(Some(Upload {
                location: self.next(&response)?,
                kept: 0,
            })),
            // Who may not read the other repository may still write this one.
            401 | 403 if from.is_some() => self.begin(digest, None),
            _ => Err(self.refusal(format!("upload of blob {digest}"), endpoint, response)),
        }
    }

    /// Sends what is missing, and commits.
    fn send(
        &self,
        digest: &Digest,
        size: u64,
        source: &(impl Source + ?Sized),
        upload: &mut Upload,
    ) -> Result<(), RegistryError> {
        let settings = self.client.config().registries.settings(self.registry());
        let chunk = settings.and_then(|settings| settings.upload_chunk);
        let chunk = chunk.map_or(u64::MAX, |size| size.bytes().max(1));
        // One PUT does it all, unless the registry has a part of it or wants small pieces.
        if upload.kept > 0 || size > chunk {
            while upload.kept < size {
                let count = chunk.min(size - upload.kept);
                self.send_chunk(digest, count, source, upload)?;
            }
        }
        let count = size - upload.kept;
        let location = upload
            .location
            .with_query(&[("digest", digest.as_ref())])
            .map_err(|source| self.astray(source))?;
        let response = self.transfer(&Method::PUT, &location, source, upload.kept, count, &[])?;
        if response.status != 201 {
            return Err(self.refusal(format!("upload of blob {digest}"), self.home(), response));
        }
        match response.header("docker-content-digest") {
            Some(kept) if kept != digest.as_ref() => Err(RegistryError::WrongDigest {
                object: "uploaded blob".into(),
                expected: digest.to_string(),
                actual: printable(kept, 100),
            }),
            _ => Ok(()),
        }
    }

    fn send_chunk(
        &self,
        digest: &Digest,
        count: u64,
        source: &(impl Source + ?Sized),
        upload: &mut Upload,
    ) -> Result<(), RegistryError> {
        let range = format!("{}-{}", upload.kept, upload.kept + count - 1);
        let headers = [(CONTENT_RANGE, range)];
        let response = self.transfer(
            &Method::PATCH,
            &upload.location,
            source,
            upload.kept,
            count,
            &headers,
        )?;
        if !matches!(response.status, 202 | 204) {
            return Err(self.refusal(format!("upload of blob {digest}"), self.home(), response));
        }
        let sent = upload.kept + count;
        upload.kept = match response.header("range").map(kept_bytes) {
            // It may have kept less than was sent, never more.
            Some(Some(kept)) if kept <= sent && kept > upload.kept => kept,
            None => sent,
            Some(kept) => {
                return Err(RegistryError::Malformed {
                    object: format!("upload of blob {digest}"),
                    why: format!("sent {sent} bytes, the registry has {kept:?}"),
                });
            }
        };
        upload.location = self.next(&response)?;
        Ok(())
    }

    fn transfer(
        &self,
        method: &Method,
        location: &Location,
        source: &(impl Source + ?Sized),
        offset: u64,
        count: u64,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, RegistryError> {
        let endpoint = self.home();
        self.authorized(endpoint, &self.scopes(endpoint), |authorization| {
            let reader = source
                .open(offset)
                .map_err(|source| self.unreadable(source))?;
            let mut reader = Watched {
                inner: reader.take(count),
                error: None,
                left: count,
            };
            let outcome = self.client.transport().exchange(Request {
                headers: headers.to_vec(),
                content: Content::Stream(&mut reader, count),
                authorization,
                leaves_home: false,
                ..Request::new(method.clone(), location.clone())
            });
            // A failure to read our own file looks like a broken connection from there.
            match (reader.error, outcome) {
                (Some(error), Err(_)) => Err(self.unreadable(error)),
                (_, outcome) => outcome,
            }
        })
    }

    /// Asks how much the registry has kept of an upload; `false` when it knows nothing of it.
    fn look_up(&self, upload: &mut Upload, size: u64) -> bool {
        let endpoint = self.home();
        let found = self.ask(endpoint, &self.scopes(endpoint), || Request {
            leaves_home: false,
            limit: Some(self.client.config().patience.document),
            ..Request::get(upload.location.clone())
        });
        let Ok(response) = found else { return false };
        let kept = response.header("range").and_then(kept_bytes).unwrap_or(0);
        if !matches!(response.status, 200 | 204) || kept > size {
            return false;
        }
        match self.next(&response) {
            Ok(location) => *upload = Upload { location, kept },
            Err(_) => upload.kept = kept,
        }
        true
    }

    /// Where the registry wants the upload to go on.
    fn next(&self, response: &Response) -> Result<Location, RegistryError> {
        let text = response.header("location").unwrap_or_default();
        let next = response
            .location
            .join(text)
            .map_err(|source| self.astray(source))?;
        self.client
            .transport()
            .may_visit(&response.location.origin, &next.origin)
            .map_err(|source| self.astray(source))?;
        Ok(next)
    }

    fn at_home(&self, path: &str) -> Result<Location, RegistryError> {
        self.home()
            .location(path)
            .map_err(|source| RegistryError::Name {
                registry: self.registry().to_owned(),
                source,
            })
    }

    fn astray(&self, source: crate::location::LocationError) -> RegistryError {
        let from = self.home().origin.to_string();
        RegistryError::Location {
            what: "upload location",
            from,
            source,
        }
    }

    fn unreadable(&self, source: io::Error) -> RegistryError {
        RegistryError::Source {
            object: "blob".into(),
            source,
        }
    }
}

/// Remembers what went wrong with our own content.
struct Watched<R> {
    inner: R,
    left: u64,
    error: Option<io::Error>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        match self.inner.read(buffer) {
            Ok(0) if !buffer.is_empty() => {
                self.error = Some(io::ErrorKind::UnexpectedEof.into());
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.error = Some(error);
                Err(copy)
            }
        }
    }
}

/// How many bytes `Range: 0-99` of an upload stands for.
fn kept_bytes(header: &str) -> Option<u64> {
    let range = header.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (from, to) = range.split_once('-')?;
    let to: u64 = to.trim().parse().ok()?;
    // `0-0` is what registries say of an upload of which they have nothing (and of one byte).
    (from.trim() == "0").then_some(if to == 0 { 0 } else { to.checked_add(1)? })
}
