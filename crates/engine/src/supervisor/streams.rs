//! The standard streams of the instance: where its output comes out and its input goes in.
//!
//! Output goes through two FIFOs in the run directory, not through pipes. The instance holds them
//! open for reading as well as for writing. So when its supervisor is killed, a write of the
//! instance does not end it with SIGPIPE: it goes into the FIFO, and waits once the FIFO is full;
//! and a new supervisor opens the FIFO by its name and reads on where the other one has stopped.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mknodat, openat, unlinkat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// The FIFO of standard output.
pub(super) const STDOUT: &str = "stdout";
/// The FIFO of standard error.
pub(super) const STDERR: &str = "stderr";

/// Standard input may have so much waiting before its senders have to wait.
pub(super) const STDIN_HIGH: usize = 64 << 10;

/// Makes a FIFO in a directory, in place of one that is there, and opens both ends: the
/// supervisor's, which does not block, and the instance's.
pub(super) fn make_fifo(directory: &Path, name: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let path = directory.join(name);
    remove(directory, name)?;
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &path, FileType::Fifo, mode, 0)?;
    open_fifo(directory, name)
}

/// Opens both ends of a FIFO that is there.
pub(super) fn open_fifo(directory: &Path, name: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let path = directory.join(name);
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let ours = openat(
        CWD,
        &path,
        OFlags::RDONLY | OFlags::NONBLOCK | flags,
        Mode::empty(),
    )?;
    let theirs = openat(CWD, &path, OFlags::RDWR | flags, Mode::empty())?;
    Ok((ours, theirs))
}

/// Takes a file of the run directory away. Harmless when it is not there.
pub(super) fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match unlinkat(CWD, directory.join(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `/dev/null`, for reading and writing.
pub(super) fn null() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, "/dev/null", flags, Mode::empty())?)
}

/// A pipe; our end (the reading one when `is_output`) does not block.
pub(super) fn pipe(is_output: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (ours, theirs) = match is_output {
        true => (reader, writer),
        false => (writer, reader),
    };
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// What a read from a stream has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing at the moment.
    Nothing,
    /// Its end.
    End,
}

/// Reads from a stream that does not block.
pub(super) fn read(fd: impl AsFd, buffer: &mut [u8]) -> Got {
    loop {
        match rustix::io::read(&fd, &mut *buffer) {
            Ok(0) => return Got::End,
            Ok(count) => return Got::Bytes(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Got::Nothing,
            // EIO: nobody has the terminal open any more.
            Err(_) => return Got::End,
        }
    }
}

/// The instance's standard input, and what waits for it.
#[derive(Debug)]
pub(super) struct Stdin {
    fd: Option<OwnedFd>,
    pending: VecDeque<u8>,
    close_when_empty: bool,
    /// Has the poller been told to say when it takes more?
    pub(super) is_watched: bool,
}

impl Stdin {
    /// Input through a descriptor that does not block; `None`: there is none.
    pub(super) fn new(fd: Option<OwnedFd>) -> Stdin {
        Stdin {
            fd,
            pending: VecDeque::new(),
            close_when_empty: false,
            is_watched: false,
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Takes bytes for it. What comes after its end is thrown away, as a shell's pipe does.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.fd.is_some() && !self.close_when_empty {
            self.pending.extend(bytes);
        }
    }

    /// Ends it once everything that waits was taken.
    pub(super) fn close(&mut self) {
        self.close_when_empty = true;
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() > STDIN_HIGH
    }

    /// Does it wait for the instance to read?
    pub(super) fn is_waiting(&self) -> bool {
        self.fd.is_some() && !self.pending.is_empty()
    }

    /// Hands over what the instance takes at the moment. A descriptor that comes back is to be
    /// taken from the poller and closed: the input is over.
    #[must_use]
    pub(super) fn flush(&mut self) -> Option<OwnedFd> {
        while let (Some(fd), false) = (&self.fd, self.pending.is_empty()) {
            match rustix::io::write(fd, self.pending.as_slices().0) {
                Ok(count) => {
                    self.pending.drain(..count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => {
                    // The instance has closed it.
                    self.pending = VecDeque::new();
                    return self.fd.take();
                }
            }
        }
        if self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
        }
        match self.close_when_empty {
            true => self.fd.take(),
            false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_outlives_its_reader_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = make_fifo(folder.path(), STDOUT).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(read(&ours, &mut buffer), Got::Nothing);
        rustix::io::write(&theirs, b"one").unwrap();
        assert_eq!(read(&ours, &mut buffer), Got::Bytes(3));
        drop(ours);
        rustix::io::write(&theirs, b"two").unwrap();
        let (ours, further) = open_fifo(folder.path(), STDOUT).unwrap();
        drop((theirs, further));
        assert_eq!(read(&ours, &mut buffer), Got::Bytes(3));
        assert_eq!(&buffer[..3], b"two");
        assert_eq!(read(&ours, &mut buffer), Got::End);
    }

    #[test]
    fn input_waits_for_the_instance_and_ends_after_the_last_byte() {
        let (ours, theirs) = pipe(false).unwrap();
        let mut stdin = Stdin::new(Some(ours));
        stdin.push(&[b'x'; 100_000]);
        stdin.close();
        stdin.push(b"too late");
        assert!(stdin.flush().is_none());
        assert!(stdin.is_waiting());
        let mut received = 0;
        let mut buffer = [0; 8192];
        loop {
            match read(&theirs, &mut buffer) {
                Got::Bytes(count) => received += count,
                Got::End => break,
                Got::Nothing => unreachable!("this end blocks"),
            }
            drop(stdin.flush());
        }
        assert_eq!(received, 100_000);
    }

    #[test]
    fn input_that_nobody_reads_is_given_up() {
        let (ours, theirs) = pipe(false).unwrap();
        let mut stdin = Stdin::new(Some(ours));
        drop(theirs);
        stdin.push(b"lost");
        assert!(stdin.flush().is_some());
        assert!(!stdin.is_waiting());
    }
}
