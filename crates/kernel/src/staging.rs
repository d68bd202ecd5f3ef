//! Folders of kernels that are not complete yet, and how they become complete at once.
//!
//! Whoever makes a folder holds a lock on it; when its process dies the lock goes with it, and the next
//! operation takes the folder away. Making and collecting exclude each other by a lock on the folder of
//! all kernels.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::error::KernelError;

/// Names that begin so are no kernels.
pub(crate) const HIDDEN: char = '.';

/// A folder that is being filled. Taken away when dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    _lock: File,
}

/// A lock on the folder of all kernels, which is made when it is not there.
pub(crate) fn gate(kernels: &Path, operation: FlockOperation) -> Result<File, KernelError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(kernels)
        .map_err(KernelError::io("make", kernels))?;
    let gate = File::open(kernels).map_err(KernelError::io("open", kernels))?;
    flock(&gate, operation).map_err(|errno| KernelError::io("lock", kernels)(errno.into()))?;
    Ok(gate)
}

impl Staging {
    /// Makes one, after taking away what dead processes have left.
    pub(crate) fn new(kernels: &Path) -> Result<Staging, KernelError> {
        if let Ok(_gate) = gate(kernels, FlockOperation::NonBlockingLockExclusive) {
            collect(kernels).map_err(KernelError::io("clear", kernels))?;
        }
        let _gate = gate(kernels, FlockOperation::LockShared)?;
        let folder = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(kernels)
            .map_err(KernelError::io("make a folder in", kernels))?;
        let path = folder.keep();
        let lock = File::open(&path).map_err(KernelError::io("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| KernelError::io("lock", &path)(errno.into()))?;
        Ok(Staging { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts what is in it to its place, durably; what was there goes.
    pub(crate) fn commit(self, place: &Path) -> Result<(), KernelError> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |source| KernelError::io("make", place)(source);
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // QEMU reads them, as a user of its own.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(failed)?;
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(KernelError::io("sync", &path))?;
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        let kernels = place
            .parent()
            .expect("a kernel is in the folder of all kernels");
        let gate = gate(kernels, FlockOperation::LockExclusive)?;
        let renamed = match renameat_with(CWD, &self.path, CWD, place, RenameFlags::NOREPLACE) {
            // What was there is then in our folder, and goes with it.
            Err(Errno::EXIST) => renameat_with(CWD, &self.path, CWD, place, RenameFlags::EXCHANGE),
            other => other,
        };
        renamed.map_err(|errno| failed(errno.into()))?;
        gate.sync_all().map_err(KernelError::io("sync", kernels))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is collected later; after a commit there may be nothing.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Takes away hidden folders that nobody has locked.
fn collect(kernels: &Path) -> io::Result<()> {
    for entry in fs::read_dir(kernels)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().first() == Some(&(HIDDEN as u8));
        if !is_hidden || !entry.file_type()?.is_dir() {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else {
            continue;
        };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
