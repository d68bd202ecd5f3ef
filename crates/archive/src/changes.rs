//! What differs between a writable layer of overlayfs and the tree below it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat,
};
use rustix::io::Errno;

use crate::writer::{beneath, is_mount_point, is_opaque};

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Absolute, inside.
    pub path: PathBuf,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is in the writable layer only.
    Added,
    /// It is in both.
    Changed,
    /// The writable layer hides it.
    Deleted,
}

/// Walks a writable layer beside the files below it; sorted by path. Mount points that every instance has are left out.
///
/// # Errors
/// When a folder cannot be read.
pub fn changes(own: BorrowedFd<'_>, image: BorrowedFd<'_>) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    collect(own, image, Path::new("/"), false, &mut changes)?;
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

fn collect(
    own: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
    path: &Path,
    hides_image: bool,
    changes: &mut Vec<Change>,
) -> io::Result<()> {
    for entry in Dir::read_from(own)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let inside = path.join(OsStr::from_bytes(name.to_bytes()));
        if is_mount_point(&inside, own, name) {
            continue;
        }
        let stat = statat(own, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let in_image = match hides_image {
            true => None,
            false => stat_in(image, &inside)?,
        };
        let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        let change = match (is_whiteout, &in_image) {
            (true, Some(_)) => ChangeKind::Deleted,
            (true, None) => continue,
            (false, Some(_)) => ChangeKind::Changed,
            (false, None) => ChangeKind::Added,
        };
        let place = changes.len();
        changes.push(Change {
            kind: change,
            path: inside.clone(),
        });
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = openat(own, name, flags, Mode::empty())?;
            let hides = is_opaque(folder.as_fd())? || in_image.is_none();
            if hides && in_image.is_some() {
                replaced(folder.as_fd(), image, &inside, changes)?;
            }
            collect(folder.as_fd(), image, &inside, hides, changes)?;
            let is_same = in_image.is_some_and(|old| {
                (old.st_mode, old.st_uid, old.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid)
            });
            // Nothing in it has changed that is to be told: then it is there for mount points.
            if is_same && changes.len() == place + 1 {
                changes.pop();
            }
        }
    }
    Ok(())
}

/// What the image had in a folder that was made anew is deleted, unless it is there again.
fn replaced(
    own: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
    path: &Path,
    changes: &mut Vec<Change>,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let Ok(folder) = beneath(image, path, flags) else {
        return Ok(());
    };
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if let Err(Errno::NOENT) = statat(own, name, AtFlags::SYMLINK_NOFOLLOW) {
            changes.push(Change {
                kind: ChangeKind::Deleted,
                path: path.join(OsStr::from_bytes(name.to_bytes())),
            });
        }
    }
    Ok(())
}

/// What a path of the image is, no link followed; `None` when it is not there.
fn stat_in(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<rustix::fs::Stat>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        file => Ok(Some(fstat(file?)?)),
    }
}
