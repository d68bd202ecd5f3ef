//! The sockets of a machine, by which a later supervisor finds it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::start::{StartError, prepare};

pub(crate) fn port_socket(name: &str) -> String {
    format!("port-{name}.sock")
}

/// The folder of a machine's sockets. A socket's address has room for 107 bytes: it is named below a
/// descriptor.
pub(crate) struct Sockets {
    directory: OwnedFd,
    path: PathBuf,
}

impl Sockets {
    pub(crate) fn open(path: &Path) -> Result<Sockets, StartError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(io::Error::from)
            .map_err(prepare(format!("open {}", path.display())))?;
        Ok(Sockets {
            directory,
            path: path.to_owned(),
        })
    }

    fn address(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()).into()
    }

    pub(crate) fn listening(&mut self, name: &str) -> Result<UnixListener, StartError> {
        let address = self.address(name);
        let bind = || match UnixListener::bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                fs::remove_file(&address)?;
                UnixListener::bind(&address)
            }
            result => result,
        };
        let what = || format!("listen on {}", self.path.join(name).display());
        bind().map_err(|source| StartError::Prepare {
            what: what(),
            source,
        })
    }

    pub(crate) fn connect(&self, name: &str) -> io::Result<UnixStream> {
        UnixStream::connect(self.address(name))
    }

    /// With its first client.
    pub(crate) fn connected(
        &mut self,
        name: &str,
    ) -> Result<(UnixListener, UnixStream), StartError> {
        let listening = self.listening(name)?;
        let what = format!("connect to {}", self.path.join(name).display());
        let client = self.connect(name).map_err(prepare(what))?;
        Ok((listening, client))
    }

    /// Gives all of them to another folder of the same file system. What is connected stays connected.
    pub(crate) fn move_to(&self, other: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if let Some(name) = path.file_name()
                && path
                    .extension()
                    .is_some_and(|extension| extension == "sock")
            {
                fs::rename(&path, other.join(name))?;
            }
        }
        Ok(())
    }
}
