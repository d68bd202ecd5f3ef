//! One layer on its way in: its blob is written and hashed on one thread, unpacked on another.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;

use oci_spec::image::MediaType;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::blob::open_blob;
use crate::compression::{Compression, MAGIC_LEN};
use crate::decode::{Done, Job, REPORT_EVERY, check_diff_id, new_layer, run, unpack_stored};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::failpoint;
use crate::folders::{Folders, Workspace, random_name};
use crate::ingest::IngestError;
use crate::pipe::{BUFFER, PipeReader, PipeWriter, pipe};
use crate::progress::{Event, Phase, Progress};
use crate::store::StoreError;
use isle_archive::Limits;
use isle_archive::Unpacked;
use isle_archive::removal;

/// One layer to be brought. May go to another thread.
#[derive(Debug)]
pub struct LayerTask {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) limits: Limits,
    /// The blob's address, where it is known.
    pub digest: Option<Digest>,
    /// The blob's size, where it is known.
    pub size: Option<u64>,
    /// The uncompressed layer's digest, where it is known.
    pub diff_id: Option<Digest>,
    pub(crate) has_blob: bool,
    pub(crate) has_layer: bool,
    /// Worth going on with when it breaks off: it comes from a network.
    pub(crate) is_download: bool,
}

/// How a layer comes in, see [`LayerTask::start`].
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "short-lived, one a layer")]
pub enum LayerStart {
    /// Nothing to bring: it is here.
    Done(StoredLayer),
    /// Bring the blob's bytes from [`LayerWriter::offset`] on.
    Write(LayerWriter),
}

/// A layer that is complete and checked, to be handed to
/// [`Ingest::commit`](crate::Ingest::commit).
#[derive(Debug)]
pub struct StoredLayer {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) compression: Compression,
    /// `None`: the store has it.
    pub(crate) blob: Option<BlobFile>,
    /// `None`: the store has it.
    pub(crate) unpacked: Option<(CString, Unpacked)>,
}

impl StoredLayer {
    /// The blob's address.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Digest, size and media type for a manifest.
    pub(crate) fn descriptor(&self) -> (Digest, u64, MediaType) {
        (
            self.digest.clone(),
            self.size,
            self.compression.layer_media_type(),
        )
    }
}

/// A blob that has no place yet.
#[derive(Debug)]
pub(crate) struct BlobFile {
    /// Open, and locked while it is in `tmp/partial`.
    pub(crate) file: File,
    pub(crate) name: CString,
    pub(crate) is_partial: bool,
}

pub(crate) fn create(folder: &OwnedFd, name: &CString) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(fd))
}

impl LayerTask {
    /// The layer is here: [`LayerTask::start`] will bring nothing.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.has_blob && self.has_layer
    }

    /// What to call the layer before its blob has an address.
    #[must_use]
    pub fn id(&self) -> Option<&Digest> {
        self.digest.as_ref().or(self.diff_id.as_ref())
    }

    /// Begins: finds what is here, opens the partial file of an earlier attempt, starts unpacking.
    ///
    /// # Errors
    /// When the working folder cannot be written, or a blob that is here is damaged.
    pub fn start(&self, progress: &Arc<dyn Progress>) -> Result<LayerStart, IngestError> {
        if let (Some(digest), Some(diff_id), true) = (&self.digest, &self.diff_id, self.has_blob) {
            let unpacked = match self.has_layer {
                true => None,
                false => Some(unpack_stored(
                    &self.workspace,
                    digest,
                    diff_id,
                    self.limits,
                )?),
            };
            let stored = stored_blob(&self.workspace.folders, digest, diff_id, unpacked)?;
            progress.event(&Event::Layer {
                id: digest,
                phase: Phase::AlreadyExists,
                done: stored.size,
                total: Some(stored.size),
            });
            return Ok(LayerStart::Done(stored));
        }
        LayerWriter::open(self, progress).map(LayerStart::Write)
    }

    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> IngestError {
        let path = self.workspace.folders.path.join("tmp");
        move |source| {
            IngestError::Store(StoreError::Io {
                operation,
                path,
                source,
            })
        }
    }
}

