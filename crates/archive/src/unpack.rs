//! Unpacks a layer, or any other tar archive, below one directory.
//!
//! The archive comes from a stranger, so no path of it is ever handed to the kernel from the root
//! of the host: every operation starts at a descriptor of the directory, intermediate links are
//! resolved by openat2(2) with `RESOLVE_IN_ROOT` (a link to `/etc` leads to the layer's own
//! `/etc`, as in Docker), and the last element of a path is never followed. Devices and pipes are
//! made, never opened.
//!
//! Whiteouts of the [OCI layer format] are translated to what overlayfs understands: a character
//! device 0/0 for a deleted name, `trusted.overlay.opaque=y` for a directory that hides those
//! below it.
//!
//! [OCI layer format]: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::limits::Limits;
use crate::removal;
use crate::tar_reader::{Entry, EntryKind, TarError, TarReader};

/// What a directory has that was made for want of an entry.
pub const IMPLICIT_MODE: u32 = 0o755;

/// How to unpack.
#[derive(Clone, Copy, Debug)]
pub struct UnpackOptions {
    /// Translate `.wh.` names for overlayfs; otherwise they are names like others.
    pub whiteouts: bool,
    /// Give files the owners of the archive; otherwise they belong to the caller.
    pub keep_owner: bool,
    /// The id of the host that stands for id 0 of the archive: of the user namespace whose files
    /// are written, else 0. For another than 0 the calling thread must write files as that user
    /// (setfsuid(2)).
    pub first_id: u32,
    /// The caps.
    pub limits: Limits,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        UnpackOptions {
            whiteouts: true,
            keep_owner: true,
            first_id: 0,
            limits: Limits::default(),
        }
    }
}

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of all regular files.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Directories that the archive has no entry for, made because something is in them.
    pub implicit: BTreeSet<Vec<u8>>,
    /// The layer hides everything below it.
    pub is_opaque: bool,
    /// Names of extended attributes that an image must not set and that were left out.
    pub skipped_xattrs: BTreeSet<String>,
    /// Device nodes that were left out, because nobody makes them in a user namespace. Instances have theirs from the host.
    pub skipped_devices: u64,
}

/// Why an archive could not be unpacked. What was unpacked before is left to the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A path that leads out, or that cannot be a path.
    #[error("the archive's entry {path:?} {problem}")]
    Path {
        /// As far as it can be shown.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A hard link to something that is not in the archive.
    #[error("the archive's hard link {path:?} leads to {target:?}, which does not come before it")]
    LinkTarget {
        /// The link.
        path: String,
        /// Where it should lead.
        target: String,
    },
    /// A cap of [`Limits`].
    #[error("the archive's {what} exceed {limit}")]
    Limit {
        /// Of what there is too much.
        what: &'static str,
        /// The cap.
        limit: u64,
    },
    /// The system refused.
    #[error("cannot {operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what, inside.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl UnpackError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            UnpackError::Io { source, .. } => match source.raw_os_error() {
                Some(code) if code == Errno::NOSPC.raw_os_error() => Some(
                    "the disk is full: `isle image prune` and `isle system df` help to make room",
                ),
                Some(code) if code == Errno::ROFS.raw_os_error() => {
                    Some("the file system of the store is mounted read-only")
                }
                Some(code) if code == Errno::PERM.raw_os_error() => {
                    Some("unpacking an image's owners and devices takes root")
                }
                _ => None,
            },
            UnpackError::Path { .. } | UnpackError::Limit { .. } => {
                Some("the archive is damaged or hostile: do not use it")
            }
            _ => None,
        }
    }
}

