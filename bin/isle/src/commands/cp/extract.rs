//! Unpacking what came out of an instance onto the host.
//!
//! The archive is made by the engine of files that the instance controls, and changes while they
//! are read: nothing in it is trusted. Every directory on the way is opened beneath the target by its
//! descriptor (openat2(2) with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), so that no link in it, and none
//! that is swapped in while we work, leads anywhere else.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat,
    linkat, mkdirat, open, openat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

/// Unpacks into `directory`; the first element of every path becomes `name`, or goes when there is none.
pub fn extract(
    reader: impl Read,
    directory: &Path,
    name: Option<&str>,
    keeps_owner: bool,
) -> io::Result<()> {
    let root = open(
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut archive = tar::Archive::new(reader);
    // Modes and times of directories last: one may not be writable.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = renamed(&entry.path()?, name)?;
        let header = entry.header();
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let owner = (header.uid()?, header.gid()?);
        let modified = header.mtime()?;
        let kind = header.entry_type();
        let Some((parent, base)) = parent(&root, &path)? else {
            continue;
        };
        match kind {
            EntryType::Directory => {
                match mkdirat(&parent, base, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                directories.push((path.clone(), mode, modified));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove_file(&parent, base)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = openat(&parent, base, flags | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)?;
                let mut file = std::fs::File::from(file);
                io::copy(&mut entry, &mut file)?;
                if keeps_owner {
                    chown(&parent, base, owner)?;
                }
                rustix::fs::fchmod(&file, mode)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| bad("a link without target"))?;
                remove_file(&parent, base)?;
                symlinkat(&*target, &parent, base)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| bad("a link without target"))?;
                let target = renamed(&target, name)?;
                let Some((target_parent, target_base)) = self::parent(&root, &target)? else {
                    return Err(bad("a link to the top"));
                };
                remove_file(&parent, base)?;
                linkat(&target_parent, target_base, &parent, base, AtFlags::empty())?;
                continue;
            }
            // Device nodes, pipes and sockets mean nothing on the host, and making one that an
            // instance chose would be dangerous.
            _ => {
                eprintln!("isle: left out {}: neither file, directory nor link", path.display());
                continue;
            }
        }
        if kind != EntryType::Directory {
            set_time(&parent, base, modified)?;
        }
        if keeps_owner && !matches!(kind, EntryType::Regular) {
            chown(&parent, base, owner)?;
        }
    }
    for (path, mode, modified) in directories.into_iter().rev() {
        if let Some((parent, base)) = parent(&root, &path)? {
            let folder = open_folder(&parent, base)?;
            rustix::fs::fchmod(&folder, mode)?;
            set_time(&parent, base, modified)?;
        }
    }
    Ok(())
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive has {text}"))
}

/// The path with another first element; plain names only.
fn renamed(path: &Path, name: Option<&str>) -> io::Result<PathBuf> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir | Component::RootDir => {}
            _ => return Err(bad("a path with ..")),
        }
    }
    let mut result = PathBuf::new();
    result.extend(name);
    result.extend(parts.iter().skip(1));
    Ok(result)
}

/// The directory that holds the last element, opened beneath the root; `None` for the root itself.
fn parent<'p>(root: &OwnedFd, path: &'p Path) -> io::Result<Option<(OwnedFd, &'p OsStr)>> {
    let Some(base) = path.file_name() else {
        return Ok(None);
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let fd = openat2(
        root,
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?;
    Ok(Some((fd, base)))
}

fn open_folder(parent: &OwnedFd, base: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, base, flags, Mode::empty())?)
}

fn remove_file(parent: impl AsFd, base: &OsStr) -> io::Result<()> {
    match unlinkat(parent, base, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn chown(parent: impl AsFd, base: &OsStr, owner: (u64, u64)) -> io::Result<()> {
    let id = |id: u64| u32::try_from(id).map_err(|_| bad("an owner that is no number of one"));
    let (user, group) = (Uid::from_raw(id(owner.0)?), Gid::from_raw(id(owner.1)?));
    Ok(chownat(parent, base, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_time(parent: impl AsFd, base: &OsStr, seconds: u64) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: i64::try_from(seconds).unwrap_or(0),
            tv_nsec: 0,
        },
    };
    Ok(utimensat(parent, base, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_mtime(1_000_000);
            header.set_uid(0);
            header.set_gid(0);
            match kind {
                EntryType::Symlink | EntryType::Link => {
                    header.set_size(0);
                    builder.append_link(&mut header, path, content).unwrap();
                }
                _ => {
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_bytes()).unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_top_is_renamed_or_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            ("top", EntryType::Directory, ""),
            ("top/a", EntryType::Regular, "one"),
            ("top/l", EntryType::Symlink, "a"),
            ("top/h", EntryType::Link, "top/a"),
        ]);
        extract(bytes.as_slice(), folder.path(), Some("new"), false).unwrap();
        let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
        assert_eq!(read("new/a"), "one");
        assert_eq!(read("new/l"), "one");
        assert_eq!(read("new/h"), "one");
        extract(bytes.as_slice(), folder.path(), None, false).unwrap();
        assert_eq!(read("a"), "one");
    }

    #[test]
    fn no_link_leads_out_of_the_target() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let away = outside.path().to_str().unwrap();
        let bytes = archive(&[
            ("top", EntryType::Directory, ""),
            ("top/l", EntryType::Symlink, away),
            ("top/l/evil", EntryType::Regular, "x"),
        ]);
        extract(bytes.as_slice(), folder.path(), Some("new"), false).unwrap_err();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        // A file in place of a link replaces the link, and not what it points to.
        std::fs::write(outside.path().join("f"), "keep").unwrap();
        std::os::unix::fs::symlink(outside.path().join("f"), folder.path().join("f")).unwrap();
        let bytes = archive(&[("f", EntryType::Regular, "new")]);
        extract(bytes.as_slice(), folder.path(), Some("f"), false).unwrap();
        assert_eq!(std::fs::read_to_string(outside.path().join("f")).unwrap(), "keep");
        let bytes = archive(&[("top/x", EntryType::Link, "../../etc/passwd")]);
        extract(bytes.as_slice(), folder.path(), Some("n"), false).unwrap_err();
    }
}
