//! Tar archives of files below a descriptor: what `export`, `cp` and `commit` write.
//!
//! Walks by descriptors and follows no link, so that what runs meanwhile cannot lead it astray: an
//! entry that changes its kind between being looked at and being opened is an error or left out,
//! never something else's content.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, openat, readlinkat,
    statat,
};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::sparse::Sparse;
use crate::unpack::may_set;

/// How a tree is written.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Translate overlayfs' marks of deleted and replaced things to those of an image layer.
    pub is_layer: bool,
    /// Leave out what is there only because something was mounted over it.
    pub leaves_mount_points_out: bool,
    /// The files are seen with the ids that they have on the host, and are to be written with those
    /// that they have inside. Those of others are nobody's.
    pub ids: Option<Range<u32>>,
    /// For one who wants the same tree back: holes stay holes, times are exact, and every extended
    /// attribute that [`unpack`](crate::unpack()) sets is there.
    pub is_exact: bool,
}

/// Whether an entry of a writable layer is there only because every instance has something mounted
/// over it: an empty file or folder at the place.
pub(crate) fn is_mount_point(path: &Path, folder: BorrowedFd<'_>, name: &CStr) -> bool {
    const PLACES: [&str; 6] = [
        "dev",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
        "proc",
        "sys",
    ];
    let path = path.strip_prefix("/").unwrap_or(path);
    if !PLACES.iter().any(|place| Path::new(place) == path) {
        return false;
    }
    let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return false;
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => stat.st_size == 0,
        FileType::Directory => openat(folder, name, FOLDER, Mode::empty())
            .and_then(|folder| Dir::read_from(&folder))
            .is_ok_and(|mut entries| {
                entries.all(|entry| {
                    entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
                })
            }),
        _ => false,
    }
}

