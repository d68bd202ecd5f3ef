//! Numbers and records of the FUSE protocol, version 7, see `linux/fuse.h`. All little-endian here: the guest has
//! the byte order of the host.

use rustix::fs::{FileType, Statx};

/// The version that we speak.
pub(crate) const MAJOR: u32 = 7;
/// The last minor version whose records we know.
pub(crate) const MINOR: u32 = 38;
/// Before this one records had other sizes.
pub(crate) const OLDEST_MINOR: u32 = 31;

/// Bytes before a request.
pub(crate) const HEADER: usize = 40;
/// Bytes before a reply.
pub(crate) const REPLY_HEADER: usize = 16;
/// The most bytes of a file in one request or reply.
pub(crate) const MAX_DATA: usize = MAX_REQUEST - 4096;
/// The longest request: data, and room for names and headers.
pub(crate) const MAX_REQUEST: usize = isle_guest_protocol::MAX_SHARE_MESSAGE;
/// The longest value of an extended attribute, as the kernel has it.
pub(crate) const MAX_XATTR: usize = 64 << 10;

/// The node of the directory that all shares are in.
pub(crate) const ROOT: u64 = 1;

/// What a request asks for.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;
    pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
}

/// What the two ends agree upon at the beginning: `FUSE_INIT` flags.
pub(crate) mod init {
    const ASYNC_READ: u32 = 1 << 0;
    const POSIX_LOCKS: u32 = 1 << 1;
    const ATOMIC_O_TRUNC: u32 = 1 << 3;
    const BIG_WRITES: u32 = 1 << 5;
    const DONT_MASK: u32 = 1 << 6;
    const FLOCK_LOCKS: u32 = 1 << 10;
    const AUTO_INVAL_DATA: u32 = 1 << 12;
    const DO_READDIRPLUS: u32 = 1 << 13;
    const READDIRPLUS_AUTO: u32 = 1 << 14;
    const ASYNC_DIO: u32 = 1 << 15;
    const PARALLEL_DIROPS: u32 = 1 << 18;
    const POSIX_ACL: u32 = 1 << 20;
    const MAX_PAGES: u32 = 1 << 22;
    const HANDLE_KILLPRIV_V2: u32 = 1 << 28;

    /// What we want of what the guest's kernel offers.
    pub(crate) const WANTED: u32 = ASYNC_READ
        | POSIX_LOCKS
        | ATOMIC_O_TRUNC
        | BIG_WRITES
        | DONT_MASK
        | FLOCK_LOCKS
        | AUTO_INVAL_DATA
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | PARALLEL_DIROPS
        | POSIX_ACL
        | MAX_PAGES
        | HANDLE_KILLPRIV_V2;
}

/// `FOPEN_NOFLUSH`: closing needs no request.
pub(crate) const OPEN_WITHOUT_FLUSH: u32 = 1 << 5;
/// `FUSE_NOTIFY_INVAL_INODE`
pub(crate) const NOTIFY_INODE: i32 = 2;
/// `FUSE_NOTIFY_INVAL_ENTRY`
pub(crate) const NOTIFY_ENTRY: i32 = 3;

/// Appends the fields of records.
pub(crate) trait Put {
    /// 16 bits.
    fn put_u16(&mut self, value: u16);
    /// 32 bits.
    fn put_u32(&mut self, value: u32);
    /// 64 bits.
    fn put_u64(&mut self, value: u64);
    /// `struct fuse_attr`
    fn put_attributes(&mut self, inode: u64, statx: &Statx);
    /// The header of `struct fuse_dirent`, the name, and what is missing to eight bytes.
    fn put_dirent(&mut self, inode: u64, offset: u64, kind: FileType, name: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_attributes(&mut self, inode: u64, statx: &Statx) {
        self.put_u64(inode);
        self.put_u64(statx.stx_size);
        self.put_u64(statx.stx_blocks);
        for time in [&statx.stx_atime, &statx.stx_mtime, &statx.stx_ctime] {
            self.put_u64(time.tv_sec.cast_unsigned());
        }
        for time in [&statx.stx_atime, &statx.stx_mtime, &statx.stx_ctime] {
            self.put_u32(time.tv_nsec);
        }
        self.put_u32(statx.stx_mode.into());
        self.put_u32(statx.stx_nlink);
        self.put_u32(statx.stx_uid);
        self.put_u32(statx.stx_gid);
        self.put_u32(device_number(statx.stx_rdev_major, statx.stx_rdev_minor));
        self.put_u32(statx.stx_blksize);
        self.put_u32(0);
    }

    fn put_dirent(&mut self, inode: u64, offset: u64, kind: FileType, name: &[u8]) {
        self.put_u64(inode);
        self.put_u64(offset);
        // Names in a directory are at most 255 bytes long.
        self.put_u32(name.len() as u32);
        self.put_u32(kind.as_raw_mode() >> 12);
        self.extend_from_slice(name);
        self.resize(self.len() + padding(name.len()), 0);
    }
}

/// What is missing to a multiple of eight.
pub(crate) fn padding(length: usize) -> usize {
    length.wrapping_neg() % 8
}

/// The kernel's own encoding of a device number in 32 bits (`new_encode_dev`).
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// The opposite of [`device_number`], as mknod(2) takes it.
pub(crate) fn device(encoded: u32) -> u64 {
    let major = (encoded >> 8) & 0xfff;
    let minor = (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00);
    rustix::fs::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_go_there_and_back() {
        for (major, minor) in [(1, 3), (8, 0), (259, 70_000), (0xfff, 0xf_ffff)] {
            let made = rustix::fs::makedev(major, minor);
            assert_eq!(device(device_number(major, minor)), made);
        }
    }

    #[test]
    fn records_have_the_sizes_of_the_kernel_header() {
        let mut bytes = Vec::new();
        let here = rustix::fs::statx(
            rustix::fs::CWD,
            ".",
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::BASIC_STATS,
        );
        bytes.put_attributes(1, &here.unwrap());
        assert_eq!(bytes.len(), 88);
        bytes.clear();
        bytes.put_dirent(1, 1, FileType::Directory, b"name");
        assert_eq!(bytes.len(), 32);
    }
}
