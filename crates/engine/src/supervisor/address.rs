//! Where a supervisor listens: the socket `sock` in the instance's run directory.
//!
//! The address of a Unix socket has room for 107 bytes, and a run directory below a long `--root`
//! has more. So both ends name the socket through a descriptor of its directory, in `/proc`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};

const NAME: &str = "sock";
/// `sun_path` of unix(7), less the zero byte.
const LONGEST_ADDRESS: usize = 107;

/// Connects to the supervisor that listens in a directory.
pub(crate) fn connect(directory: &Path) -> io::Result<UnixStream> {
    let (path, _held) = short(directory)?;
    UnixStream::connect(path)
}

/// Listens in a directory, in place of whoever did before.
pub(super) fn listen(directory: &Path) -> io::Result<UnixListener> {
    remove(directory)?;
    let (path, _held) = short(directory)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes the socket away.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    match unlinkat(CWD, directory.join(NAME), AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn short(directory: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let path = directory.join(NAME);
    if path.as_os_str().len() <= LONGEST_ADDRESS {
        return Ok((path, None));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = openat(CWD, directory, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{NAME}", held.as_raw_fd());
    Ok((path.into(), Some(held)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_long_name_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["short", &"long/".repeat(40)] {
            let directory = folder.path().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            assert_eq!(
                connect(&directory).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            let listener = listen(&directory).unwrap();
            connect(&directory).unwrap();
            drop(listener);
            assert_eq!(
                connect(&directory).unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
            drop(listen(&directory).unwrap());
            remove(&directory).unwrap();
        }
    }
}
