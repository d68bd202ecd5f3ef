//! The lock of an instance: whoever holds it owns the instance.
//!
//! A supervisor takes it before it does anything and holds it to its end, so a free lock under a
//! row that says "running" means: the supervisor has died. Whoever changes an instance that has
//! no supervisor (remove, update, writing into its files) holds the lock meanwhile.
//!
//! The lock is a flock(2) on `<run>/instances/<id>/lock`; the kernel drops it when its holder
//! dies. The file is never unlinked but by one who holds it; a lock on an unlinked file is not
//! one, so [`InstanceLock::try_acquire`] looks again after it got it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use isle_types::InstanceId;
use rustix::fs::{FlockOperation, flock};

use crate::Paths;

/// Ownership of an instance, as long as this lives.
#[derive(Debug)]
pub struct InstanceLock {
    file: File,
    directory: PathBuf,
}

impl InstanceLock {
    /// Takes the lock; `None` when somebody else has it.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn try_acquire(paths: &Paths, id: &InstanceId) -> io::Result<Option<InstanceLock>> {
        let directory = paths.instance_run(id);
        let path = directory.join("lock");
        loop {
            let open = || {
                OpenOptions::new()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .mode(0o600)
                    .open(&path)
            };
            let file = match open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(&directory)?;
                    // A remover may have taken the folder away again.
                    match open() {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        file => file?,
                    }
                }
                file => file?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if file.metadata()?.nlink() > 0 {
                return Ok(Some(InstanceLock { file, directory }));
            }
        }
    }

    /// Takes the lock, waiting for a short-lived owner (a remover, a `cp`) to let it go.
    ///
    /// # Errors
    /// As [`InstanceLock::try_acquire`].
    pub fn acquire(
        paths: &Paths,
        id: &InstanceId,
        patience: Duration,
    ) -> io::Result<Option<InstanceLock>> {
        let deadline = Instant::now() + patience;
        loop {
            match InstanceLock::try_acquire(paths, id)? {
                Some(lock) => return Ok(Some(lock)),
                None if Instant::now() >= deadline => return Ok(None),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Whether somebody holds the lock at this moment. Makes nothing.
    ///
    /// # Errors
    /// When the lock file is there and cannot be read.
    pub fn is_held(paths: &Paths, id: &InstanceId) -> io::Result<bool> {
        let file = match File::open(paths.instance_run(id).join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The file that carries the lock, to hand on to a child process.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes the folder of lock and socket away with the lock.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Paths, InstanceId) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().to_owned(),
            run: folder.path().join("run"),
        };
        (folder, paths, InstanceId::from_bytes([7; 32]))
    }

    #[test]
    fn only_one_owner_at_a_time() {
        let (_folder, paths, id) = place();
        assert!(!InstanceLock::is_held(&paths, &id).unwrap());
        let lock = InstanceLock::try_acquire(&paths, &id).unwrap().unwrap();
        assert!(InstanceLock::is_held(&paths, &id).unwrap());
        assert!(InstanceLock::try_acquire(&paths, &id).unwrap().is_none());
        drop(lock);
        assert!(!InstanceLock::is_held(&paths, &id).unwrap());
        assert!(InstanceLock::try_acquire(&paths, &id).unwrap().is_some());
    }

    #[test]
    fn a_removed_lock_leaves_nothing_and_can_be_taken_anew() {
        let (_folder, paths, id) = place();
        let lock = InstanceLock::try_acquire(&paths, &id).unwrap().unwrap();
        lock.remove().unwrap();
        assert!(!paths.instance_run(&id).exists());
        assert!(InstanceLock::try_acquire(&paths, &id).unwrap().is_some());
    }
}
