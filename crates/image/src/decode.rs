//! The unpacking half of a layer's way in: decompress, hash, unpack.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::Mode;

use crate::blob::open_blob;
use crate::compression::{Compression, Decoder};
use crate::digest::{Algorithm, Digest, Hasher, HashingReader};
use crate::failpoint;
use crate::folders::{DIRECTORY, Workspace, random_name};
use crate::ingest::IngestError;
use crate::pipe::BUFFER;
use crate::progress::{Event, Phase, Progress};
use crate::store::StoreError;
use isle_archive::Limits;
use isle_archive::TarReader;
use isle_archive::{UnpackOptions, Unpacked, unpack};

/// Unpacks a blob of the store into a workspace, both digests checked.
pub(crate) fn unpack_stored(
    workspace: &Arc<Workspace>,
    digest: &Digest,
    diff_id: &Digest,
    limits: Limits,
) -> Result<(CString, Unpacked), IngestError> {
    let file = open_blob(&workspace.folders, digest)?;
    unpack_file(workspace, file, (digest, diff_id), limits)
}

/// Unpacks the file of a blob, from its start, into a workspace; the blob's digest and the diff id
/// are checked.
pub(crate) fn unpack_file(
    workspace: &Workspace,
    mut file: File,
    (digest, diff_id): (&Digest, &Digest),
    limits: Limits,
) -> Result<(CString, Unpacked), IngestError> {
    file.rewind().map_err(|source| StoreError::Io {
        operation: "read",
        path: workspace.folders.blob_path(digest),
        source,
    })?;
    let mut file = HashingReader::new(file, Some(Hasher::new(digest.algorithm())));
    let (name, target) = new_layer(workspace)?;
    let job = Job {
        layer: digest.to_string(),
        progress: None,
        total: None,
        limits,
        diff: Some(diff_id.algorithm()),
        target: Some(target),
    };
    let mut reader = BufReader::with_capacity(BUFFER, &mut file);
    let result = run(&mut reader, job);
    // A blob that cannot be unpacked may be damaged: that says more than what was wrong inside.
    let rest = io::copy(&mut reader, &mut io::sink());
    drop(reader);
    let found = file.hasher.take().map(Hasher::finish);
    if rest.is_ok() && found.as_ref() != Some(digest) {
        return Err(StoreError::Damaged {
            what: "the blob",
            digest: digest.clone(),
        }
        .into());
    }
    let done = result?;
    check_diff_id(diff_id, done.diff_id)?;
    Ok((name, done.unpacked))
}

pub(crate) fn check_diff_id(expected: &Digest, found: Option<Digest>) -> Result<(), IngestError> {
    match found {
        Some(found) if found == *expected => Ok(()),
        Some(found) => Err(IngestError::Mismatch {
            what: "the uncompressed layer",
            expected: expected.clone(),
            found,
        }),
        None => Ok(()),
    }
}

pub(crate) fn new_layer(workspace: &Workspace) -> Result<(CString, OwnedFd), IngestError> {
    let name = CString::new(random_name()).expect("hexadecimal digits");
    let make = || -> io::Result<OwnedFd> {
        failpoint::hit("make-layer")?;
        rustix::fs::mkdirat(&workspace.fd, &name, Mode::from_bits_truncate(0o755))?;
        let fd = rustix::fs::openat(&workspace.fd, &name, DIRECTORY, Mode::empty())?;
        rustix::fs::fchmod(&fd, Mode::from_bits_truncate(0o755))?;
        Ok(fd)
    };
    match make() {
        Ok(fd) => Ok((name, fd)),
        Err(source) => Err(IngestError::Store(StoreError::Io {
            operation: "make a layer's directory in",
            path: workspace.folders.path.join("tmp"),
            source,
        })),
    }
}

/// What the unpacking thread does.
pub(crate) struct Job {
    pub(crate) layer: String,
    pub(crate) progress: Option<(Digest, Arc<dyn Progress>)>,
    pub(crate) total: Option<u64>,
    pub(crate) limits: Limits,
    /// Compute the digest of the uncompressed bytes.
    pub(crate) diff: Option<Algorithm>,
    /// Unpack into; only decompress and hash without.
    pub(crate) target: Option<OwnedFd>,
}

pub(crate) struct Done {
    pub(crate) diff_id: Option<Digest>,
    pub(crate) unpacked: Unpacked,
}

/// Reads a blob to its end: decompresses, hashes, unpacks.
pub(crate) fn run(reader: &mut dyn io::BufRead, job: Job) -> Result<Done, IngestError> {
    let layer = job.layer;
    let decompress = |source| IngestError::Decompress {
        layer: layer.clone(),
        source,
    };
    let start = reader.fill_buf().map_err(decompress)?;
    // Buffers are far larger than a magic number; a shorter one is all there is.
    let compression = Compression::detect(start).map_err(|source| IngestError::Compression {
        layer: layer.clone(),
        source,
    })?;
    let counted = CountingReader {
        inner: reader,
        count: 0,
        reported: 0,
        total: job.total,
        progress: job.progress,
    };
    let decoder = Decoder::new(compression, counted, job.limits).map_err(decompress)?;
    let hashed = HashingReader::new(decoder, job.diff.map(Hasher::new));
    let mut archive = TarReader::new(BufReader::with_capacity(BUFFER, hashed), job.limits);
    let unpacked = match &job.target {
        Some(target) => {
            let options = UnpackOptions {
                limits: job.limits,
                ..UnpackOptions::default()
            };
            unpack(target.as_fd(), &mut archive, &options).map_err(|source| {
                IngestError::Unpack {
                    layer: layer.clone(),
                    source,
                }
            })?
        }
        None => Unpacked::default(),
    };
    // What follows the archive's end belongs to the digests.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(decompress)?;
    let mut hashed = rest.into_inner();
    Ok(Done {
        diff_id: hashed.hasher.take().map(Hasher::finish),
        unpacked,
    })
}

/// Tells the progress of reading a blob.
struct CountingReader<'a> {
    inner: &'a mut dyn io::BufRead,
    count: u64,
    reported: u64,
    total: Option<u64>,
    progress: Option<(Digest, Arc<dyn Progress>)>,
}

/// Bytes between two reports.
pub(crate) const REPORT_EVERY: u64 = 1 << 20;

impl io::BufRead for CountingReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.count += count as u64;
        if self.count - self.reported >= REPORT_EVERY
            && let Some((id, progress)) = &self.progress
        {
            self.reported = self.count;
            progress.event(&Event::Layer {
                id,
                phase: Phase::Unpacking,
                done: self.count,
                total: self.total,
            });
        }
    }
}

impl Read for CountingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use io::BufRead as _;
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
