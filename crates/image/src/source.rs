//! Image archives and directories as a set of files that are read where they lie.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::compression::{Compression, Decoder, MAGIC_LEN, UnsupportedCompression};
use crate::folders::Folders;
use isle_archive::Limits;
use isle_archive::{EntryKind, TarError, TarReader};

/// Where images are loaded from.
pub enum LoadInput<'a> {
    /// An open archive; one that can be read at any place is not copied.
    File(File),
    /// A stream: copied to a temporary file first.
    Stream(&'a mut dyn Read),
    /// An OCI image layout as a directory.
    Directory(&'a Path),
}

impl std::fmt::Debug for LoadInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LoadInput::File(_) => "File",
            LoadInput::Stream(_) => "Stream",
            LoadInput::Directory(_) => "Directory",
        })
    }
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Not a tar archive that can be understood.
    #[error("cannot read the image archive")]
    Tar(#[from] TarError),
    /// Compressed in a way that is not supported.
    #[error("cannot read the image archive")]
    Compression(#[from] UnsupportedCompression),
    /// The system refused.
    #[error("cannot read the image archive")]
    Io(#[from] io::Error),
    /// A file of it is larger than it may be.
    #[error("the file {name:?} of the image archive has {size} bytes, more than {limit}")]
    TooLarge {
        /// Which.
        name: String,
        /// Its size.
        size: u64,
        /// The cap.
        limit: u64,
    },
    /// More files than it may have.
    #[error("the image archive has more than {0} files")]
    TooMany(usize),
    /// A file that is named by another one is not there.
    #[error("the image archive has no file {0:?}")]
    Missing(String),
    /// A link in the archive that goes in a circle.
    #[error("the link {0:?} of the image archive leads to itself")]
    Loop(String),
}

/// Files by name.
#[derive(Debug)]
pub(crate) struct Source {
    kind: Kind,
    limits: Limits,
}

#[derive(Debug)]
enum Kind {
    Tar {
        file: Arc<File>,
        members: HashMap<String, Place>,
    },
    Directory(OwnedFd),
}

#[derive(Clone, Debug)]
enum Place {
    Data { offset: u64, size: u64 },
    Link(String),
    Directory,
}

/// One file of a source.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    file: Arc<File>,
    offset: u64,
    pub(crate) size: u64,
}

/// Reads a member from its start.
#[derive(Debug)]
pub(crate) struct MemberReader {
    member: Member,
    at: u64,
}

impl Member {
    pub(crate) fn reader(&self) -> MemberReader {
        MemberReader {
            member: self.clone(),
            at: 0,
        }
    }

    /// The first bytes, as many as [`Compression::detect`] looks at.
    pub(crate) fn start(&self) -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        self.reader()
            .take(MAGIC_LEN as u64)
            .read_to_end(&mut start)?;
        Ok(start)
    }
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.member.size - self.at;
        let wanted = (buffer.len() as u64).min(left) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let count = self
            .member
            .file
            .read_at(&mut buffer[..wanted], self.member.offset + self.at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// A stream as it was before gzip or Zstandard, told by its first bytes; what is not compressed as it is. Refuses
/// bombs.
///
/// # Errors
/// When it cannot be read, or is compressed with something else.
pub fn decompressed<'r>(
    stream: &'r mut dyn Read,
    limits: Limits,
) -> Result<Box<dyn Read + 'r>, SourceError> {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let start = first_bytes(&mut reader)?;
    let compression = Compression::detect(&start)?;
    let chained = BufReader::with_capacity(256 << 10, io::Cursor::new(start).chain(reader));
    Ok(Box::new(Decoder::new(compression, chained, limits)?))
}

