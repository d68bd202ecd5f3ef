//! The runtime's own program file, which a container must never write to (CVE-2019-5736).
//!
//! A container can make the runtime execute its own file again, inside, by naming `/proc/self/exe`
//! as its program, and can reach the file through `/proc/<pid>/exe` of a process that enters it.
//! So the runtime is executed from a read-only mount that is attached nowhere: the same file, by
//! another mount that nobody can make writable again.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;

use isle_sys::mount::{self, Attributes};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::OpenTreeFlags;

const OWN: &str = "/proc/self/exe";

/// The variable with the path of a program that [`execute_read_only`] has executed again.
pub const PLACE: &str = "ISLE_PROGRAM";

/// Whether this process runs from a read-only mount.
///
/// # Errors
/// When `/proc` is not there.
pub fn is_read_only() -> io::Result<bool> {
    let file = rustix::fs::openat(CWD, OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fstatvfs(&file)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY))
}

/// A program file on a read-only mount that is attached nowhere; execute `/proc/self/fd/<number>`.
///
/// # Errors
/// When the file is not there or the caller may not mount.
pub fn open_read_only(program: &Path) -> io::Result<OwnedFd> {
    let file = rustix::mount::open_tree(
        CWD,
        program,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    mount::set_attributes(
        file.as_fd(),
        false,
        &Attributes::new(mount::RDONLY, 0, mount::PRIVATE),
    )?;
    Ok(file)
}

/// Executes this program again from a read-only mount, unless it runs from one. Call it first.
///
/// # Errors
/// When that cannot be done: the caller must not go on then.
pub fn execute_read_only() -> io::Result<()> {
    if is_read_only()? {
        return Ok(());
    }
    let file = open_read_only(Path::new(OWN))?;
    // By the name of a descriptor it would not find the programs that come with it.
    let path = std::fs::read_link(OWN)?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("isle"));
    Err(
        std::process::Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .arg0(name)
            .args(arguments)
            .env(PLACE, path)
            .exec(),
    )
}
