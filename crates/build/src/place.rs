//! Where the files of a `COPY` go in an image, and the layer that they make.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use isle_archive::{beneath, open_parent};
use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstat, readlinkat, statat};
use tar::{Builder, EntryType, Header};

use crate::files::{Entry, Kind, Match, Root};
use crate::mode::ModeChange;

/// Who gets what is copied, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ownership {
    pub(crate) chown: Option<(u32, u32)>,
    pub(crate) chmod: Option<ModeChange>,
    /// No file is newer than this.
    pub(crate) latest: Option<i64>,
    /// `--link`: nothing below is looked at.
    pub(crate) is_linked: bool,
}

/// One entry of the layer, with its path from the root.
#[derive(Debug)]
pub(crate) struct Placed<'m> {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    what: What<'m>,
}

#[derive(Debug)]
enum What<'m> {
    Folder,
    Entry(&'m Entry, Root<'m>),
}

/// What the image below says about paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Below<'v> {
    /// `None` for an image without files, and for `--link`.
    pub(crate) view: Option<BorrowedFd<'v>>,
}

impl Below<'_> {
    /// What is at a path, links not followed.
    fn look(self, path: &Path) -> Option<Stat> {
        let view = self.view?;
        let Some(_) = path.file_name() else {
            return fstat(view).ok();
        };
        let (folder, name) = open_parent(view, &Path::new("/").join(path)).ok()?;
        statat(&folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn link(self, path: &Path) -> Option<PathBuf> {
        let (folder, name) = open_parent(self.view?, &Path::new("/").join(path)).ok()?;
        let target = readlinkat(&folder, name.as_c_str(), Vec::new()).ok()?;
        Some(PathBuf::from(OsStr::from_bytes(target.to_bytes())))
    }

    /// The path that a path leads to, relative to the root, without links as far as it is there.
    pub(crate) fn resolve(self, path: &Path) -> io::Result<PathBuf> {
        let mut todo: Vec<PathBuf> = vec![path.to_owned()];
        let mut real = PathBuf::new();
        let mut links = 0;
        while let Some(path) = todo.pop() {
            let mut parts = path.components();
            let Some(part) = parts.next() else { continue };
            todo.push(parts.as_path().to_owned());
            match part {
                Component::RootDir => real = PathBuf::new(),
                Component::ParentDir => {
                    real.pop();
                }
                Component::Normal(name) => {
                    let next = real.join(name);
                    match self
                        .look(&next)
                        .map(|stat| FileType::from_raw_mode(stat.st_mode))
                    {
                        Some(FileType::Symlink) => {
                            links += 1;
                            if links > 40 {
                                return Err(io::Error::other(format!(
                                    "too many links in /{}",
                                    next.display()
                                )));
                            }
                            todo.extend(self.link(&next));
                        }
                        _ => real = next,
                    }
                }
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(real)
    }

    pub(crate) fn is_folder(self, path: &Path) -> bool {
        self.look(path)
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// The content of a file, which is not large.
    pub(crate) fn read(self, path: &str) -> Option<String> {
        let file = beneath(
            self.view?,
            Path::new(path),
            OFlags::RDONLY | OFlags::NONBLOCK,
        )
        .ok()?;
        let stat = fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut text = Vec::new();
        File::from(file)
            .take(16 << 20)
            .read_to_end(&mut text)
            .ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Collects a layer.
#[derive(Debug)]
pub(crate) struct Layer<'m> {
    below: Below<'m>,
    ownership: Ownership,
    now: i64,
    placed: Vec<Placed<'m>>,
    folders: BTreeSet<PathBuf>,
}

impl<'m> Layer<'m> {
    /// `now`: the time of folders that are made, in seconds since 1970.
    pub(crate) fn new(below: Below<'m>, ownership: Ownership, now: i64) -> Layer<'m> {
        Layer {
            below,
            ownership,
            now,
            placed: Vec::new(),
            folders: BTreeSet::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    /// Puts what was found at a destination, absolute; a slash at its end makes it a folder.
    ///
    /// # Errors
    /// When what is there is in the way.
    pub(crate) fn put(
        &mut self,
        found: &'m Match,
        root: Root<'m>,
        destination: &str,
    ) -> io::Result<()> {
        let wants_folder = destination.ends_with('/');
        let target = self.below.resolve(Path::new(destination))?;
        if found.is_folder {
            // A folder that is made for this one has its mode.
            let mode = (!wants_folder && !found.name.is_empty()).then_some(found.mode);
            self.folder(&target, mode)?;
            for entry in &found.entries {
                self.entry(target.join(&entry.path), entry, root)?;
            }
            return Ok(());
        }
        let goes_into = wants_folder
            || target.as_os_str().is_empty()
            || self.below.is_folder(&target)
            || self.folders.contains(&target);
        let path = match goes_into {
            true => {
                self.folder(&target, None)?;
                target.join(&found.name)
            }
            false => {
                // A link in its last place is replaced, not followed.
                let destination = Path::new(destination);
                let above = self
                    .below
                    .resolve(destination.parent().unwrap_or(Path::new("/")))?;
                self.folder(&above, None)?;
                above.join(destination.file_name().unwrap_or_default())
            }
        };
        if self.below.is_folder(&path) {
            return Err(io::Error::other(format!(
                "/{} is a folder, and a file would replace it",
                path.display()
            )));
        }
        for entry in &found.entries {
            self.entry(path.clone(), entry, root)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, entry: &'m Entry, root: Root<'m>) -> io::Result<()> {
        let is_folder = matches!(entry.kind, Kind::Folder);
        if is_folder {
            let there = self
                .below
                .look(&path)
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            if there.is_some_and(|kind| kind != FileType::Directory) {
                return Err(io::Error::other(format!(
                    "/{} is no folder, and a folder would replace it",
                    path.display()
                )));
            }
            self.folders.insert(path.clone());
        }
        let mode = match (&self.ownership.chmod, &entry.kind) {
            (_, Kind::Link(_)) | (None, _) => entry.mode,
            (Some(change), _) => change.apply(entry.mode, is_folder),
        };
        self.placed.push(Placed {
            path,
            mode,
            owner: self.ownership.chown.unwrap_or(entry.owner),
            mtime: entry.mtime,
            what: What::Entry(entry, root),
        });
        Ok(())
    }

    /// A folder and those above it: as they are, or made.
    pub(crate) fn folder(&mut self, path: &Path, mode: Option<u32>) -> io::Result<()> {
        let mut so_far = PathBuf::new();
        let count = path.components().count();
        for (index, part) in path.components().enumerate() {
            so_far.push(part);
            if !self.folders.insert(so_far.clone()) {
                continue;
            }
            let (mode, owner, mtime) = match self.below.look(&so_far) {
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => (
                    stat.st_mode & 0o7777,
                    (stat.st_uid, stat.st_gid),
                    stat.st_mtime,
                ),
                Some(_) => {
                    return Err(io::Error::other(format!(
                        "/{} is no folder",
                        so_far.display()
                    )));
                }
                // What is below is not looked at: what it has stays as it is.
                None if self.ownership.is_linked && index + 1 < count => (0o755, (0, 0), self.now),
                None => {
                    let mode = mode.filter(|_| index + 1 == count).unwrap_or(0o755);
                    let mode = match &self.ownership.chmod {
                        Some(change) if index + 1 == count => change.apply(mode, true),
                        _ => mode,
                    };
                    (mode, self.ownership.chown.unwrap_or((0, 0)), self.now)
                }
            };
            self.placed.push(Placed {
                path: so_far.clone(),
                mode,
                owner,
                mtime,
                what: What::Folder,
            });
        }
        Ok(())
    }

    /// Writes the layer as a tar archive.
    ///
    /// # Errors
    /// When a file cannot be read, or the writer fails.
    pub(crate) fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        let mut builder = Builder::new(writer);
        for placed in &self.placed {
            self.write_entry(&mut builder, placed).map_err(|error| {
                io::Error::new(error.kind(), format!("/{}: {error}", placed.path.display()))
            })?;
        }
        builder.into_inner()?.flush()
    }

    fn write_entry(
        &self,
        builder: &mut Builder<&mut dyn Write>,
        placed: &Placed<'_>,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mode(placed.mode);
        header.set_uid(placed.owner.0.into());
        header.set_gid(placed.owner.1.into());
        let mtime = self
            .ownership
            .latest
            .map_or(placed.mtime, |latest| placed.mtime.min(latest));
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
        let (entry, root) = match &placed.what {
            What::Folder => {
                header.set_entry_type(EntryType::Directory);
                return builder.append_data(&mut header, as_folder(&placed.path), io::empty());
            }
            What::Entry(entry, root) => (entry, root),
        };
        if !entry.xattrs.is_empty() {
            let records = entry.xattrs.iter();
            let records: Vec<_> = records
                .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value))
                .collect();
            let borrowed = records
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_slice()));
            builder.append_pax_extensions(borrowed)?;
        }
        match &entry.kind {
            Kind::Folder => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, as_folder(&placed.path), io::empty())
            }
            Kind::File { source, size } => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(*size);
                let file = File::from(root.open(source)?);
                let mut content = file.take(*size);
                builder.append_data(&mut header, &placed.path, &mut content)?;
                match content.limit() {
                    0 => Ok(()),
                    _ => Err(io::Error::other("it became shorter while it was read")),
                }
            }
            Kind::Inline(bytes) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, &placed.path, bytes.as_slice())
            }
            Kind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, &placed.path, target)
            }
            Kind::Device { is_block, number } => {
                header.set_entry_type(match is_block {
                    true => EntryType::Block,
                    false => EntryType::Char,
                });
                header.set_device_major(rustix::fs::major(*number))?;
                header.set_device_minor(rustix::fs::minor(*number))?;
                builder.append_data(&mut header, &placed.path, io::empty())
            }
            Kind::Pipe => {
                header.set_entry_type(EntryType::Fifo);
                builder.append_data(&mut header, &placed.path, io::empty())
            }
        }
    }
}