/// A layer whose blob is in the store. The blob's digest is checked by whoever reads it through.
fn stored_blob(
    folders: &Folders,
    digest: &Digest,
    diff_id: &Digest,
    unpacked: Option<(CString, Unpacked)>,
) -> Result<StoredLayer, IngestError> {
    let file = open_blob(folders, digest)?;
    let io = |source| StoreError::Io {
        operation: "read",
        path: folders.blob_path(digest),
        source,
    };
    let mut magic = [0; MAGIC_LEN];
    let count = file.read_at(&mut magic, 0).map_err(io)?;
    let compression =
        Compression::detect(&magic[..count]).map_err(|source| IngestError::Compression {
            layer: digest.to_string(),
            source,
        })?;
    Ok(StoredLayer {
        size: file.metadata().map_err(io)?.len(),
        diff_id: diff_id.clone(),
        digest: digest.clone(),
        compression,
        blob: None,
        unpacked,
    })
}

/// Takes the bytes of a blob, in order, from [`LayerWriter::offset`] on.
///
/// Dropped before [`LayerWriter::finish`], it leaves a partial file that a later attempt goes on
/// with.
pub struct LayerWriter {
    workspace: Arc<Workspace>,
    limits: Limits,
    digest: Option<Digest>,
    size: Option<u64>,
    diff_id: Option<Digest>,
    has_layer: bool,
    is_download: bool,
    progress: Arc<dyn Progress>,
    file: File,
    name: CString,
    is_partial: bool,
    hasher: Hasher,
    magic: Vec<u8>,
    offset: u64,
    reported: u64,
    /// Small writes collect here before they go to the other thread.
    pending: Vec<u8>,
    unpacking: Option<Unpacking>,
}

