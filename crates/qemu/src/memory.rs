//! How a clone gets its template's memory, and why it cannot change it.
//!
//! QEMU opens `memory-backend-file` for reading and writing, even when it maps it privately
//! (`share=off`), and when a guest gives pages back (balloon, free page reporting) it punches holes
//! into the file: into the memory of all other clones. So it is not given the file. Its open is
//! stopped by a seccomp filter and answered by whoever starts it, with a descriptor that can only be
//! read: the kernel refuses every write to it, whatever QEMU, or who has taken it over, tries. The
//! call that punches holes "succeeds" for this descriptor without doing anything, and QEMU then
//! drops its private copies of the pages (`MADV_DONTNEED`), which is all that there is to give back.
//!
//! docs/decisions/0011-templates.md has what else was tried.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use isle_sys::seccomp_notify::{self, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::arguments::MEMORY;
use crate::confinement::MEMORY_DESCRIPTOR;

/// Why QEMU did not get its memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It has ended before it asked.
    #[error("QEMU ended before it opened its memory")]
    Ended,
    /// It did not ask in time.
    #[error("QEMU did not open its memory in time")]
    Timeout,
    /// The kernel refuses.
    #[error("cannot give QEMU its memory")]
    Io(#[source] io::Error),
}

/// Waits until QEMU opens its memory and gives it `file`. Every later open of this kind fails
/// (`ENOSYS`) once the listener is closed, since nobody answers it any more.
///
/// # Errors
/// [`MemoryError`]
pub(crate) fn give(
    listener: BorrowedFd<'_>,
    pidfd: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<(), MemoryError> {
    let io = |errno: rustix::io::Errno| MemoryError::Io(errno.into());
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
        ];
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| MemoryError::Timeout)?;
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(io(errno)),
            Ok(0) => return Err(MemoryError::Timeout),
            Ok(_) => {}
        }
        let [asked, ended] = fds.map(|fd| fd.revents());
        if !ended.is_empty() {
            return Err(MemoryError::Ended);
        }
        if asked.is_empty() {
            continue;
        }
        let request = match seccomp_notify::receive(listener) {
            Ok(request) => request,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(MemoryError::Io(error)),
        };
        let is_memory = asks_for(&request, MEMORY);
        let answered = match is_memory {
            Ok(true) => {
                seccomp_notify::answer_with_descriptor(listener, &request, file, MEMORY_DESCRIPTOR)
            }
            // No guest runs yet, so nobody deceives.
            Ok(false) => match seccomp_notify::carry_out(listener, &request) {
                Ok(()) => continue,
                error => error,
            },
            Err(error) => Err(error),
        };
        return match answered {
            Ok(()) => Ok(()),
            Err(error) if is_gone(&error) => Err(MemoryError::Ended),
            Err(error) => Err(MemoryError::Io(error)),
        };
    }
}

/// Whether the path that an openat(2) is about is this one.
fn asks_for(request: &Request, path: &str) -> io::Result<bool> {
    let memory = File::open(format!("/proc/{}/mem", request.pid))?;
    let mut bytes = vec![0; path.len() + 1];
    let [_, address, ..] = request.arguments;
    let count = memory.read_at(&mut bytes, address)?;
    Ok(bytes.get(..count) == Some([path.as_bytes(), b"\0"].concat().as_slice()))
}

/// `ENOENT`: who asked does not wait any more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::confinement::Identity;
    use crate::file_identity::digest_of;
    use crate::process::{self, Ended, Guard, Request};

    #[test]
    fn who_has_taken_a_qemu_over_cannot_change_the_memory_of_others() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: QEMU is confined by root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let hostile = folder.path().join("hostile");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/hostile.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-o"]).args([&hostile, &source]);
        assert!(compiler.status().unwrap().success());
        let path = folder.path().join("memory");
        std::fs::write(&path, vec![7_u8; 4 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        let before = digest_of(&file).unwrap();

        let request = Request {
            program: &hostile.canonicalize().unwrap(),
            arguments: &[],
            identity: Identity::of_name("hostile"),
            cgroup: None,
            descriptors: Vec::new(),
            files: Vec::new(),
            needs_kvm: false,
            has_memory_file: true,
            dies_with_parent: true,
            vcpus: 1,
        };
        let (process, listener) = process::start(request).unwrap();
        let guard = Guard(Some(process));
        let process = guard.0.as_ref().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let listener = listener.unwrap();
        give(
            listener.as_fd(),
            process.pidfd.as_fd(),
            file.as_fd(),
            deadline,
        )
        .unwrap();
        drop(listener);
        let ended = guard.keep();
        assert_eq!(
            (ended.reap().unwrap(), ended.said()),
            (Some(Ended::Code(0)), String::new())
        );
        assert_eq!(digest_of(&file).unwrap(), before);
        assert_eq!(file.metadata().unwrap().len(), 4 << 20);
    }
}
