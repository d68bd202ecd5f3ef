//! `--storage-opt size=`: the most that a container's writable layer may hold, by a project quota
//! of the file system that the state root is on.
//!
//! The writable layer is a project of its own. Its number is one that nobody on that file system
//! uses, and is found again in the attributes of the folder: nothing else has to remember it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use isle_sys::quota;
use isle_types::ByteSize;
use rustix::rand::{GetRandomFlags, getrandom};

use super::rootfs::make_writable;
use super::upper;
use crate::config::ConfigError;
use crate::state::Instance;
use crate::{EngineError, Paths};

/// Project numbers are taken from here on, above those that people give.
const FIRST_PROJECT: u32 = 1 << 30;
/// So many random numbers are tried: one that is taken is a rare chance.
const TRIES: usize = 16;

/// Makes the writable layer of a new instance, with its limit.
///
/// # Errors
/// [`EngineError::InvalidConfig`] when the file system has no project quotas.
pub(crate) fn limit_storage(
    instance: &Instance,
    paths: &Paths,
    size: ByteSize,
) -> Result<(), EngineError> {
    check_quotas(paths, "--storage-opt size", size)?;
    let folder = paths.instance(&instance.id);
    make_writable(&folder)
        .and_then(|folders| limit_folders(paths, &folders, size))
        .map_err(EngineError::io("limit the size of", &folder))
}

/// Refuses a limit where the file system of the state root enforces none.
///
/// # Errors
/// [`EngineError::InvalidConfig`] for the flag.
pub(crate) fn check_quotas(
    paths: &Paths,
    field: &'static str,
    size: ByteSize,
) -> Result<(), EngineError> {
    let root = File::open(&paths.root).map_err(EngineError::io("open", &paths.root))?;
    if quota::is_enforced(&root) {
        return Ok(());
    }
    Err(EngineError::InvalidConfig(ConfigError {
        field,
        value: size.to_string(),
        reason: format!(
            "the file system of {} enforces no project quotas",
            paths.root.display()
        ),
        hint: Some(
            "mount its ext4 or xfs with -o prjquota (ext4: tune2fs -O project,quota first), or use a \
             tmpfs with a size",
        ),
    }))
}

/// Makes folders one project, which holds no more than this. What is in them already stays outside.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn limit_folders(paths: &Paths, folders: &[PathBuf], size: ByteSize) -> io::Result<()> {
    let root = File::open(&paths.root)?;
    let project = free_project(&root)?;
    quota::set_limit(&root, project, size.bytes())?;
    folders
        .iter()
        .try_for_each(|folder| quota::set_project(File::open(folder)?, project))
}

/// A number that no file and no limit has.
fn free_project(root: &File) -> io::Result<u32> {
    for _ in 0..TRIES {
        let mut bytes = [0; 4];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let project = FIRST_PROJECT | (u32::from_ne_bytes(bytes) >> 2);
        match quota::usage(root, project) {
            Ok(usage) if usage == quota::Usage::default() => return Ok(project),
            // xfs knows only numbers that were used before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(project),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no project number is free"))
}

/// The limit of a writable layer, which outlives its files.
#[derive(Debug)]
pub(crate) struct Limit {
    project: u32,
}

/// The limit of the writable layer below an instance's folder.
pub(crate) fn limited_storage(folder: &Path) -> Option<Limit> {
    Limit::of(File::open(upper(folder)).ok()?.as_fd())
}

impl Limit {
    /// The limit of a folder, when it has one of ours.
    pub(crate) fn of(folder: BorrowedFd<'_>) -> Option<Limit> {
        let project = quota::project(folder).ok()?;
        (project >= FIRST_PROJECT).then_some(Limit { project })
    }

    /// Gives the number back, once the files are gone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn lift(&self, paths: &Paths) -> io::Result<()> {
        quota::set_limit(File::open(&paths.root)?, self.project, 0)
    }
}