struct Unpacking {
    pipe: PipeWriter,
    thread: JoinHandle<Result<Done, IngestError>>,
    directory: Option<CString>,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter")
            .field("digest", &self.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl LayerWriter {
    fn open(task: &LayerTask, progress: &Arc<dyn Progress>) -> Result<LayerWriter, IngestError> {
        let (file, name, is_partial) = open_partial(task).map_err(task.io("make a blob in"))?;
        let algorithm = task
            .digest
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let mut writer = LayerWriter {
            workspace: Arc::clone(&task.workspace),
            limits: task.limits,
            digest: task.digest.clone(),
            size: task.size,
            diff_id: task.diff_id.clone(),
            has_layer: task.has_layer,
            is_download: task.is_download,
            progress: Arc::clone(progress),
            file,
            name,
            is_partial,
            hasher: Hasher::new(algorithm),
            magic: Vec::new(),
            offset: 0,
            reported: 0,
            pending: Vec::new(),
            unpacking: None,
        };
        writer.replay()?;
        Ok(writer)
    }

    /// Bytes that are here; the next one written is the one at this offset.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Forgets all bytes: for a server that cannot go on in the middle.
    ///
    /// # Errors
    /// When the file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), IngestError> {
        if let Some(unpacking) = self.unpacking.take() {
            drop(unpacking.pipe);
            // It ends with an error that its input has ended; nothing to learn from it.
            let _ = unpacking.thread.join();
            if let Some(directory) = unpacking.directory {
                let _ = removal::remove(self.workspace.fd.as_fd(), &directory);
            }
        }
        self.file.set_len(0).map_err(self.io("empty"))?;
        io::Seek::rewind(&mut self.file).map_err(self.io("empty"))?;
        self.hasher = Hasher::new(
            self.digest
                .as_ref()
                .map_or(Algorithm::Sha256, Digest::algorithm),
        );
        self.pending.clear();
        self.magic.clear();
        self.offset = 0;
        self.reported = 0;
        Ok(())
    }

    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> IngestError + use<> {
        let path = self.workspace.folders.path.join("tmp");
        move |source| {
            IngestError::Store(StoreError::Io {
                operation,
                path,
                source,
            })
        }
    }

    /// Takes in what an earlier attempt has left in the file.
    fn replay(&mut self) -> Result<(), IngestError> {
        let length = self.file.metadata().map_err(self.io("read"))?.len();
        if self.size.is_some_and(|size| length > size) {
            return self.restart();
        }
        let mut file = self.file.try_clone().map_err(self.io("read"))?;
        while self.offset < length {
            let mut buffer = self.buffer();
            buffer.resize(BUFFER.min((length - self.offset) as usize), 0);
            file.read_exact(&mut buffer).map_err(self.io("read"))?;
            if let Err(error) = self.note(&buffer).and_then(|()| self.forward(buffer)) {
                // What was left is not what was wanted: begin anew.
                drop(error);
                return self.restart();
            }
        }
        Ok(())
    }

    fn buffer(&self) -> Vec<u8> {
        match &self.unpacking {
            Some(unpacking) => unpacking.pipe.buffer(),
            None => Vec::with_capacity(BUFFER),
        }
    }

    /// Like `write_all`, without a copy.
    pub(crate) fn push(&mut self, buffer: Vec<u8>) -> Result<(), IngestError> {
        failpoint::hit("write-blob").map_err(self.io("write a blob in"))?;
        self.file
            .write_all(&buffer)
            .map_err(self.io("write a blob in"))?;
        self.note(&buffer)?;
        self.forward(buffer)
    }

    /// An empty buffer for [`LayerWriter::push`].
    pub(crate) fn spare_buffer(&self) -> Vec<u8> {
        self.buffer()
    }

    /// Counts and hashes bytes that are in the file.
    fn note(&mut self, buffer: &[u8]) -> Result<(), IngestError> {
        self.hasher.update(buffer);
        self.offset += buffer.len() as u64;
        if let (Some(size), Some(digest)) = (self.size, &self.digest)
            && self.offset > size
        {
            return Err(IngestError::Size {
                digest: digest.clone(),
                expected: size,
                found: self.offset,
            });
        }
        if self.magic.len() < MAGIC_LEN {
            let wanted = MAGIC_LEN - self.magic.len();
            self.magic.extend(buffer.iter().take(wanted));
        }
        if self.offset - self.reported >= REPORT_EVERY && self.is_download {
            self.reported = self.offset;
            self.tell(Phase::Downloading);
        }
        Ok(())
    }

    /// Hands bytes on to be unpacked.
    fn forward(&mut self, buffer: Vec<u8>) -> Result<(), IngestError> {
        match self.pending.is_empty() {
            true => self.pending = buffer,
            false => self.pending.extend_from_slice(&buffer),
        }
        match self.pending.len() >= BUFFER / 2 {
            true => self.send(),
            false => Ok(()),
        }
    }

    /// Hands what has collected to the unpacking thread.
    fn send(&mut self) -> Result<(), IngestError> {
        let unpacking = match self.unpacking.take() {
            Some(unpacking) => unpacking,
            None => self.start_unpacking()?,
        };
        let full = std::mem::take(&mut self.pending);
        let sent = unpacking.pipe.send(full);
        self.unpacking = Some(unpacking);
        match sent {
            Ok(()) => Ok(()),
            Err(_) => Err(self.unpacking_failed()),
        }
    }

    fn id(&self) -> Option<&Digest> {
        self.digest.as_ref().or(self.diff_id.as_ref())
    }

    /// What to call the layer in an error.
    fn label(&self) -> String {
        self.id()
            .map_or_else(|| "of the archive".to_owned(), Digest::to_string)
    }

    fn tell(&self, phase: Phase) {
        if let Some(id) = self.id() {
            self.progress.event(&Event::Layer {
                id,
                phase,
                done: self.offset,
                total: self.size,
            });
        }
    }

    /// The thread has gone before its input ended: it knows why.
    fn unpacking_failed(&mut self) -> IngestError {
        let joined = self
            .unpacking
            .take()
            .map(|unpacking| unpacking.thread.join());
        match joined {
            Some(Ok(Err(error))) => error,
            _ => IngestError::Decompress {
                layer: self.label(),
                source: io::ErrorKind::BrokenPipe.into(),
            },
        }
    }

    fn start_unpacking(&self) -> Result<Unpacking, IngestError> {
        let (pipe, reader) = pipe();
        let (directory, target) = match self.has_layer {
            true => (None, None),
            false => {
                let (name, fd) = new_layer(&self.workspace)?;
                (Some(name), Some(fd))
            }
        };
        // Of an uncompressed blob both digests are the same: one pass is enough.
        let is_plain = matches!(Compression::detect(&self.magic), Ok(Compression::None));
        let blob_algorithm = self
            .digest
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let diff_algorithm = self
            .diff_id
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let is_same = is_plain && diff_algorithm == blob_algorithm;
        let job = Job {
            layer: self.label(),
            progress: self.id().map(|id| (id.clone(), Arc::clone(&self.progress))),
            total: self.size,
            limits: self.limits,
            diff: (!is_same).then_some(diff_algorithm),
            target,
        };
        let thread = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(move || {
                let mut reader: PipeReader = reader;
                run(&mut reader, job)
            })
            .map_err(self.io("start a thread for"))?;
        Ok(Unpacking {
            pipe,
            thread,
            directory,
        })
    }

    /// All bytes are here: checks both digests, waits for the unpacking, syncs the blob.
    ///
    /// # Errors
    /// [`IngestError`] when something does not fit; what was downloaded is thrown away then.
    pub fn finish(mut self) -> Result<StoredLayer, IngestError> {
        let result = self.check_and_join();
        if result.is_err() && self.is_partial {
            // It is complete and wrong; going on with it would fail for ever.
            let partial = &self.workspace.folders.partial;
            let _ = rustix::fs::unlinkat(partial, &self.name, AtFlags::empty());
        }
        let done = result?;
        self.tell(Phase::PullComplete);
        Ok(StoredLayer {
            digest: done.digest,
            diff_id: done.diff_id,
            size: self.offset,
            compression: done.compression,
            blob: Some(BlobFile {
                file: self.file,
                name: self.name,
                is_partial: self.is_partial,
            }),
            unpacked: done.unpacked,
        })
    }

    fn check_and_join(&mut self) -> Result<Checked, IngestError> {
        self.send()?;
        let Some(unpacking) = self.unpacking.take() else {
            return Err(self.unpacking_failed());
        };
        let found = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256)).finish();
        if let Some(expected) = &self.digest {
            if let Some(size) = self.size
                && size != self.offset
            {
                return Err(IngestError::Size {
                    digest: expected.clone(),
                    expected: size,
                    found: self.offset,
                });
            }
            if found != *expected {
                return Err(IngestError::Mismatch {
                    what: "the layer",
                    expected: expected.clone(),
                    found,
                });
            }
        }
        if self.is_download {
            self.tell(Phase::DownloadComplete);
        }
        unpacking.pipe.end();
        failpoint::hit("sync-blob")
            .and_then(|()| self.file.sync_data())
            .map_err(self.io("sync a blob in"))?;
        let done = match unpacking.thread.join() {
            Ok(done) => done?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let diff_id = done.diff_id.unwrap_or_else(|| found.clone());
        if let Some(expected) = &self.diff_id {
            check_diff_id(expected, Some(diff_id.clone()))?;
        }
        let compression =
            Compression::detect(&self.magic).map_err(|source| IngestError::Compression {
                layer: found.to_string(),
                source,
            })?;
        Ok(Checked {
            digest: found,
            diff_id,
            compression,
            unpacked: unpacking.directory.map(|name| (name, done.unpacked)),
        })
    }
}

