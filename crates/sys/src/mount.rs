//! Attributes of mounts: mount_setattr(2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

/// Reading only.
pub const RDONLY: u64 = 0x1;
/// Set-user-id bits mean nothing.
pub const NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const NODEV: u64 = 0x4;
/// Nothing can be executed.
pub const NOEXEC: u64 = 0x8;
/// All bits that say how access times are kept.
pub const ATIME: u64 = 0x70;
/// Access times relative to the modification time; the absence of other [`ATIME`] bits.
pub const RELATIME: u64 = 0x0;
/// No access times.
pub const NOATIME: u64 = 0x10;
/// Always access times.
pub const STRICTATIME: u64 = 0x20;
/// No access times on directories.
pub const NODIRATIME: u64 = 0x80;
/// Ids are mapped as a user namespace says.
pub const IDMAP: u64 = 0x0010_0000;
/// Symbolic links are not followed.
pub const NOSYMFOLLOW: u64 = 0x0020_0000;

/// `MS_UNBINDABLE`
pub const UNBINDABLE: u64 = 1 << 17;
/// `MS_PRIVATE`
pub const PRIVATE: u64 = 1 << 18;
/// `MS_SLAVE`
pub const SLAVE: u64 = 1 << 19;
/// `MS_SHARED`
pub const SHARED: u64 = 1 << 20;

/// What to change about a mount. The same as `struct mount_attr` of linux/mount.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear. To set one of [`ATIME`], clear all of them.
    pub clear: u64,
    /// One of [`PRIVATE`], [`SLAVE`], [`SHARED`], [`UNBINDABLE`], or 0: as it is.
    pub propagation: u64,
    user_namespace: u64,
}

impl Attributes {
    /// Bits to set and to clear, and a propagation type.
    #[must_use]
    pub const fn new(set: u64, clear: u64, propagation: u64) -> Attributes {
        Attributes {
            set,
            clear,
            propagation,
            user_namespace: 0,
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// A file as a mount of its own, attached nowhere and read-only: whoever opens it cannot write it. Programs are
/// executed through it: a process inside a container could otherwise open one through `/proc/<pid>/exe` of a process
/// that was just put inside, and overwrite it (CVE-2019-5736). See open_tree(2).
///
/// # Errors
/// Without `CAP_SYS_ADMIN`, or when there is no such file.
pub fn read_only_clone(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, path, flags)?;
    set_attributes(tree.as_fd(), false, &Attributes::new(RDONLY, 0, 0))?;
    Ok(tree)
}

fn set(fd: i32, path: &CStr, recursive: bool, attributes: &Attributes) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path and the structure are valid for the call, and the size is the structure's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Changes the mount that a descriptor refers to, see mount_setattr(2).
///
/// # Errors
/// When the kernel refuses.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: &Attributes,
) -> io::Result<()> {
    set(mount.as_raw_fd(), c"", recursive, attributes)
}

/// Maps the ids of a mount that is attached nowhere as `user_namespace` does, see
/// mount_setattr(2), "ID-mapped mounts".
///
/// # Errors
/// When the file system cannot do it (`EINVAL`), or the mount is attached.
pub fn map_ids(
    mount: BorrowedFd<'_>,
    recursive: bool,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let attributes = Attributes {
        set: IDMAP,
        clear: 0,
        propagation: 0,
        // a descriptor is never negative
        user_namespace: user_namespace.as_raw_fd().unsigned_abs().into(),
    };
    set(mount.as_raw_fd(), c"", recursive, &attributes)
}

/// What overlayfs is told, besides where its layers are: options with a value, and flags. What layers mean must be the same to
/// everyone who reads them (no file without its data, no folder that stands for one of another name), whatever the options of
/// the kernel module; as Docker sets them.
///
/// In a user namespace the kernel's books are in attributes of users, since those of root cannot be written (Linux 5.11);
/// nothing is redirected then, and options that say so are refused.
/// <https://docs.kernel.org/filesystems/overlayfs.html#user-xattr>
#[must_use]
pub fn overlay_options() -> &'static [(&'static str, Option<&'static str>)] {
    match crate::features::is_in_user_namespace() {
        false => &[
            ("redirect_dir", Some("off")),
            ("metacopy", Some("off")),
            ("index", Some("off")),
        ],
        true => &[("userxattr", None), ("index", Some("off"))],
    }
}

/// The same as a text for mount(2), each behind a comma.
#[must_use]
pub fn overlay_options_text() -> String {
    overlay_options()
        .iter()
        .map(|(name, value)| match value {
            Some(value) => format!(",{name}={value}"),
            None => format!(",{name}"),
        })
        .collect()
}