/// Writes trees of files to an archive.
pub struct Archive<'w> {
    builder: Builder<&'w mut dyn Write>,
    style: Style,
    /// The first name of a file with several names.
    links: HashMap<(u64, u64), PathBuf>,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl<'w> Archive<'w> {
    /// An archive that is written somewhere.
    pub fn new(writer: &'w mut dyn Write, style: Style) -> Archive<'w> {
        Archive {
            builder: Builder::new(writer),
            style,
            links: HashMap::new(),
        }
    }

    /// Writes what is in a folder, each entry by its path below it.
    ///
    /// # Errors
    /// With the path at which it failed.
    pub fn folder_content(&mut self, folder: BorrowedFd<'_>) -> io::Result<()> {
        self.content(folder, Path::new(""))
    }

    /// Writes a folder itself, as `./`, and what is in it.
    ///
    /// # Errors
    /// With the path at which it failed.
    pub fn folder(&mut self, folder: BorrowedFd<'_>) -> io::Result<()> {
        let stat = fstat(folder)?;
        self.extensions(folder, &stat, Vec::new())?;
        let header = self.header(&stat, EntryType::Directory);
        self.append(header, Path::new("./"), io::empty())?;
        self.folder_content(folder)
    }

    /// Writes one entry of a folder, and all below it, under another name.
    ///
    /// # Errors
    /// With the path at which it failed.
    pub fn entry(&mut self, folder: BorrowedFd<'_>, name: &CStr, path: &Path) -> io::Result<()> {
        self.write_entry(folder, name, path).map_err(|error| {
            // The innermost path is the one to be told.
            match error.raw_os_error() {
                Some(_) => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
                None => error,
            }
        })
    }

    /// Writes what is at a path below a root, under the path's last element; of the root itself its entries, as
    /// Docker. With `follows`, what a link leads to is written instead of the link.
    ///
    /// # Errors
    /// With the path at which it failed; when there is no such path, with what the kernel says of it.
    pub fn path(&mut self, root: BorrowedFd<'_>, path: &Path, follows: bool) -> io::Result<()> {
        let Some(last) = path.file_name() else {
            let folder = readable(root)?;
            return self.folder_content(folder.as_fd());
        };
        let (mut folder, mut name) = open_parent(root, path)?;
        let mut target = path.to_owned();
        // A chain of links as long as the kernel follows, see path_resolution(7).
        for _ in 0..40 {
            let stat = statat(&folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            if !follows || FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                break;
            }
            let link = readlinkat(&folder, name.as_c_str(), Vec::new())?;
            let above = target.parent().unwrap_or(Path::new("/"));
            target = above.join(OsStr::from_bytes(link.to_bytes()));
            (folder, name) = open_parent(root, &target)?;
        }
        // A folder opened for lookups alone cannot be read through.
        let folder = readable(folder.as_fd())?;
        self.entry(folder.as_fd(), &name, Path::new(last))
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn finish(self) -> io::Result<()> {
        self.builder.into_inner()?.flush()
    }

    fn content(&mut self, folder: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        // The same tree makes the same archive.
        names.sort();
        for name in names {
            let inside = path.join(OsStr::from_bytes(name.to_bytes()));
            if self.style.leaves_mount_points_out && is_mount_point(&inside, folder, &name) {
                continue;
            }
            match self.entry(folder, &name, &inside) {
                // It went away in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn write_entry(&mut self, folder: BorrowedFd<'_>, name: &CStr, path: &Path) -> io::Result<()> {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = openat(folder, name, FOLDER, Mode::empty())?;
                let stat = fstat(&directory)?;
                self.extensions(directory.as_fd(), &stat, Vec::new())?;
                self.append(
                    self.header(&stat, EntryType::Directory),
                    &as_folder(path),
                    io::empty(),
                )?;
                if self.style.is_layer && is_opaque(directory.as_fd())? {
                    self.mark(&path.join(".wh..wh..opq"))?;
                }
                self.content(directory.as_fd(), path)
            }
            FileType::RegularFile => self.regular(folder, name, path),
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new())?;
                let header = self.header(&stat, EntryType::Symlink);
                self.link(
                    header,
                    path,
                    Path::new(OsStr::from_bytes(target.to_bytes())),
                )
            }
            FileType::CharacterDevice if self.style.is_layer && stat.st_rdev == 0 => {
                let name = OsStr::from_bytes(name.to_bytes());
                let mut marked = std::ffi::OsString::from(".wh.");
                marked.push(name);
                self.mark(&path.with_file_name(marked))
            }
            FileType::CharacterDevice => self.device(&stat, EntryType::Char, path),
            FileType::BlockDevice => self.device(&stat, EntryType::Block, path),
            FileType::Fifo => self.append(self.header(&stat, EntryType::Fifo), path, io::empty()),
            // A socket means nothing without its process; tar has no word for it.
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    fn regular(&mut self, folder: BorrowedFd<'_>, name: &CStr, path: &Path) -> io::Result<()> {
        // Should it have become a pipe by now, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it has changed while it was read"));
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                return self.link(self.header(&stat, EntryType::Link), path, &first);
            }
            self.links.insert(key, path.to_owned());
        }
        let file = std::fs::File::from(file);
        let length = stat.st_size as u64;
        if self.style.is_exact
            && let Some(holes) = Sparse::of(&file, length)?
        {
            return self.sparse(&file, &stat, path, holes);
        }
        self.extensions(file.as_fd(), &stat, Vec::new())?;
        let mut header = self.header(&stat, EntryType::Regular);
        header.set_size(length);
        // One that grows or shrinks meanwhile must not shift what comes after it.
        let content = Exactly { file, left: length };
        self.append(header, path, content)
    }

    /// A file with holes, in the PAX form 1.0 of GNU tar.
    fn sparse(
        &mut self,
        file: &std::fs::File,
        stat: &Stat,
        path: &Path,
        sparse: Sparse,
    ) -> io::Result<()> {
        let text = |name: &str, value: &[u8]| (format!("GNU.sparse.{name}"), value.to_vec());
        let records = vec![
            text("major", b"1"),
            text("minor", b"0"),
            text("name", path.as_os_str().as_bytes()),
            text("realsize", stat.st_size.to_string().as_bytes()),
        ];
        self.extensions(file.as_fd(), stat, records)?;
        let content = sparse.content(file);
        let mut header = self.header(stat, EntryType::Regular);
        header.set_size(content.length());
        self.append(header, path, content)
    }

    fn device(&mut self, stat: &Stat, kind: EntryType, path: &Path) -> io::Result<()> {
        let mut header = self.header(stat, kind);
        header.set_device_major(rustix::fs::major(stat.st_rdev))?;
        header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        self.append(header, path, io::empty())
    }

    fn header(&self, stat: &Stat, kind: EntryType) -> Header {
        /// `nobody` and `nogroup`, as the kernel shows ids that a user namespace lacks.
        const NOBODY: u32 = 65534;
        let inside = |id: u32| match &self.style.ids {
            None => u64::from(id),
            Some(range) if range.contains(&id) => u64::from(id - range.start),
            Some(_) => NOBODY.into(),
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(inside(stat.st_uid));
        header.set_gid(inside(stat.st_gid));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header
    }

    fn mark(&mut self, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.append(header, path, io::empty())
    }

    fn append(&mut self, mut header: Header, path: &Path, data: impl Read) -> io::Result<()> {
        self.builder.append_data(&mut header, path, data)
    }

    fn link(&mut self, mut header: Header, path: &Path, target: &Path) -> io::Result<()> {
        self.builder.append_link(&mut header, path, target)
    }

    /// What an entry has that its header has no room for, as a PAX header before it: extended
    /// attributes, see star(1), and where it is to be exact the time.
    fn extensions(
        &mut self,
        file: BorrowedFd<'_>,
        stat: &Stat,
        mut records: Vec<(String, Vec<u8>)>,
    ) -> io::Result<()> {
        if self.style.is_exact && stat.st_mtime_nsec != 0 && stat.st_mtime >= 0 {
            let time = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            records.push(("mtime".to_owned(), time.into_bytes()));
        }
        let attributes = read_attributes(file, self.style.is_exact)?;
        let attributes = attributes.into_iter();
        records.extend(attributes.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)));
        match records.is_empty() {
            true => Ok(()),
            false => self
                .builder
                .append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), v.as_slice()))),
        }
    }
}

