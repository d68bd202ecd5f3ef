//! Where the store keeps its files, and who is at work there.
//!
//! ```text
//! <root>/blobs/sha256/<hex>   compressed layers, manifests, configurations; complete and synced
//! <root>/layers/<random>/     unpacked layers in overlayfs format
//! <root>/block-images/<random> images as disks for virtual machines
//! <root>/tmp/<random>/        the workspace of one operation; its process holds a lock on it
//! <root>/tmp/partial/<hex>    downloads that broke off and may go on
//! ```

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::{Algorithm, Digest};
use crate::failpoint;
use isle_archive::removal;

/// The open folders of one store.
#[derive(Debug)]
pub(crate) struct Folders {
    pub(crate) path: PathBuf,
    blobs_sha256: OwnedFd,
    blobs_sha512: OwnedFd,
    pub(crate) layers: OwnedFd,
    pub(crate) block_images: OwnedFd,
    pub(crate) tmp: OwnedFd,
    pub(crate) partial: OwnedFd,
}

pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Folders {
    /// Opens them; makes them the first time. Others must not look into them: layers hold setuid
    /// programs.
    pub(crate) fn open(path: &Path) -> io::Result<Folders> {
        let open = || -> rustix::io::Result<Folders> {
            let under = |name: &str| {
                rustix::fs::openat(rustix::fs::CWD, path.join(name), DIRECTORY, Mode::empty())
            };
            Ok(Folders {
                path: path.to_owned(),
                blobs_sha256: under("blobs/sha256")?,
                blobs_sha512: under("blobs/sha512")?,
                layers: under("layers")?,
                block_images: under("block-images")?,
                partial: under("tmp/partial")?,
                tmp: under("tmp")?,
            })
        };
        match open() {
            Ok(folders) => return Ok(folders),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        use std::os::unix::fs::DirBuilderExt as _;
        for name in [
            "blobs/sha256",
            "blobs/sha512",
            "layers",
            "block-images",
            "tmp/partial",
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path.join(name))?;
        }
        let folders = open()?;
        // A name in a new folder lasts only when the folders above it do.
        for name in ["", "blobs", "tmp"] {
            std::fs::File::open(path.join(name))?.sync_all()?;
        }
        Ok(folders)
    }

    pub(crate) const fn blobs(&self, algorithm: Algorithm) -> &OwnedFd {
        match algorithm {
            Algorithm::Sha256 => &self.blobs_sha256,
            Algorithm::Sha512 => &self.blobs_sha512,
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let algorithm = digest.algorithm().as_str();
        self.path.join("blobs").join(algorithm).join(digest.hex())
    }

    pub(crate) fn layer_path(&self, directory: &str) -> PathBuf {
        self.path.join("layers").join(directory)
    }

    pub(crate) fn block_image_path(&self, file: &str) -> PathBuf {
        self.path.join("block-images").join(file)
    }

    /// Makes a workspace of this process's own.
    pub(crate) fn workspace(self: &Arc<Self>) -> io::Result<Workspace> {
        failpoint::hit("make-workspace")?;
        let name = random_name();
        let c_name = CString::new(&*name).expect("hexadecimal digits");
        // Whoever collects takes this lock alone; it must not see a folder that has no lock yet.
        let gate = self.gate()?;
        rustix::fs::flock(&gate, FlockOperation::LockShared)?;
        rustix::fs::mkdirat(&self.tmp, &c_name, Mode::RWXU)?;
        let fd = rustix::fs::openat(&self.tmp, &c_name, DIRECTORY, Mode::empty())?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Workspace {
            folders: Arc::clone(self),
            name,
            fd,
        })
    }

    /// The names of workspaces whose process is gone; they stay locked while the guards live.
    pub(crate) fn dead_workspaces(&self) -> io::Result<Vec<DeadWorkspace>> {
        let gate = self.gate()?;
        match rustix::fs::flock(&gate, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Another one collects, or a workspace is being made: the next one will see to it.
            Err(Errno::WOULDBLOCK) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let mut dead = Vec::new();
        for entry in Dir::read_from(&self.tmp)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b".." | b"partial") {
                continue;
            }
            if entry.file_type() != FileType::Directory {
                removal::remove(self.tmp.as_fd(), name)?;
                continue;
            }
            let fd = match rustix::fs::openat(&self.tmp, name, DIRECTORY, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let name = name.to_owned();
                dead.push(DeadWorkspace { name, _lock: fd });
            }
        }
        Ok(dead)
    }

    fn gate(&self) -> io::Result<OwnedFd> {
        // A lock belongs to the open file, so each one who locks opens anew.
        Ok(rustix::fs::openat(
            &self.tmp,
            ".",
            DIRECTORY,
            Mode::empty(),
        )?)
    }
}

/// A workspace that nobody works in.
#[derive(Debug)]
pub(crate) struct DeadWorkspace {
    pub(crate) name: CString,
    _lock: OwnedFd,
}

/// A folder under `tmp` that one operation works in. Removed when dropped; when the process dies
/// first, its lock goes with it and any later operation removes it.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) folders: Arc<Folders>,
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
}

impl Workspace {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folders.path.join("tmp").join(&self.name)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let name = CString::new(&*self.name).expect("hexadecimal digits");
        // What cannot be removed now is collected later.
        let _ = removal::remove(self.folders.tmp.as_fd(), &name);
    }
}

/// 128 random bits as text.
pub(crate) fn random_name() -> String {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => panic!("getrandom(2) cannot fail on Linux: {errno}"),
        }
    }
    format!("{:032x}", u128::from_ne_bytes(bytes))
}