/// The attribute by which overlayfs knows a directory that hides those below it: of root alone, or, in a user namespace
/// (where no one is that), of whoever writes the file (`userxattr`).
/// <https://docs.kernel.org/filesystems/overlayfs.html#user-xattr>
#[must_use]
pub fn opaque_attribute() -> &'static str {
    match isle_sys::features::is_in_user_namespace() {
        false => "trusted.overlay.opaque",
        true => "user.overlay.opaque",
    }
}

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Directories held open: archives walk through a tree, so most entries are in the same directory
/// as the entry before.
const OPEN_DIRECTORIES: usize = 16;

/// Bytes of names that may be kept for the end of the archive.
const KEPT_NAMES: usize = 256 << 20;

/// Whether an attribute is refused because the file system has none, or because only root of the host may set it.
fn is_for_others(errno: Errno, name: &[u8]) -> bool {
    errno == Errno::OPNOTSUPP
        || (errno == Errno::PERM
            && name.starts_with(b"trusted.")
            && isle_sys::features::is_in_user_namespace())
}

/// Attributes of an image that reach the file system. `trusted.overlay.` would let an image point
/// overlayfs at other directories, `security.selinux` and `security.ima` are the host's policy.
pub fn may_set(name: &[u8]) -> bool {
    let is_overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let is_known = name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default";
    is_known && !is_overlay
}

/// Unpacks the archive below `root`, to its end.
///
/// # Errors
/// [`UnpackError`]; what was written so far stays below `root`.
pub fn unpack<R: BufRead>(
    root: BorrowedFd<'_>,
    archive: &mut TarReader<R>,
    options: &UnpackOptions,
) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker {
        root,
        options: *options,
        umask: umask(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        open: Vec::new(),
        mtimes: Vec::new(),
        kept_names: 0,
        report: Unpacked::default(),
    };
    while let Some(entry) = archive.next()? {
        // Taken out of the reader, because reading its content needs the reader.
        let entry = entry.clone();
        unpacker.entry(&entry, archive)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    options: UnpackOptions,
    umask: u32,
    uid: u32,
    gid: u32,
    /// Most recently used last.
    open: Vec<(Vec<u8>, Rc<Directory>)>,
    /// Set at the end, for every entry made in a directory changes its time.
    mtimes: Vec<(Vec<u8>, (i64, u32))>,
    kept_names: usize,
    report: Unpacked,
}

struct Directory {
    fd: OwnedFd,
    /// New files take its group, new directories its bit.
    is_setgid: bool,
}

/// A path of the archive, made safe: relative, no `.`, no `..`, no empty element.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SafePath {
    bytes: Vec<u8>,
    name_at: usize,
}

impl SafePath {
    fn parse(raw: &[u8], limits: &Limits) -> Result<SafePath, UnpackError> {
        let fail = |problem| {
            Err(UnpackError::Path {
                path: shown(raw),
                problem,
            })
        };
        if raw.is_empty() {
            return fail("has an empty path");
        }
        if raw.len() > limits.path_bytes {
            return fail("has a path that is too long");
        }
        let mut bytes = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for element in raw.split(|byte| *byte == b'/') {
            match element {
                b"" | b"." => {}
                b".." => return fail("has .. in its path"),
                _ if element.len() > 255 => return fail("has a name of more than 255 bytes"),
                _ => {
                    if !bytes.is_empty() {
                        bytes.push(b'/');
                    }
                    bytes.extend_from_slice(element);
                    depth += 1;
                }
            }
        }
        if depth > limits.path_depth {
            return fail("is nested too deeply");
        }
        let name_at = bytes.iter().rposition(|byte| *byte == b'/');
        Ok(SafePath {
            name_at: name_at.map_or(0, |slash| slash + 1),
            bytes,
        })
    }

    fn is_root(&self) -> bool {
        self.bytes.is_empty()
    }

    fn parent(&self) -> &[u8] {
        &self.bytes[..self.name_at.saturating_sub(1)]
    }

    fn name(&self) -> &[u8] {
        &self.bytes[self.name_at..]
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(512)]).into_owned()
}

