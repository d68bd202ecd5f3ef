//! One directory of a group in one hierarchy, held by descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Version};

/// The directory of a group in one hierarchy.
#[derive(Debug)]
pub(crate) struct Directory {
    pub version: Version,
    pub controllers: Vec<String>,
    /// For messages, mounting and removal.
    pub path: PathBuf,
    descriptor: OwnedFd,
}

impl Directory {
    pub fn open(
        version: Version,
        controllers: Vec<String>,
        path: PathBuf,
    ) -> Result<Directory, Error> {
        // O_PATH suffices for openat(2), clone3(2) and bpf(2), and skips the file system's open.
        match rustix::fs::open(
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(descriptor) => Ok(Directory {
                version,
                controllers,
                path,
                descriptor,
            }),
            Err(errno) => Err(Error::Open {
                path,
                source: errno.into(),
            }),
        }
    }

    pub fn has(&self, controller: &str) -> bool {
        (controller.is_empty() && self.version == Version::V2)
            || self.controllers.iter().any(|name| name == controller)
    }

    pub fn open_file(&self, file: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(
            &self.descriptor,
            file,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )
    }

    pub fn has_file(&self, file: &str) -> bool {
        rustix::fs::accessat(
            &self.descriptor,
            file,
            rustix::fs::Access::EXISTS,
            AtFlags::empty(),
        )
        .is_ok()
    }

    pub fn read(&self, file: &str) -> Result<String, Error> {
        self.try_read(file).map_err(|errno| Error::Read {
            path: self.path.join(file),
            source: errno.into(),
        })
    }

    /// As [`Directory::read`], for callers that can do without the file.
    pub fn try_read(&self, file: &str) -> rustix::io::Result<String> {
        let descriptor = self.open_file(file, OFlags::RDONLY)?;
        read_all(descriptor.as_fd())
    }

    pub fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        self.try_write(file, value)
            .map_err(|errno| self.write_error(file, value, errno))
    }

    /// One value, one write(2): control files take the whole value at once.
    pub fn try_write(&self, file: &str, value: &str) -> rustix::io::Result<()> {
        let descriptor = self.open_file(file, OFlags::WRONLY)?;
        write_value(descriptor.as_fd(), value)
    }

    pub fn write_error(&self, file: &str, value: &str, errno: Errno) -> Error {
        Error::Write {
            path: self.path.join(file),
            value: value.to_owned(),
            source: errno.into(),
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Writes one value whole.
pub(crate) fn write_value(descriptor: BorrowedFd<'_>, value: &str) -> rustix::io::Result<()> {
    loop {
        match rustix::io::write(descriptor, value.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads a control file from its current position to its end.
pub(crate) fn read_all(descriptor: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let mut text = Vec::with_capacity(4096);
    let mut buffer = [0_u8; 4096];
    loop {
        match rustix::io::read(descriptor, &mut buffer) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The names of the groups right below a directory.
pub(crate) fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let descriptor = rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::new(descriptor)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == rustix::fs::FileType::Directory && name != b"." && name != b".." {
            use std::os::unix::ffi::OsStrExt;
            found.push(path.join(OsStr::from_bytes(name)));
        }
    }
    Ok(found)
}
