//! Where a keeper is (of a house, of the networks of a root): a folder with a lock that it holds as long as it lives, and
//! the socket that it listens on.
//!
//! Whoever finds the lock free and nobody listening takes the lock, listens, and starts a keeper that inherits both.
//! So there is never more than one, and connections that come while it starts wait for it in the socket's queue.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat, unlinkat};

const LOCK: &str = "lock";
const SOCKET: &str = "sock";
/// `sun_path` of unix(7), less the zero byte.
const LONGEST_ADDRESS: usize = 107;

/// The folder of a keeper.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// In this folder, which is made by whoever takes the lock and goes with the keeper.
    #[must_use]
    pub fn new(folder: PathBuf) -> Place {
        Place { folder }
    }

    /// Takes the lock; `None`: somebody has it.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn lock(&self) -> io::Result<Option<File>> {
        let path = self.folder.join(LOCK);
        let open = || {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600);
            options.open(&path)
        };
        loop {
            let file = match open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(&self.folder)?;
                    match open() {
                        // One that ends may have taken the folder away again.
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
            // A lock on a file that has been taken away is none.
            if file.metadata()?.nlink() > 0 {
                return Ok(Some(file));
            }
        }
    }

    /// Connects to whoever listens.
    ///
    /// # Errors
    /// `NotFound`, `ConnectionRefused`: nobody does.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (path, _held) = self.socket()?;
        UnixStream::connect(path)
    }

    /// Listens in place of a keeper that died. For the holder of the lock.
    ///
    /// # Errors
    /// As bind(2).
    pub fn listen(&self) -> io::Result<UnixListener> {
        self.unlink(SOCKET)?;
        let (path, _held) = self.socket()?;
        UnixListener::bind(path)
    }

    /// Takes all of it away. For the holder of the lock, which ends with it.
    ///
    /// # Errors
    /// What cannot be removed, and why.
    pub fn remove(&self) -> io::Result<()> {
        self.unlink(SOCKET)?;
        self.unlink(LOCK)?;
        match std::fs::remove_dir(&self.folder) {
            // The next one is here already.
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
            _ => Ok(()),
        }
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(CWD, self.folder.join(name), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The socket's path, through a descriptor where it is too long for an address.
    fn socket(&self) -> io::Result<(PathBuf, Option<OwnedFd>)> {
        let path = self.folder.join(SOCKET);
        if path.as_os_str().len() <= LONGEST_ADDRESS {
            return Ok((path, None));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = openat(CWD, &self.folder, flags, Mode::empty())?;
        let short = format!("/proc/self/fd/{}/{SOCKET}", held.as_fd().as_raw_fd());
        Ok((short.into(), Some(held)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lock_one_listener_and_nothing_left() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["short", &"long/".repeat(40)] {
            let place = Place::new(folder.path().join(name));
            assert_eq!(place.connect().unwrap_err().kind(), io::ErrorKind::NotFound);
            let lock = place.lock().unwrap().unwrap();
            assert!(place.lock().unwrap().is_none());
            let listener = place.listen().unwrap();
            place.connect().unwrap();
            drop(listener);
            // As after kill -9.
            drop(lock);
            let refused = place.connect().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let lock = place.lock().unwrap().unwrap();
            let _listener = place.listen().unwrap();
            place.connect().unwrap();
            place.remove().unwrap();
            assert!(!place.folder.exists());
            // Held still, but gone: the next one gets its own.
            let next = place.lock().unwrap().unwrap();
            drop((lock, next));
        }
    }
}