/// What a blob turned out to be.
struct Checked {
    digest: Digest,
    diff_id: Digest,
    compression: Compression,
    unpacked: Option<(CString, Unpacked)>,
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BUFFER);
        let bytes = &bytes[..count];
        failpoint::hit("write-blob")?;
        self.file.write_all(bytes)?;
        self.note(bytes).map_err(io::Error::other)?;
        if self.pending.capacity() == 0 {
            self.pending = self.buffer();
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BUFFER / 2 {
            self.send().map_err(io::Error::other)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the file that a blob is collected in: one that several attempts share when the blob's
/// address is known and nobody else is at it, otherwise one of our own.
fn open_partial(task: &LayerTask) -> io::Result<(File, CString, bool)> {
    failpoint::hit("make-blob")?;
    if let (Some(digest), true) = (&task.digest, task.is_download) {
        let name = CString::new(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
            .expect("a digest has no NUL");
        let partial = &task.workspace.folders.partial;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..8 {
            let fd = rustix::fs::openat(partial, &name, flags, Mode::RUSR | Mode::WUSR)?;
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
                break;
            }
            // Between the two calls another may have finished and moved the file away.
            let ours = rustix::fs::fstat(&fd)?;
            match rustix::fs::statat(partial, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok((File::from(fd), name, true));
                }
                _ => {}
            }
        }
    }
    let name = CString::new(random_name()).expect("hexadecimal digits");
    Ok((create(&task.workspace.fd, &name)?, name, false))
}
