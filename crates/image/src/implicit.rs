//! Directories that a layer has no entry for, although it has something in them.
//!
//! overlayfs shows the attributes of the topmost layer that has a directory. So a directory that
//! was made only because `tmp/file` needs a `tmp` must look like the `tmp` of the layers below.
//! Such a layer depends on what is below it: where it takes anything over, it is kept under its
//! chain id instead of its diff id.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;

use isle_archive::{IMPLICIT_MODE, may_set};

/// What a directory takes over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    path: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the implicit directories of a layer take over from the layers below it, lowest first.
/// Nothing where that is what they have anyway.
pub(crate) fn inherited(
    implicit: impl IntoIterator<Item = Vec<u8>>,
    below: &[OwnedFd],
) -> io::Result<Vec<Inherited>> {
    let mut all = Vec::new();
    for path in implicit {
        if let Some(found) = find(&path, below)? {
            let is_usual = (found.mode, found.uid, found.gid) == (IMPLICIT_MODE, 0, 0);
            if !is_usual || !found.xattrs.is_empty() {
                all.push(found);
            }
        }
    }
    Ok(all)
}

fn find(path: &[u8], below: &[OwnedFd]) -> io::Result<Option<Inherited>> {
    for layer in below.iter().rev() {
        let directory = match open(layer, path) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => continue,
            // Deleted, or something else: the directory is new in this layer.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let stat = rustix::fs::fstat(&directory)?;
        return Ok(Some(Inherited {
            path: path.to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            xattrs: xattrs(&directory)?,
        }));
    }
    Ok(None)
}

fn open(layer: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(&layer, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn xattrs(directory: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(directory, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() || !may_set(name) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(directory, name, &mut value)?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Gives a layer's directories what they take over.
pub(crate) fn apply(layer: impl AsFd, inherited: &[Inherited]) -> io::Result<()> {
    for directory in inherited {
        let fd = open(&layer, &directory.path)?;
        let owner = (Uid::from_raw(directory.uid), Gid::from_raw(directory.gid));
        rustix::fs::fchown(&fd, Some(owner.0), Some(owner.1))?;
        for (name, value) in &directory.xattrs {
            rustix::fs::fsetxattr(&fd, &**name, value, XattrFlags::empty())?;
        }
        rustix::fs::fchmod(&fd, Mode::from_bits_truncate(directory.mode))?;
    }
    Ok(())
}

/// Implicit directories as one column of the state file: names cannot have a NUL.
pub(crate) fn joined(paths: &std::collections::BTreeSet<Vec<u8>>) -> Vec<u8> {
    let paths: Vec<&[u8]> = paths.iter().map(|path| &**path).collect();
    paths.join(&0)
}

/// The opposite of [`joined`].
pub(crate) fn split(column: &[u8]) -> Vec<Vec<u8>> {
    let paths = column.split(|byte| *byte == 0);
    paths
        .filter(|path| !path.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}
