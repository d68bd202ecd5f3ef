//! Copies of folders with all that belongs to their files: owners, modes, times, extended
//! attributes, hard links, holes, devices. By descriptors alone, so that no link leads out. File
//! systems that can share blocks share them.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use isle_archive::LIMITS;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Copies what is in one folder into another one, and gives that the owner, mode and attributes of
/// the first. What is there already under the same name is replaced, unless it is a folder.
///
/// # Errors
/// The first failure; what was copied before it stays. A tree that is deeper than an image may be.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut links = HashMap::new();
    copy_folder(from, to, to, &mut Vec::new(), &mut links)
}

/// Where the first name of a file with several names was copied to, below the destination.
type Links = HashMap<(u64, u64), CString>;

fn copy_folder(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    path: &mut Vec<u8>,
    links: &mut Links,
) -> io::Result<()> {
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    if depth >= LIMITS.path_depth {
        let text = format!("more than {} folders in one another", LIMITS.path_depth);
        return Err(io::Error::other(text));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        copy_entry(from, to, top, name, path, links).map_err(|error| {
            let path = String::from_utf8_lossy(path).into_owned();
            match error.raw_os_error() {
                Some(_) => io::Error::new(error.kind(), format!("{path}: {error}")),
                None => error,
            }
        })?;
        path.truncate(length);
    }
    // Last, so that a folder that its owner may not write can be filled, and keeps its times.
    adopt(from, to, &fstat(from)?)
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    name: &CStr,
    path: &mut Vec<u8>,
    links: &mut Links,
) -> io::Result<()> {
    let stat = match statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
        // It went away in the meantime.
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Directory {
        match mkdirat(to, name, Mode::from(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let source = openat(from, name, FOLDER, Mode::empty())?;
        let destination = openat(to, name, FOLDER, Mode::empty())?;
        return copy_folder(source.as_fd(), destination.as_fd(), top, path, links);
    }
    match unlinkat(to, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    if stat.st_nlink > 1 {
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = links.get(&key) {
            return Ok(linkat(top, first.as_c_str(), to, name, AtFlags::empty())?);
        }
        let here = CString::new(path.clone()).expect("names of files have no zero byte");
        links.insert(key, here);
    }
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let source = File::from(openat(from, name, flags, Mode::empty())?);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let destination = File::from(openat(to, name, flags, Mode::from(0o600))?);
            match isle_disk::copy_sparse(&source, &destination) {
                // It became shorter while it was copied.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                copied => {
                    copied?;
                }
            }
            adopt(source.as_fd(), destination.as_fd(), &stat)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(target.as_c_str(), to, name)?;
            adopt_by_name(to, name, &stat)
        }
        _ => {
            mknodat(
                to,
                name,
                kind,
                Mode::from_raw_mode(stat.st_mode),
                stat.st_rdev,
            )?;
            adopt_by_name(to, name, &stat)?;
            let mode = Mode::from_raw_mode(stat.st_mode);
            Ok(rustix::fs::chmodat(to, name, mode, AtFlags::empty())?)
        }
    }
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

fn adopt(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    fchown(to, uid, gid)?;
    copy_attributes(from, to)?;
    // After the owner: a change of owner takes set-user-id away.
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(futimens(to, &times(stat))?)
}

fn adopt_by_name(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(
        to,
        name,
        &times(stat),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Copies extended attributes; where a file system has none, there are none to copy.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0; 1024];
    let length = loop {
        match flistxattr(from, names.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(Errno::NOTSUP) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut value = vec![0; 4096];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // overlayfs keeps its own books there.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let length = loop {
            match fgetxattr(from, name, value.as_mut_slice()) {
                Ok(length) => break length,
                Err(Errno::RANGE) => value.resize(value.len() * 4, 0),
                Err(errno) => return Err(errno.into()),
            }
        };
        let flags = rustix::fs::XattrFlags::empty();
        match fsetxattr(to, name, &value[..length], flags) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn holes_stay_holes_and_attributes_come_along() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let file = File::create(from.join("file")).unwrap();
        file.set_len(64 << 20).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        fsetxattr(&file, "user.mark", b"here", flags).unwrap();
        let (source, destination) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        copy(source.as_fd(), destination.as_fd()).unwrap();
        let copied = File::open(to.join("file")).unwrap();
        assert_eq!(copied.metadata().unwrap().len(), 64 << 20);
        assert!(copied.metadata().unwrap().blocks() * 512 < 1 << 20);
        let mut value = [0; 4];
        fgetxattr(&copied, "user.mark", &mut value).unwrap();
        assert_eq!(&value, b"here");
    }

    #[test]
    fn a_tree_without_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 300).collect();
        fs::create_dir_all(from.join(deep)).unwrap();
        fs::create_dir(&to).unwrap();
        let (source, destination) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        let error = copy(source.as_fd(), destination.as_fd()).unwrap_err();
        assert!(error.to_string().contains("in one another"), "{error}");
    }

    #[test]
    fn a_copy_keeps_modes_links_and_times() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("deep/er/file"), "text").unwrap();
        fs::hard_link(from.join("deep/er/file"), from.join("same")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        fs::set_permissions(from.join("same"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::open(from.join("same"))
            .unwrap()
            .set_modified(time)
            .unwrap();

        let (source, destination) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        copy(source.as_fd(), destination.as_fd()).unwrap();
        // Once more over what is there: harmless.
        copy(source.as_fd(), destination.as_fd()).unwrap();

        let of = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(of("").mode() & 0o7777, 0o1777);
        assert_eq!(of("same").mode() & 0o7777, 0o4711);
        assert_eq!(of("same").ino(), of("deep/er/file").ino());
        assert_eq!(of("same").mtime(), 1_000_000);
        assert_eq!(
            fs::read_link(to.join("link")).unwrap().to_str(),
            Some("/etc/passwd")
        );
        assert_eq!(fs::read_to_string(to.join("same")).unwrap(), "text");
    }
}