/// Yields so many bytes, zeros where the file has become shorter.
struct Exactly {
    file: std::fs::File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let mut length = self.file.read(&mut buffer[..most])?;
        if length == 0 {
            buffer[..most].fill(0);
            length = most;
        }
        self.left -= length as u64;
        Ok(length)
    }
}

fn as_folder(path: &Path) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    PathBuf::from(text)
}

/// Whether a folder of a writable layer hides those of the layers below.
pub(crate) fn is_opaque(folder: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value = [0; 1];
    match fgetxattr(folder, crate::unpack::opaque_attribute(), &mut value) {
        Ok(1) => Ok(value == *b"y"),
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Those that belong in an archive: file capabilities and the user's own, or all that may be set.
fn read_attributes(file: BorrowedFd<'_>, all: bool) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 1024];
    let length = loop {
        match flistxattr(file, names.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut attributes = Vec::new();
    let names = names[..length].split(|byte| *byte == 0);
    for name in names.filter_map(|name| std::str::from_utf8(name).ok()) {
        let is_plain = name == "security.capability" || name.starts_with("user.");
        let is_wanted = if all {
            may_set(name.as_bytes())
        } else {
            is_plain
        };
        if !is_wanted {
            continue;
        }
        let mut value = vec![0; 256];
        let length = loop {
            match fgetxattr(file, name, value.as_mut_slice()) {
                Ok(length) => break length,
                Err(Errno::RANGE) => value.resize(value.len() * 16, 0),
                Err(errno) => return Err(errno.into()),
            }
        };
        value.truncate(length);
        attributes.push((name.to_owned(), value));
    }
    Ok(attributes)
}

/// A descriptor of the same folder that can be read through.
///
/// # Errors
/// When it cannot be read.
pub fn readable(folder: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    openat(folder, ".", FOLDER, Mode::empty())
}

/// The folder that a path's last element is in, and that element.
///
/// # Errors
/// When the folder is not there.
pub fn open_parent(
    root: BorrowedFd<'_>,
    path: &Path,
) -> rustix::io::Result<(OwnedFd, std::ffi::CString)> {
    let name = path.file_name().map_or(&b"."[..], OsStrExt::as_bytes);
    let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    let parent = match path.file_name() {
        Some(_) => path.parent().unwrap_or(path),
        None => path,
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new("/")
    } else {
        parent
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = beneath(root, parent, flags)?;
    Ok((folder, name))
}

/// Opens a path as one that has `root` as its root would: no link leads out, magic links of
/// `/proc` lead nowhere. See openat2(2).
///
/// # Errors
/// When there is no such path.
pub fn beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile; see openat2(2).
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_becomes_an_archive_that_gnu_tar_reads() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/file"), vec![7; 10_000]).unwrap();
        fs::hard_link(from.join("a/b/file"), from.join("same")).unwrap();
        symlink("../../../etc/passwd", from.join("link")).unwrap();
        fs::write(from.join("n".repeat(200)), "long").unwrap();
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes, Style::default());
        let source = fs::File::open(&from).unwrap();
        archive.folder_content(source.as_fd()).unwrap();
        archive.finish().unwrap();

        let to = folder.path().join("to");
        fs::create_dir(&to).unwrap();
        let path = folder.path().join("archive.tar");
        fs::write(&path, &bytes).unwrap();
        let status = std::process::Command::new("tar")
            .arg("-xf")
            .arg(&path)
            .arg("-C")
            .arg(&to)
            .status()
            .unwrap();
        assert!(status.success());
        let status = std::process::Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([&from, &to])
            .status()
            .unwrap();
        assert!(status.success());
    }
}