fn io_error(operation: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> UnpackError {
    let path = shown(path);
    move |errno| UnpackError::Io {
        operation,
        path,
        source: errno.into(),
    }
}

/// The permission bits that the process takes from new files.
fn umask() -> u32 {
    // umask(2) can only be read by setting it, which every thread would notice.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(0o7777)
}

impl Unpacker<'_> {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let limits = self.options.limits;
        let path = SafePath::parse(&entry.path, &limits)?;
        self.report.entries += 1;
        let kind = entry.kind.unwrap_or(EntryKind::File);
        if path.is_root() {
            if kind != EntryKind::Directory {
                return Err(UnpackError::Path {
                    path: shown(&entry.path),
                    problem: "is the root, but not a directory",
                });
            }
            let root = self.directory(b"")?;
            self.set_directory(&root.fd, entry, &path, true)?;
            // It may have got the set-group-id bit: looked at anew.
            self.open.retain(|(known, _)| !known.is_empty());
            return self.keep_mtime(&path, entry.mtime);
        }
        if self.options.whiteouts && path.name().starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(&path);
        }
        let parent = self.directory(path.parent())?;
        let name = c_name(path.name());
        match kind {
            EntryKind::File => self.file(entry, archive, &path, &parent, &name),
            EntryKind::Directory => self.make_directory(entry, &path, &parent, &name),
            EntryKind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > limits.path_bytes {
                    return Err(UnpackError::Path {
                        path: shown(&entry.path),
                        problem: "is a symbolic link with no usable target",
                    });
                }
                self.replacing(&parent, &name, &path, "make the symbolic link", || {
                    rustix::fs::symlinkat(&*entry.link, &parent.fd, &name)
                })?;
                self.set_node(entry, &path, &parent, &name, false)
            }
            EntryKind::HardLink => self.hard_link(entry, &path, &parent, &name),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let file_type = match kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                if kind == EntryKind::CharDevice && entry.device == (0, 0) {
                    return Err(UnpackError::Path {
                        path: shown(&entry.path),
                        problem: "is a character device 0:0, which overlayfs takes for a deleted file",
                    });
                }
                if kind != EntryKind::Fifo && isle_sys::features::is_in_user_namespace() {
                    self.report.skipped_devices += 1;
                    return Ok(());
                }
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                let mode = Mode::from_bits_truncate(entry.mode & 0o777);
                self.replacing(&parent, &name, &path, "make the device", || {
                    rustix::fs::mknodat(&parent.fd, &name, file_type, mode, device)
                })?;
                self.set_node(entry, &path, &parent, &name, true)
            }
        }
    }

    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut TarReader<R>,
        path: &SafePath,
        parent: &Directory,
        name: &CString,
    ) -> Result<(), UnpackError> {
        self.report.bytes = self.report.bytes.saturating_add(entry.real_size);
        if self.report.bytes > self.options.limits.layer_bytes {
            return Err(UnpackError::Limit {
                what: "unpacked bytes",
                limit: self.options.limits.layer_bytes,
            });
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_bits_truncate(entry.mode & 0o777);
        let file = self.replacing(parent, name, path, "make the file", || {
            rustix::fs::openat(&parent.fd, name, flags, mode)
        })?;
        let mut data = archive.data();
        let mut copy = |mut count: u64| -> Result<(), UnpackError> {
            while count > 0 {
                let buffer = data.fill_buf().map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => TarError::CutOff,
                    _ => TarError::Read(error),
                })?;
                let step = (buffer.len() as u64).min(count) as usize;
                if step == 0 {
                    return Err(TarError::CutOff.into());
                }
                let step = rustix::io::write(&file, &buffer[..step])
                    .map_err(io_error("write the file", &path.bytes))?;
                data.consume(step);
                count -= step as u64;
            }
            Ok(())
        };
        match &entry.sparse {
            None => copy(entry.size)?,
            Some(map) => {
                for (offset, length) in map {
                    rustix::fs::seek(&file, SeekFrom::Start(*offset))
                        .map_err(io_error("write the file", &path.bytes))?;
                    copy(*length)?;
                }
                rustix::fs::ftruncate(&file, entry.real_size)
                    .map_err(io_error("write the file", &path.bytes))?;
            }
        }
        self.set_owner_and_mode(file.as_fd(), entry, path, parent.is_setgid)?;
        rustix::fs::futimens(&file, &timestamps(entry.mtime))
            .map_err(io_error("set the time of", &path.bytes))
    }

    fn make_directory(
        &mut self,
        entry: &Entry,
        path: &SafePath,
        parent: &Directory,
        name: &CString,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_bits_truncate(entry.mode & 0o777);
        let mut was_whiteout = false;
        let mut is_new = true;
        match rustix::fs::mkdirat(&parent.fd, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => match self.existing(parent, name, path)? {
                Existing::Directory => is_new = false,
                existing => {
                    was_whiteout = existing == Existing::Whiteout;
                    self.clear(parent, name, path)?;
                    rustix::fs::mkdirat(&parent.fd, name, mode)
                        .map_err(io_error("make the directory", &path.bytes))?;
                }
            },
            Err(errno) => return Err(io_error("make the directory", &path.bytes)(errno)),
        }
        let directory = self.open_directory(&parent.fd, name, path)?;
        if was_whiteout {
            set_opaque(&directory.fd, path)?;
        }
        if !is_new {
            self.report.implicit.remove(&path.bytes);
        }
        let must_set_mode = !is_new || parent.is_setgid;
        self.set_directory(&directory.fd, entry, path, must_set_mode)?;
        let is_setgid = entry.mode & 0o2000 != 0;
        let directory = Rc::new(Directory {
            fd: directory.fd,
            is_setgid,
        });
        self.open.retain(|(known, _)| *known != path.bytes);
        self.remember(path.bytes.clone(), directory);
        self.keep_mtime(path, entry.mtime)
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        path: &SafePath,
        parent: &Directory,
        name: &CString,
    ) -> Result<(), UnpackError> {
        let target = SafePath::parse(&entry.link, &self.options.limits)?;
        let missing = || UnpackError::LinkTarget {
            path: shown(&entry.path),
            target: shown(&entry.link),
        };
        if target.is_root()
            || (self.options.whiteouts && target.name().starts_with(WHITEOUT_PREFIX))
        {
            return Err(missing());
        }
        let Some(from) = self.find_directory(target.parent())? else {
            return Err(missing());
        };
        let target_name = c_name(target.name());
        match self.existing(&from, &target_name, &target)? {
            Existing::Nothing | Existing::Whiteout => return Err(missing()),
            Existing::Directory => {
                return Err(UnpackError::Path {
                    path: shown(&entry.path),
                    problem: "is a hard link to a directory",
                });
            }
            Existing::Other => {}
        }
        if target == *path {
            return Ok(());
        }
        self.replacing(parent, name, path, "make the hard link", || {
            rustix::fs::linkat(&from.fd, &target_name, &parent.fd, name, AtFlags::empty())
        })
    }

    fn whiteout(&mut self, path: &SafePath) -> Result<(), UnpackError> {
        if path.name() == OPAQUE_WHITEOUT {
            let directory = self.directory(path.parent())?;
            if path.parent().is_empty() {
                // overlayfs merges the roots of all layers, whatever is set on them.
                self.report.is_opaque = true;
            }
            return set_opaque(&directory.fd, path);
        }
        if path.name().starts_with(AUFS_PREFIX) {
            // What aufs kept for itself; nothing of it belongs to the image. Docker skips it too.
            return Ok(());
        }
        let name = &path.name()[WHITEOUT_PREFIX.len()..];
        if matches!(name, b"" | b"." | b"..") {
            return Err(UnpackError::Path {
                path: shown(&path.bytes),
                problem: "is a whiteout of no name",
            });
        }
        let parent = self.directory(path.parent())?;
        let name = c_name(name);
        let made = rustix::fs::mknodat(
            &parent.fd,
            &name,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        );
        match made {
            Ok(()) => Ok(()),
            // A whiteout hides what is below the layer, never what is in the layer itself.
            Err(Errno::EXIST) => match self.existing(&parent, &name, path)? {
                Existing::Directory => {
                    let hidden = self.open_directory(&parent.fd, &name, path)?;
                    set_opaque(&hidden.fd, path)
                }
                _ => Ok(()),
            },
            Err(errno) => Err(io_error("make the whiteout", &path.bytes)(errno)),
        }
    }

    /// Does `make`; when the name is taken, clears it and does it again.
    fn replacing<T>(
        &mut self,
        parent: &Directory,
        name: &CString,
        path: &SafePath,
        operation: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, name, path)?;
                make().map_err(io_error(operation, &path.bytes))
            }
            other => other.map_err(io_error(operation, &path.bytes)),
        }
    }

    fn clear(
        &mut self,
        parent: &Directory,
        name: &CString,
        path: &SafePath,
    ) -> Result<(), UnpackError> {
        // Directories held open may be among what goes.
        self.open.clear();
        removal::remove(parent.fd.as_fd(), name).map_err(|source| UnpackError::Io {
            operation: "replace",
            path: shown(&path.bytes),
            source,
        })
    }

    fn existing(
        &self,
        parent: &Directory,
        name: &CString,
        path: &SafePath,
    ) -> Result<Existing, UnpackError> {
        match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Existing::Directory,
                FileType::CharacterDevice if stat.st_rdev == 0 && self.options.whiteouts => {
                    Existing::Whiteout
                }
                _ => Existing::Other,
            }),
            Err(Errno::NOENT) => Ok(Existing::Nothing),
            Err(errno) => Err(io_error("look at", &path.bytes)(errno)),
        }
    }

    /// The directory at a path that [`SafePath`] has made safe; made when it is not there.
    fn directory(&mut self, path: &[u8]) -> Result<Rc<Directory>, UnpackError> {
        if let Some(found) = self.find_directory(path)? {
            return Ok(found);
        }
        // Walk down, making what is missing.
        let mut directory = self
            .find_directory(b"")?
            .expect("the root of the layer is there");
        let mut end = 0;
        while end < path.len() {
            let start = match end {
                0 => 0,
                end => end + 1,
            };
            end = path[start..]
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(path.len(), |length| start + length);
            let here = &path[..end];
            if let Some(found) = self.find_directory(here)? {
                directory = found;
                continue;
            }
            let name = c_name(&path[start..end]);
            let safe = SafePath {
                bytes: here.to_vec(),
                name_at: start,
            };
            let was_whiteout = match self.existing(&directory, &name, &safe)? {
                Existing::Nothing => false,
                Existing::Whiteout => {
                    self.clear(&directory, &name, &safe)?;
                    true
                }
                Existing::Directory | Existing::Other => {
                    return Err(UnpackError::Path {
                        path: shown(path),
                        problem: "is needed as a directory, but is something else",
                    });
                }
            };
            rustix::fs::mkdirat(
                &directory.fd,
                &name,
                Mode::from_bits_truncate(IMPLICIT_MODE),
            )
            .map_err(io_error("make the directory", here))?;
            let made = self.open_directory(&directory.fd, &name, &safe)?;
            rustix::fs::fchmod(&made.fd, Mode::from_bits_truncate(IMPLICIT_MODE))
                .map_err(io_error("set the mode of", here))?;
            if was_whiteout {
                set_opaque(&made.fd, &safe)?;
            }
            self.keep_name(here.len())?;
            self.report.implicit.insert(here.to_vec());
            directory = Rc::new(made);
            self.remember(here.to_vec(), Rc::clone(&directory));
        }
        Ok(directory)
    }

    /// The directory at a path, links on the way resolved inside; `None` when it is not there.
    fn find_directory(&mut self, path: &[u8]) -> Result<Option<Rc<Directory>>, UnpackError> {
        if let Some(place) = self.open.iter().rposition(|(known, _)| known == path) {
            let last = self.open.len() - 1;
            self.open.swap(place, last);
            return Ok(Some(Rc::clone(&self.open[last].1)));
        }
        let from_root = match path.is_empty() {
            true => &b"."[..],
            false => path,
        };
        let opened = retrying(|| {
            rustix::fs::openat2(
                self.root,
                from_root,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
            )
        });
        match opened {
            Ok(fd) => {
                let directory = Rc::new(directory_of(fd, path)?);
                self.remember(path.to_vec(), Rc::clone(&directory));
                Ok(Some(directory))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(io_error("open the directory", path)(errno)),
        }
    }

    fn open_directory(
        &self,
        parent: &OwnedFd,
        name: &CString,
        path: &SafePath,
    ) -> Result<Directory, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(io_error("open the directory", &path.bytes))?;
        directory_of(fd, &path.bytes)
    }

    fn remember(&mut self, path: Vec<u8>, directory: Rc<Directory>) {
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.remove(0);
        }
        self.open.push((path, directory));
    }

    fn keep_name(&mut self, length: usize) -> Result<(), UnpackError> {
        self.kept_names += length + 64;
        match self.kept_names > KEPT_NAMES {
            true => Err(UnpackError::Limit {
                what: "names of directories, in bytes,",
                limit: KEPT_NAMES as u64,
            }),
            false => Ok(()),
        }
    }

    fn keep_mtime(&mut self, path: &SafePath, mtime: (i64, u32)) -> Result<(), UnpackError> {
        self.keep_name(path.bytes.len())?;
        self.mtimes.push((path.bytes.clone(), mtime));
        Ok(())
    }

    fn set_directory(
        &mut self,
        fd: &OwnedFd,
        entry: &Entry,
        path: &SafePath,
        must_set_mode: bool,
    ) -> Result<(), UnpackError> {
        self.set_owner_and_mode(fd.as_fd(), entry, path, must_set_mode)
    }

    /// For what can be opened: owner, then attributes (a change of owner drops capabilities), then
    /// mode (it drops setuid as well).
    fn set_owner_and_mode(
        &mut self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        path: &SafePath,
        must_set: bool,
    ) -> Result<(), UnpackError> {
        if self.options.keep_owner && (must_set || (entry.uid, entry.gid) != (self.uid, self.gid)) {
            let (uid, gid) = owner(entry, self.options.first_id);
            rustix::fs::fchown(fd, Some(uid), Some(gid))
                .map_err(io_error("set the owner of", &path.bytes))?;
        }
        for (name, value) in &entry.xattrs {
            if !may_set(name) {
                let name = String::from_utf8_lossy(name).into_owned();
                self.report.skipped_xattrs.insert(name);
                continue;
            }
            match rustix::fs::fsetxattr(fd, &**name, value, XattrFlags::empty()) {
                Ok(()) => {}
                // The file system has none; overlayfs could not show them either.
                Err(errno) if is_for_others(errno, name) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.report.skipped_xattrs.insert(name);
                }
                Err(errno) => {
                    return Err(io_error("set an extended attribute of", &path.bytes)(errno));
                }
            }
        }
        if must_set || entry.mode & (self.umask | 0o7000) != 0 {
            rustix::fs::fchmod(fd, Mode::from_bits_truncate(entry.mode))
                .map_err(io_error("set the mode of", &path.bytes))?;
        }
        Ok(())
    }

    /// For what must not be opened: links, devices, pipes.
    fn set_node(
        &mut self,
        entry: &Entry,
        path: &SafePath,
        parent: &Directory,
        name: &CString,
        has_mode: bool,
    ) -> Result<(), UnpackError> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.options.keep_owner
            && (parent.is_setgid || (entry.uid, entry.gid) != (self.uid, self.gid))
        {
            let (uid, gid) = owner(entry, self.options.first_id);
            rustix::fs::chownat(&parent.fd, name, Some(uid), Some(gid), nofollow)
                .map_err(io_error("set the owner of", &path.bytes))?;
        }
        for (attribute, value) in &entry.xattrs {
            let shown_name = String::from_utf8_lossy(attribute).into_owned();
            if !may_set(attribute) {
                self.report.skipped_xattrs.insert(shown_name);
                continue;
            }
            let mut link = format!("/proc/self/fd/{}/", parent.fd.as_raw_fd()).into_bytes();
            link.extend_from_slice(name.as_bytes());
            match rustix::fs::lsetxattr(&*link, &**attribute, value, XattrFlags::empty()) {
                Ok(()) => {}
                // user. attributes do not exist on these.
                Err(Errno::OPNOTSUPP | Errno::PERM) => {
                    self.report.skipped_xattrs.insert(shown_name);
                }
                Err(errno) => {
                    return Err(io_error("set an extended attribute of", &path.bytes)(errno));
                }
            }
        }
        if has_mode && entry.mode & (self.umask | 0o7000) != 0 {
            // fchmodat2(2) is of Linux 6.6; a descriptor that only names the file works everywhere.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = rustix::fs::openat(&parent.fd, name, flags, Mode::empty())
                .map_err(io_error("set the mode of", &path.bytes))?;
            let link = format!("/proc/self/fd/{}", node.as_raw_fd());
            rustix::fs::chmod(link, Mode::from_bits_truncate(entry.mode))
                .map_err(io_error("set the mode of", &path.bytes))?;
        }
        rustix::fs::utimensat(&parent.fd, name, &timestamps(entry.mtime), nofollow)
            .map_err(io_error("set the time of", &path.bytes))
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        self.open.clear();
        for (path, mtime) in std::mem::take(&mut self.mtimes) {
            let from_root = match path.is_empty() {
                true => &b"."[..],
                false => &path,
            };
            let opened = retrying(|| {
                rustix::fs::openat2(
                    self.root,
                    from_root,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
                )
            });
            match opened {
                Ok(directory) => rustix::fs::futimens(&directory, &timestamps(mtime))
                    .map_err(io_error("set the time of", &path))?,
                // A later entry has taken its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(io_error("set the time of", &path)(errno)),
            }
        }
        Ok(self.report)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

/// openat2(2) with `RESOLVE_IN_ROOT` gives up with EAGAIN when any rename on the system races it.
fn retrying<T>(mut open: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..128 {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    open()
}

fn directory_of(fd: OwnedFd, path: &[u8]) -> Result<Directory, UnpackError> {
    let stat = rustix::fs::fstat(&fd).map_err(io_error("look at", path))?;
    Ok(Directory {
        is_setgid: stat.st_mode & 0o2000 != 0,
        fd,
    })
}

fn set_opaque(fd: &OwnedFd, path: &SafePath) -> Result<(), UnpackError> {
    rustix::fs::fsetxattr(fd, opaque_attribute(), b"y", XattrFlags::empty())
        .map_err(io_error("hide what is below", &path.bytes))
}

fn c_name(name: &[u8]) -> CString {
    CString::new(name).expect("the reader refuses paths with a NUL")
}

/// What is out of range stays so, and is refused by the kernel; -1 would mean "leave as it is".
fn owner(entry: &Entry, first_id: u32) -> (Uid, Gid) {
    let outside = |id: u32| id.saturating_add(first_id).min(u32::MAX - 1);
    (
        Uid::from_raw(outside(entry.uid)),
        Gid::from_raw(outside(entry.gid)),
    )
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
