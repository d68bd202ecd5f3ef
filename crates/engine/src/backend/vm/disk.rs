//! The writable layer: a disk of the instance's own, below its root file system.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use isle_disk::Seeds;
use isle_types::{ByteSize, InstanceId};

use crate::Paths;
use crate::backend::{StartError, failed};
use crate::config::InstanceConfig;
use crate::state::Instance;

/// Where the disk is.
pub(crate) fn path(paths: &Paths, id: &InstanceId) -> PathBuf {
    paths.instance(id).join("disk")
}

/// Opens the instance's disk, for reading and writing; makes it at the first start, as a copy of `first` where that is
/// given.
///
/// # Errors
/// When it cannot be made or opened.
pub(super) fn open(
    paths: &Paths,
    instance: &Instance,
    first: Option<&File>,
) -> Result<OwnedFd, StartError> {
    let path = path(paths, &instance.id);
    let disk = match OpenOptions::new().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(paths, instance)?;
            match first {
                Some(first) => isle_disk::copy_disk(first, &path)
                    .map_err(failed("cannot make the instance's disk"))?,
                None => make(paths, &instance.config, &path)?,
            }
        }
        disk => disk.map_err(failed("cannot open the instance's disk"))?,
    };
    Ok(disk.into())
}

/// Makes the folder of the instance's own files.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make_folder(paths: &Paths, instance: &Instance) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o710)
        .create(paths.instance(&instance.id))
        .map_err(failed("cannot make the instance's folder"))
}

/// How large the disk of an instance is.
///
/// # Errors
/// When the host's file system cannot be asked.
pub(super) fn size(paths: &Paths, config: &InstanceConfig) -> io::Result<ByteSize> {
    match config.storage_size {
        Some(size) => Ok(size),
        None => isle_disk::default_size(&paths.root),
    }
}

/// Makes a disk.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make(
    paths: &Paths,
    config: &InstanceConfig,
    path: &Path,
) -> Result<File, StartError> {
    let size = size(paths, config).map_err(failed("cannot find out how large a disk can be"))?;
    Seeds::new(&paths.root)
        .make_disk(size, path)
        .map_err(failed("cannot make the instance's disk"))
}