fn as_folder(path: &Path) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    PathBuf::from(text)
}

/// `user[:group]`, names or numbers, as the image's own files say.
///
/// # Errors
/// The name that is not there.
pub(crate) fn owner(text: &str, below: Below<'_>) -> Result<(u32, u32), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let entry = |file: &str, name: &str| -> Option<Vec<String>> {
        let text = below.read(file)?;
        let mut lines = text
            .lines()
            .map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
        lines.find(|fields| fields.first().is_some_and(|first| first == name))
    };
    let (uid, gid) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => {
            let number = |fields: &[String], at: usize| fields.get(at)?.parse::<u32>().ok();
            let found = entry("/etc/passwd", user);
            let ids = found.and_then(|fields| Some((number(&fields, 2)?, number(&fields, 3)?)));
            ids.ok_or_else(|| format!("the image has no user {user:?}"))?
        }
    };
    let gid = match group {
        None | Some("") => gid,
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => entry("/etc/group", group)
                .and_then(|fields| fields.get(2)?.parse().ok())
                .ok_or_else(|| format!("the image has no group {group:?}"))?,
        },
    };
    Ok((uid, gid))
}

/// The view as something that can be held.
pub(crate) fn below(view: Option<&std::os::fd::OwnedFd>) -> Below<'_> {
    Below {
        view: view.map(|view| view.as_fd()),
    }
}
