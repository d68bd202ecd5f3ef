//! Limits of how much the files of one project hold: project quotas of ext4 and xfs.
//!
//! A folder and all that is made below it belong to a project; the file system counts what a
//! project holds, and fails with `EDQUOT` what would exceed its limit. See quotactl(2),
//! "Project quotas", and ioctl_xfs_fsgetxattr(2), which ext4 has as well.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `struct fsxattr` of linux/fs.h.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct FileAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_on_write_extent_size: u32,
    padding: [u8; 8],
}

const GET: libc::c_ulong = 0x801c_581f;
const SET: libc::c_ulong = 0x401c_5820;
/// What is made below belongs to the same project.
const INHERIT: u32 = 0x200;

fn attributes(file: BorrowedFd<'_>) -> io::Result<FileAttributes> {
    let mut attributes = FileAttributes::default();
    // SAFETY: the kernel writes one structure of this size, which lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GET, &raw mut attributes) };
    match result {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The project of a file or folder; 0 is none. See `FS_IOC_FSGETXATTR`.
///
/// # Errors
/// `ENOTTY` when the file system has no such attributes.
pub fn project(file: impl AsFd) -> io::Result<u32> {
    Ok(attributes(file.as_fd())?.project)
}

/// Puts a folder, and what will be made below it, into a project. See `FS_IOC_FSSETXATTR`.
///
/// # Errors
/// `EOPNOTSUPP` or `ENOTTY` when the file system has no projects.
pub fn set_project(folder: impl AsFd, project: u32) -> io::Result<()> {
    let folder = folder.as_fd();
    let mut wanted = attributes(folder)?;
    wanted.project = project;
    wanted.flags |= INHERIT;
    // SAFETY: the kernel reads one structure of this size, which lives through the call.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), SET, &raw const wanted) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a project holds, and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub bytes: u64,
    /// The most bytes; 0 without limit.
    pub limit_bytes: u64,
}

const PROJECTS: i32 = 2;
const GET_STATE: i32 = 0x5805;
/// `FS_QUOTA_PDQ_ENFD` of linux/dqblk_xfs.h.
const PROJECT_LIMITS_ENFORCED: u16 = 1 << 5;
const GET_QUOTA: i32 = 0x80_0007;
const SET_QUOTA: i32 = 0x80_0008;
/// `QIF_BLIMITS`: only the limits of space are set.
const SPACE_LIMITS: u32 = 1;
/// Limits are counted in blocks of this size.
const BLOCK_BYTES: u64 = 1024;

/// `struct if_dqblk` of linux/quota.h.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Block {
    hard_limit_blocks: u64,
    soft_limit_blocks: u64,
    bytes: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    inodes: u64,
    grace: u64,
    inode_grace: u64,
    valid: u32,
}

fn quota<T>(folder: BorrowedFd<'_>, command: i32, project: u32, data: &mut T) -> io::Result<()> {
    // SAFETY: the kernel reads or writes one structure, which each caller gives as large as the
    // command has it, or larger; it lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            folder.as_raw_fd(),
            (command << 8) | PROJECTS,
            project,
            std::ptr::from_mut(data),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the folder's file system refuses what would exceed a project's limit. See `Q_XGETQSTAT`.
#[must_use]
pub fn is_enforced(folder: impl AsFd) -> bool {
    // `struct fs_quota_stat` has 80 bytes; its flags are the second number of 16 bits.
    let mut state = [0_u16; 64];
    quota(folder.as_fd(), GET_STATE, 0, &mut state).is_ok()
        && state[1] & PROJECT_LIMITS_ENFORCED != 0
}

/// What a project of the folder's file system holds. See `Q_GETQUOTA`.
///
/// # Errors
/// `ESRCH` when the file system counts no projects, `ENOSYS` before Linux 5.14.
pub fn usage(folder: impl AsFd, project: u32) -> io::Result<Usage> {
    let mut block = Block::default();
    quota(folder.as_fd(), GET_QUOTA, project, &mut block)?;
    Ok(Usage {
        bytes: block.bytes,
        limit_bytes: block.hard_limit_blocks.saturating_mul(BLOCK_BYTES),
    })
}

/// Limits what a project may hold, rounded up to 1024 bytes; 0 takes the limit away. See
/// `Q_SETQUOTA`.
///
/// # Errors
/// As [`usage`]; `EPERM` without `CAP_SYS_ADMIN`.
pub fn set_limit(folder: impl AsFd, project: u32, bytes: u64) -> io::Result<()> {
    let mut block = Block {
        hard_limit_blocks: bytes.div_ceil(BLOCK_BYTES),
        valid: SPACE_LIMITS,
        ..Block::default()
    };
    quota(folder.as_fd(), SET_QUOTA, project, &mut block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!(size_of::<FileAttributes>(), 28);
        assert_eq!(size_of::<Block>(), 72);
    }

    #[test]
    fn a_file_system_without_projects_says_so() {
        let proc = std::fs::File::open("/proc").unwrap();
        project(&proc).unwrap_err();
        set_project(&proc, 1).unwrap_err();
        assert!(!is_enforced(&proc));
        usage(&proc, 1).unwrap_err();
        set_limit(&proc, 1, 1).unwrap_err();
    }
}
