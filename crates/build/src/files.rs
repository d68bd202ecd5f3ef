//! What `COPY` and `ADD` take: files below a root, found by paths and patterns, less what is left out.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use isle_archive::{beneath, readable};
use isle_image::{Algorithm, Digest, Hasher};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, openat, readlinkat,
    statat,
};
use rustix::io::Errno;

use crate::glob::{Ignore, Pattern, is_pattern};
use crate::records::KeyMaker;

/// Where files are taken from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root<'r> {
    pub(crate) folder: BorrowedFd<'r>,
    /// What is not there for a build.
    pub(crate) ignore: &'r Ignore,
    /// Owners count: it is an image, not a context.
    pub(crate) keeps_owner: bool,
}

/// How to select.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// `--exclude`
    pub(crate) exclude: Ignore,
    /// `--parents`
    pub(crate) parents: bool,
}

/// One source that was found.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    /// Its last name.
    pub(crate) name: OsString,
    /// Its entries go below the destination; else it is one entry that is the destination or goes into it.
    pub(crate) is_folder: bool,
    /// Of a folder its own mode, for a destination that is not there.
    pub(crate) mode: u32,
    pub(crate) entries: Vec<Entry>,
}

/// One file, by its path below the match; a single file has none.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: i64,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Folder,
    /// Bytes of a file below the root.
    File {
        source: PathBuf,
        size: u64,
    },
    /// Bytes that are at hand.
    Inline(Vec<u8>),
    Link(PathBuf),
    Device {
        is_block: bool,
        number: u64,
    },
    Pipe,
}

/// Why nothing was selected.
#[derive(Debug)]
pub(crate) enum Missing {
    /// No such path.
    NotThere(String),
    /// It is there, and left out.
    Ignored(String),
    /// Not a pattern.
    Pattern(String),
    Io(io::Error),
}

impl From<Errno> for Missing {
    fn from(errno: Errno) -> Self {
        Missing::Io(errno.into())
    }
}

impl From<io::Error> for Missing {
    fn from(error: io::Error) -> Self {
        Missing::Io(error)
    }
}