impl Source {
    pub(crate) fn open(
        input: LoadInput<'_>,
        folders: &Folders,
        limits: Limits,
    ) -> Result<Source, SourceError> {
        match input {
            LoadInput::Directory(path) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
                Ok(Source {
                    kind: Kind::Directory(fd),
                    limits,
                })
            }
            LoadInput::File(mut file) => {
                let is_regular = file.metadata()?.is_file();
                let at = match is_regular {
                    true => file.stream_position()?,
                    false => 0,
                };
                if is_regular && at == 0 {
                    let mut magic = [0; MAGIC_LEN];
                    let count = file.read_at(&mut magic, 0)?;
                    if Compression::detect(&magic[..count])? == Compression::None {
                        return Source::index(file, limits);
                    }
                }
                Source::copy(&mut file, folders, limits)
            }
            LoadInput::Stream(stream) => Source::copy(stream, folders, limits),
        }
    }

    /// Copies a stream, decompressed, to a file without a name: it vanishes with the process.
    fn copy(
        stream: &mut dyn Read,
        folders: &Folders,
        limits: Limits,
    ) -> Result<Source, SourceError> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folders.tmp, ".", flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)?;
        let mut file = File::from(fd);
        let mut decoder = decompressed(stream, limits)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match decoder.read(&mut buffer)? {
                0 => break,
                count => file.write_all(&buffer[..count])?,
            }
        }
        Source::index(file, limits)
    }

    fn index(mut file: File, limits: Limits) -> Result<Source, SourceError> {
        file.rewind()?;
        let length = file.metadata()?.len();
        let file = Arc::new(file);
        let mut members = HashMap::new();
        let mut archive = TarReader::new(BufReader::with_capacity(4096, &*file), limits);
        while let Some(entry) = archive.next()? {
            let name = normal(&String::from_utf8_lossy(&entry.path));
            let (kind, size, link) = (entry.kind, entry.size, entry.link.clone());
            let is_plain = entry.sparse.is_none();
            let place = match kind {
                Some(EntryKind::File) if is_plain => Place::Data {
                    offset: archive.position(),
                    size,
                },
                // Docker of old and Podman link layers that they have written before.
                Some(EntryKind::Symlink) => {
                    let link = String::from_utf8_lossy(&link).into_owned();
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    Place::Link(normal(&format!("{parent}/{link}")))
                }
                Some(EntryKind::HardLink) => Place::Link(normal(&String::from_utf8_lossy(&link))),
                Some(EntryKind::Directory) => Place::Directory,
                _ => continue,
            };
            if members.len() >= limits.archive_entries {
                return Err(SourceError::TooMany(limits.archive_entries));
            }
            members.insert(name, place);
            // Only headers are read here: the content of a large archive stays untouched.
            let step = archive.forget_data();
            if step > length.saturating_sub(archive.position() - step) {
                return Err(TarError::CutOff.into());
            }
            archive.get_mut().seek_relative(step.cast_signed())?;
        }
        drop(archive);
        Ok(Source {
            kind: Kind::Tar { file, members },
            limits,
        })
    }

    /// The file of a name, `None` when there is none.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Member>, SourceError> {
        match &self.kind {
            Kind::Directory(folder) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                // The directory may come from a stranger as well: no link leads out of it.
                let opened = rustix::fs::openat2(
                    folder,
                    name,
                    flags,
                    Mode::empty(),
                    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
                );
                match opened {
                    Ok(fd) => {
                        let file = File::from(fd);
                        let metadata = file.metadata()?;
                        if !metadata.is_file() {
                            return Ok(None);
                        }
                        Ok(Some(Member {
                            file: Arc::new(file),
                            offset: 0,
                            size: metadata.len(),
                        }))
                    }
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
                    Err(errno) => Err(io::Error::from(errno).into()),
                }
            }
            Kind::Tar { file, members } => {
                let mut name = normal(name);
                for _ in 0..16 {
                    match members.get(&name) {
                        None | Some(Place::Directory) => return Ok(None),
                        Some(Place::Data { offset, size }) => {
                            return Ok(Some(Member {
                                file: Arc::clone(file),
                                offset: *offset,
                                size: *size,
                            }));
                        }
                        Some(Place::Link(target)) => name.clone_from(target),
                    }
                }
                Err(SourceError::Loop(name))
            }
        }
    }

    pub(crate) fn require(&self, name: &str) -> Result<Member, SourceError> {
        self.find(name)?
            .ok_or_else(|| SourceError::Missing(name.chars().take(300).collect()))
    }

    /// A JSON document, whole.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let Some(member) = self.find(name)? else {
            return Ok(None);
        };
        if member.size > self.limits.json_bytes {
            return Err(SourceError::TooLarge {
                name: name.chars().take(300).collect(),
                size: member.size,
                limit: self.limits.json_bytes,
            });
        }
        let mut bytes = Vec::with_capacity(member.size as usize);
        member.reader().read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

/// `./a/../b//c` to `b/c`, for names within an archive: they are looked up in a table, never in
/// the file system.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads until there are enough bytes to detect a compression, or the end.
pub(crate) fn first_bytes(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    reader.take(MAGIC_LEN as u64).read_to_end(&mut start)?;
    Ok(start)
}
