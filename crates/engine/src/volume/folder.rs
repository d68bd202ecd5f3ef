//! The folder of a volume when an instance starts: made, filled from the image, and the place in it
//! that is mounted.
//!
//! A volume that is still empty when it is first mounted is filled with what the image has at that
//! place, with owners and modes, as Docker does.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use isle_archive::beneath;
use isle_types::InstanceId;
use rustix::fs::{Dir, FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::backing;
use super::options::Backing;
use crate::backend::container::{Limit, limit_folders};
use crate::config::VolumeMount;
use crate::{Paths, tree};

/// Is there while places of a volume are being filled, a line each: a later mount begins again.
pub(crate) const FILLING: &str = "filling";

/// What is to be bound.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What `path` goes through, where it is a descriptor of this process.
    pub(crate) held: Option<OwnedFd>,
}

/// Makes the folders of a volume where they are not there, with the limit that they are to have.
///
/// # Errors
/// When the host refuses.
pub(crate) fn make_data(paths: &Paths, name: &str, backing: &Backing) -> io::Result<PathBuf> {
    let folder = paths.volumes().join(name);
    let data = folder.join("_data");
    if !data.is_dir() {
        // What is in volumes may belong to root and be set-user-id: nobody else goes through here.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        match DirBuilder::new().mode(0o755).create(&data) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    if let Backing::Folder { size: Some(size) } = backing
        && Limit::of(File::open(&data)?.as_fd()).is_none()
    {
        limit_folders(paths, std::slice::from_ref(&data), *size)?;
    }
    Ok(data)
}

/// Makes the folder of a volume that an instance is about to mount, fills it from a place of a root
/// file system if it is empty, and finds what is to be bound.
///
/// # Errors
/// When the volume cannot be used: its file system cannot be mounted, the place in it is not there.
pub(crate) fn prepare(
    paths: &Paths,
    volume: &VolumeMount,
    user: &InstanceId,
    fill_from: Option<(BorrowedFd<'_>, &str)>,
) -> io::Result<Prepared> {
    let name = volume.name.as_deref().unwrap_or_default();
    let backing = Backing::parse(&volume.options).map_err(io::Error::other)?;
    let data = make_data(paths, name, &backing)?;
    let folder = paths.volumes().join(name);
    let lock = File::open(&folder)?;
    // Whoever replaces or copies the whole volume has it alone meanwhile.
    flock(&lock, FlockOperation::LockShared)?;
    let top = match backing {
        Backing::Folder { .. } => data,
        Backing::Bind { device, .. } => device,
        Backing::FileSystem(system) => {
            flock(&lock, FlockOperation::LockExclusive)?;
            backing::attach(paths, name, &data, &system, user)?;
            data
        }
    };
    let prepared = match &volume.subpath {
        None => Prepared {
            path: top,
            held: None,
        },
        Some(subpath) => place_in(&top, subpath)?,
    };
    if let Some((rootfs, target)) = fill_from {
        let place = volume.subpath.as_deref().unwrap_or_default();
        fill(&lock, &folder, place, &prepared.path, rootfs, target)?;
    }
    Ok(prepared)
}

/// A place in a volume, by descriptor: what runs in another instance may turn every name on the way
/// into a link at any time, and none of them leads out.
fn place_in(top: &Path, subpath: &str) -> io::Result<Prepared> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(top, flags, Mode::empty())?;
    let found = beneath(root.as_fd(), Path::new(subpath), OFlags::PATH);
    let held = found.map_err(|errno| {
        let kind = io::Error::from(errno).kind();
        io::Error::new(kind, format!("the place {subpath:?} in it: {errno}"))
    })?;
    Ok(Prepared {
        path: PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())),
        held: Some(held),
    })
}

fn fill(
    lock: &File,
    folder: &Path,
    place: &str,
    data: &Path,
    rootfs: BorrowedFd<'_>,
    target: &str,
) -> io::Result<()> {
    let mark = folder.join(FILLING);
    let destination = match File::open(data) {
        Ok(file) if file.metadata()?.is_dir() => file,
        Ok(_) => return Ok(()),
        Err(error) => return Err(error),
    };
    let marked = || -> io::Result<Vec<String>> {
        match fs::read_to_string(&mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            text => Ok(text?.lines().map(str::to_owned).collect()),
        }
    };
    let is_wanted = || -> io::Result<bool> {
        Ok(is_empty(&destination)? || marked()?.iter().any(|line| line == place))
    };
    if !is_wanted()? {
        return Ok(());
    }
    let source = match beneath(
        rootfs,
        Path::new(target),
        OFlags::RDONLY | OFlags::DIRECTORY,
    ) {
        // The image has nothing there, or no folder.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        source => source?,
    };
    flock(lock, FlockOperation::LockExclusive)?;
    // Another one may have filled it meanwhile.
    if !is_wanted()? {
        return Ok(());
    }
    let mut lines = marked()?;
    if !lines.iter().any(|line| line == place) {
        lines.push(place.to_owned());
        fs::write(&mark, lines.join("\n") + "\n")?;
    }
    tree::copy(source.as_fd(), destination.as_fd())?;
    lines.retain(|line| line != place);
    match lines.is_empty() {
        true => fs::remove_file(&mark),
        false => fs::write(&mark, lines.join("\n") + "\n"),
    }
}

/// Whether there is nothing in a folder.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn is_empty(folder: &File) -> io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