impl Root<'_> {
    /// Finds what a source means. A pattern that fits nothing is an error.
    pub(crate) fn select(self, source: &str, selection: &Selection) -> Result<Vec<Match>, Missing> {
        let pivot = match (selection.parents, source.find("/./")) {
            (true, Some(at)) => clean(&source[..at]).components().count(),
            _ => 0,
        };
        let path = clean(source);
        let text = path.to_string_lossy().into_owned();
        let paths = match is_pattern(&text) {
            false => vec![path],
            true => self.expand(&text)?,
        };
        if paths.is_empty() {
            return Err(Missing::NotThere(source.to_owned()));
        }
        let is_pattern = is_pattern(&text);
        let mut matches = Vec::new();
        for path in paths {
            match self.one(&path, source, pivot, selection) {
                Ok(found) => matches.push(found),
                // A pattern takes what there is.
                Err(Missing::Ignored(_)) if is_pattern => {}
                Err(missing) => return Err(missing),
            }
        }
        match matches.is_empty() {
            true => Err(Missing::Ignored(source.to_owned())),
            false => Ok(matches),
        }
    }

    fn one(
        self,
        path: &Path,
        source: &str,
        pivot: usize,
        selection: &Selection,
    ) -> Result<Match, Missing> {
        let inside = Path::new("/").join(path);
        let handle = match beneath(self.folder, &inside, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Missing::NotThere(source.to_owned())),
            handle => handle?,
        };
        let stat = fstat(&handle)?;
        let text = path.to_string_lossy().into_owned();
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is_out = !text.is_empty() && self.ignore.excludes(&text);
        if is_out && !(is_folder && self.ignore.has_exceptions()) {
            return Err(Missing::Ignored(source.to_owned()));
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        let mut entries = Vec::new();
        let mut below = PathBuf::new();
        if selection.parents {
            let parts: Vec<_> = path.components().collect();
            let mut so_far = PathBuf::new();
            for (index, part) in parts.iter().enumerate() {
                so_far.push(part);
                let is_last = index + 1 == parts.len();
                if index < pivot || (is_last && !is_folder) {
                    continue;
                }
                below.push(part);
                let folder = beneath(self.folder, &Path::new("/").join(&so_far), OFlags::PATH)?;
                entries.push(self.entry(&below, &fstat(&folder)?, Kind::Folder));
            }
        }
        if is_folder {
            let handle = readable(handle.as_fd())?;
            self.walk(
                handle.as_fd(),
                path,
                &below,
                Path::new(""),
                selection,
                0,
                &mut entries,
            )?;
        } else {
            let inner = match selection.parents {
                true => below.join(&name),
                false => PathBuf::new(),
            };
            let excluded = name.to_string_lossy();
            if selection.exclude.excludes(&excluded) {
                return Err(Missing::Ignored(source.to_owned()));
            }
            // The link itself was followed.
            entries.push(self.leaf(handle.as_fd(), &inside, &inner, &stat)?);
        }
        Ok(Match {
            name,
            is_folder: is_folder || selection.parents,
            mode: stat.st_mode & 0o7777,
            entries,
        })
    }

    /// All below a folder, sorted by name.
    #[expect(clippy::too_many_arguments, reason = "one recursion")]
    fn walk(
        self,
        folder: BorrowedFd<'_>,
        path: &Path,
        below: &Path,
        relative: &Path,
        selection: &Selection,
        depth: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), Missing> {
        if depth > 250 {
            return Err(Missing::Io(io::Error::other(format!(
                "{}: folders are too deep in one another",
                path.display()
            ))));
        }
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let os = OsStr::from_bytes(name.to_bytes());
            let (path, below, relative) = (path.join(os), below.join(os), relative.join(os));
            let stat = match statat(folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            let is_out = (!self.ignore.is_empty() && self.ignore.excludes(&path.to_string_lossy()))
                || (!selection.exclude.is_empty()
                    && selection.exclude.excludes(&relative.to_string_lossy()));
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_folder {
                if !is_out {
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let handle = openat(folder, name.as_c_str(), flags, Mode::empty())?;
                    if let Ok(entry) =
                        self.leaf(handle.as_fd(), &Path::new("/").join(&path), &below, &stat)
                    {
                        entries.push(entry);
                    }
                }
                continue;
            }
            let may_have = self.ignore.has_exceptions() || selection.exclude.has_exceptions();
            if is_out && !may_have {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = openat(folder, name.as_c_str(), flags, Mode::empty())?;
            let place = entries.len();
            entries.push(self.entry(&below, &stat, Kind::Folder));
            self.walk(
                inner.as_fd(),
                &path,
                &below,
                &relative,
                selection,
                depth + 1,
                entries,
            )?;
            if is_out && entries.len() == place + 1 {
                entries.pop();
            }
        }
        Ok(())
    }

    fn entry(self, path: &Path, stat: &Stat, kind: Kind) -> Entry {
        Entry {
            path: path.to_owned(),
            kind,
            mode: stat.st_mode & 0o7777,
            owner: match self.keeps_owner {
                true => (stat.st_uid, stat.st_gid),
                false => (0, 0),
            },
            mtime: stat.st_mtime,
            xattrs: Vec::new(),
        }
    }

    /// What is no folder; `Err` for sockets, which mean nothing without their process.
    fn leaf(
        self,
        handle: BorrowedFd<'_>,
        source: &Path,
        path: &Path,
        stat: &Stat,
    ) -> Result<Entry, Missing> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File {
                source: source.to_owned(),
                size: stat.st_size as u64,
            },
            FileType::Symlink => {
                let target = readlinkat(handle, c"", Vec::new())?;
                Kind::Link(PathBuf::from(OsString::from_vec(target.into_bytes())))
            }
            FileType::CharacterDevice => Kind::Device {
                is_block: false,
                number: stat.st_rdev,
            },
            FileType::BlockDevice => Kind::Device {
                is_block: true,
                number: stat.st_rdev,
            },
            FileType::Fifo => Kind::Pipe,
            _ => return Err(Missing::NotThere(source.display().to_string())),
        };
        let mut entry = self.entry(path, stat, kind);
        if self.keeps_owner && matches!(entry.kind, Kind::File { .. }) {
            entry.xattrs = attributes(self.open(source)?.as_fd())?;
        }
        Ok(entry)
    }

    /// Opens a file of the root for reading.
    pub(crate) fn open(self, source: &Path) -> io::Result<OwnedFd> {
        Ok(beneath(
            self.folder,
            source,
            OFlags::RDONLY | OFlags::NONBLOCK,
        )?)
    }

    /// The paths that a pattern fits, sorted.
    fn expand(self, pattern: &str) -> Result<Vec<PathBuf>, Missing> {
        let mut found = vec![PathBuf::new()];
        for part in pattern.split('/') {
            let mut next = Vec::new();
            if !is_pattern(part) {
                for path in found {
                    let path = path.join(part.replace('\\', ""));
                    let inside = Path::new("/").join(&path);
                    if beneath(self.folder, &inside, OFlags::PATH).is_ok() {
                        next.push(path);
                    }
                }
                found = next;
                continue;
            }
            let pattern =
                Pattern::parse(part, false).ok_or_else(|| Missing::Pattern(pattern.to_owned()))?;
            for path in found {
                let inside = Path::new("/").join(&path);
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let Ok(folder) = beneath(self.folder, &inside, flags) else {
                    continue;
                };
                for entry in Dir::read_from(&folder)? {
                    let name = entry?.file_name().to_owned();
                    let name = OsStr::from_bytes(name.to_bytes()).to_owned();
                    if name != "." && name != ".." && pattern.fits(&name.to_string_lossy()) {
                        next.push(path.join(name));
                    }
                }
            }
            next.sort();
            found = next;
        }
        Ok(found)
    }

    /// A digest of what was selected: names, modes and content, not times.
    pub(crate) fn digest(self, matches: &[Match]) -> io::Result<Digest> {
        let mut key = KeyMaker::new("files");
        for found in matches {
            key.part(found.name.as_bytes())
                .part([u8::from(found.is_folder)]);
            if found.is_folder {
                key.part(found.mode.to_le_bytes());
            }
            for entry in &found.entries {
                key.part(entry.path.as_os_str().as_bytes());
                key.part(entry.mode.to_le_bytes());
                key.part(entry.owner.0.to_le_bytes())
                    .part(entry.owner.1.to_le_bytes());
                for (name, value) in &entry.xattrs {
                    key.part(name).part(value);
                }
                match &entry.kind {
                    Kind::Folder => key.part("folder"),
                    Kind::File { source, .. } => {
                        let digest = digest_of(File::from(self.open(source)?))?;
                        key.part("file").part(digest.as_str())
                    }
                    Kind::Inline(bytes) => {
                        let digest = Digest::of(bytes);
                        key.part("file").part(digest.as_str())
                    }
                    Kind::Link(target) => key.part("link").part(target.as_os_str().as_bytes()),
                    Kind::Device { is_block, number } => key
                        .part("device")
                        .part([u8::from(*is_block)])
                        .part(number.to_le_bytes()),
                    Kind::Pipe => key.part("pipe"),
                };
            }
        }
        Ok(key.finish())
    }
}

