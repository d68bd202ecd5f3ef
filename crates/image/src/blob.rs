//! Blobs that are in the store: read with their digest checked.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};

use crate::digest::{Digest, Hasher};
use crate::folders::Folders;
use crate::store::{Store, StoreError};

/// Opens a blob's file; one that is gone although a row names it is damage.
pub(crate) fn open_blob(folders: &Folders, digest: &Digest) -> Result<File, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(
        folders.blobs(digest.algorithm()),
        digest.hex(),
        flags,
        Mode::empty(),
    ) {
        Ok(fd) => Ok(File::from(fd)),
        Err(rustix::io::Errno::NOENT) => Err(StoreError::Damaged {
            what: "the blob",
            digest: digest.clone(),
        }),
        Err(errno) => Err(StoreError::Io {
            operation: "open",
            path: folders.blob_path(digest),
            source: errno.into(),
        }),
    }
}

/// Reads a blob of the store. At its end the digest is checked: a damaged blob ends with an error
/// of kind [`io::ErrorKind::InvalidData`] instead of an end.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    digest: Digest,
    hasher: Option<Hasher>,
    size: u64,
}

impl BlobReader {
    /// Bytes of the blob.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
            return Ok(count);
        }
        let is_end = !buffer.is_empty();
        let found = is_end.then(|| self.hasher.take()).flatten();
        if found.is_some_and(|hasher| hasher.finish() != self.digest) {
            let digest = &self.digest;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("blob {digest} is damaged on the disk"),
            ));
        }
        Ok(count)
    }
}

impl Store {
    /// Opens a blob: a layer, a configuration, a manifest.
    ///
    /// # Errors
    /// When the store does not have it.
    pub fn blob(&self, digest: &Digest) -> Result<BlobReader, StoreError> {
        let file = open_blob(&self.folders, digest)?;
        let size = file
            .metadata()
            .map_err(|source| StoreError::Io {
                operation: "read",
                path: self.folders.blob_path(digest),
                source,
            })?
            .len();
        Ok(BlobReader {
            file,
            digest: digest.clone(),
            hasher: Some(Hasher::new(digest.algorithm())),
            size,
        })
    }

    /// A small blob, whole and checked.
    ///
    /// # Errors
    /// When the store does not have it, or it is damaged.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut reader = self.blob(digest)?;
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(StoreError::Damaged {
                what: "the blob",
                digest: digest.clone(),
            }),
            Err(source) => Err(StoreError::Io {
                operation: "read",
                path: self.folders.blob_path(digest),
                source,
            }),
        }
    }
}