/// The digest of all that a reader yields.
pub(crate) fn digest_of(mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// File capabilities and the user's own attributes.
fn attributes(file: BorrowedFd<'_>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 4096];
    let length = match flistxattr(file, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        length => length?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if name == "security.capability" || name.starts_with("user.") {
            let mut value = vec![0; 64 << 10];
            let length = fgetxattr(file, name, value.as_mut_slice())?;
            value.truncate(length);
            found.push((name.to_owned(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// A path relative to its root, without `.` and `..`.
pub(crate) fn clean(path: &str) -> PathBuf {
    let absolute = isle_archive::lexical(Path::new(path));
    absolute.strip_prefix("/").unwrap_or(&absolute).to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn select(
        folder: &Path,
        ignore: &str,
        source: &str,
        selection: &Selection,
    ) -> Result<String, Missing> {
        let handle = File::open(folder).unwrap();
        let ignore = Ignore::parse(ignore).unwrap();
        let root = Root {
            folder: handle.as_fd(),
            ignore: &ignore,
            keeps_owner: false,
        };
        let matches = root.select(source, selection)?;
        let paths = matches.iter().flat_map(|found| {
            found.entries.iter().map(|entry| match found.is_folder {
                true => format!("{}", entry.path.display()),
                false => format!("={}", found.name.to_string_lossy()),
            })
        });
        Ok(paths.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn paths_patterns_and_what_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::create_dir_all(at.join("src/deep")).unwrap();
        for name in ["src/a.c", "src/b.c", "src/deep/c.h", "README.md"] {
            fs::write(at.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("../../../etc", at.join("src/out")).unwrap();
        let plain = Selection::default();
        let found = |ignore, source| select(at, ignore, source, &plain).unwrap();
        assert_eq!(found("", "src"), "a.c b.c deep deep/c.h out");
        assert_eq!(found("src/*.c\n!src/b.c", "/src/"), "b.c deep deep/c.h out");
        assert_eq!(found("", "src/*.c"), "=a.c =b.c");
        assert_eq!(found("", "../src/../README.md"), "=README.md");
        assert!(matches!(
            select(at, "", "none", &plain),
            Err(Missing::NotThere(_))
        ));
        assert!(matches!(
            select(at, "*.md", "README.md", &plain),
            Err(Missing::Ignored(_))
        ));
        // The link leads to the context's own etc, which is not there.
        assert!(matches!(
            select(at, "", "src/out", &plain),
            Err(Missing::NotThere(_))
        ));
        let parents = Selection {
            parents: true,
            ..Selection::default()
        };
        assert_eq!(
            select(at, "", "src/deep/c.h", &parents).unwrap(),
            "src src/deep src/deep/c.h"
        );
        assert_eq!(
            select(at, "", "src/./deep/c.h", &parents).unwrap(),
            "deep deep/c.h"
        );
        let mut exclude = Selection::default();
        exclude.exclude.add("**/*.h").unwrap();
        assert_eq!(select(at, "", "src", &exclude).unwrap(), "a.c b.c deep out");
    }

    #[test]
    fn the_digest_is_of_content_not_of_times() {
        let digest = |mtime: u64, text: &str| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("f"), text).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime);
            File::open(folder.path().join("f"))
                .unwrap()
                .set_modified(time)
                .unwrap();
            let handle = File::open(folder.path()).unwrap();
            let ignore = Ignore::default();
            let root = Root {
                folder: handle.as_fd(),
                ignore: &ignore,
                keeps_owner: false,
            };
            root.digest(&root.select("f", &Selection::default()).unwrap())
                .unwrap()
        };
        assert_eq!(digest(1, "x"), digest(2, "x"));
        assert_ne!(digest(1, "x"), digest(1, "y"));
    }
}
