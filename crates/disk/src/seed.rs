//! Formatted disks that others are copied from, one a size.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use isle_types::ByteSize;

use crate::copy_sparse;
use crate::size::{MAXIMUM, MINIMUM, rounded};

/// The directory of a new disk that is an overlay's `upperdir`; mode 0755.
pub const UPPER: &str = "upper";
/// The directory of a new disk that is an overlay's `workdir`; mode 0700.
pub const WORK: &str = "work";

const PROGRAM: &str = "mke2fs";

/// Part of a seed's name: grows when seeds are made in another way.
const RECIPE: u32 = 1;

/// All features are named, so that no configuration file of the host changes them.
///
/// `uninit_bg` lets group descriptors say "nothing here yet" instead of writing bitmaps; `sparse_super2`
/// without backups writes no copies of what a new copy of the seed has anyway. No `metadata_csum`: it costs
/// at every change, and below is a file of the host, not a disk that forgets.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super2,\
                        large_file,huge_file,dir_nlink,extra_isize,uninit_bg";

/// The formatted disks below one state root.
#[derive(Clone, Debug)]
pub struct Seeds {
    folder: PathBuf,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// Too small or too large.
    #[error("cannot make a disk of {size}: it must have between {MINIMUM} and {MAXIMUM}")]
    Size {
        /// The size asked for.
        size: ByteSize,
    },
    /// The program that formats is not installed.
    #[error("cannot format a disk: {PROGRAM} is not installed")]
    NoProgram,
    /// It ended badly.
    #[error("cannot format a disk of {size}: {PROGRAM} ended with {status}: {said}")]
    Format {
        /// The size of the disk.
        size: ByteSize,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Its last line.
        said: String,
    },
    /// A file.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SeedError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            SeedError::Size { .. } => Some("give another size: --storage-opt size=20g".to_owned()),
            SeedError::NoProgram => Some("install it: apt install e2fsprogs".to_owned()),
            SeedError::Format { .. } => None,
            SeedError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("the disk is full: `isle system df` shows what takes room".to_owned())
                }
                // ext4 itself ends at 16 TiB for one file.
                io::ErrorKind::FileTooLarge => {
                    Some("give a smaller size: --storage-opt size=1t".to_owned())
                }
                io::ErrorKind::PermissionDenied => Some("run it as root".to_owned()),
                _ => None,
            },
        }
    }

    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SeedError {
        let path = path.to_owned();
        move |source| SeedError::Io {
            operation,
            path,
            source,
        }
    }
}

/// Makes a disk that is equal to another one, with mode 0600. Moves the offset of `from`.
///
/// # Errors
/// [`SeedError`]; also when the file is there. Nothing is left then.
pub fn copy_disk(from: &File, path: &Path) -> Result<File, SeedError> {
    let disk = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(SeedError::io("make", path))?;
    match copy_sparse(from, &disk) {
        Ok(_) => Ok(disk),
        Err(error) => {
            // What is left of it is no disk; the copy's own error is the one to tell.
            let _ = fs::remove_file(path);
            Err(SeedError::io("write", path)(error))
        }
    }
}

impl Seeds {
    /// The seeds below a state root. Makes nothing yet.
    #[must_use]
    pub fn new(root: &Path) -> Seeds {
        Seeds {
            folder: root.join("disk-seeds"),
        }
    }

    /// Makes a disk: a new file of this size (rounded up to a mebibyte) with an empty file system, mode 0600.
    /// Not synced: a disk is made when its instance is.
    ///
    /// # Errors
    /// [`SeedError`]; also when the file is there. Nothing is left then.
    pub fn make_disk(&self, size: ByteSize, path: &Path) -> Result<File, SeedError> {
        let seed = self.seed(size)?;
        let from = File::open(&seed).map_err(SeedError::io("open", &seed))?;
        copy_disk(&from, path)
    }

    /// The seed of a size; formatted now when it is not there, which takes some 10 ms. Several processes may
    /// do so at the same time.
    ///
    /// # Errors
    /// [`SeedError`].
    pub fn seed(&self, size: ByteSize) -> Result<PathBuf, SeedError> {
        let size = rounded(size).ok_or(SeedError::Size { size })?;
        let bytes = size.bytes();
        let path = self.folder.join(format!("ext4-{RECIPE}-{bytes}"));
        if fs::symlink_metadata(&path).is_ok_and(|file| file.is_file() && file.len() == bytes) {
            return Ok(path);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(SeedError::io("make", &self.folder))?;
        self.format(size, &path)?;
        Ok(path)
    }

    fn format(&self, size: ByteSize, path: &Path) -> Result<(), SeedError> {
        let work = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&self.folder)
            .map_err(SeedError::io("make a folder in", &self.folder))?;
        let content = work.path().join("content");
        for (name, mode) in [("", 0o755), (UPPER, 0o755), (WORK, 0o700)] {
            let folder = content.join(name);
            DirBuilder::new()
                .mode(mode)
                .create(&folder)
                .map_err(SeedError::io("make", &folder))?;
        }
        let new = work.path().join("disk");
        let file = File::create_new(&new).map_err(SeedError::io("make", &new))?;
        file.set_len(size.bytes())
            .map_err(SeedError::io("make", &new))?;
        let output = Command::new(PROGRAM)
            .args(["-q", "-F", "-t", "ext4", "-O", FEATURES])
            // A block and an inode as they are by default; nothing is kept back for root, who is everybody.
            .args(["-b", "4096", "-I", "256", "-m", "0"])
            // Bitmaps and inode tables of so many groups lie together.
            .args(["-G", "1024"])
            .args(["-J", &format!("size={}", journal_megabytes(size))])
            // A hole reads as zeros: `discard` on a file is what makes mke2fs say in the file system that its
            // inode tables are zero already. Else the guest would write them all, bit by bit.
            .args([
                "-E",
                "discard,lazy_itable_init=0,lazy_journal_init=1,num_backup_sb=0",
            ])
            .arg("-d")
            .arg(&content)
            .arg(&new)
            .env("PATH", path_with_sbin())
            .env("MKE2FS_CONFIG", "/dev/null")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => SeedError::NoProgram,
                _ => SeedError::io("run", Path::new(PROGRAM))(error),
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(SeedError::Format {
                size,
                status: output.status,
                said: said.lines().last().unwrap_or_default().trim().to_owned(),
            });
        }
        file.sync_all().map_err(SeedError::io("sync", &new))?;
        fs::rename(&new, path).map_err(SeedError::io("make", path))?;
        Ok(())
    }
}

/// A journal is written in a circle, and what it does not fill is a hole.
fn journal_megabytes(size: ByteSize) -> u64 {
    match size.bytes() >> 20 {
        ..256 => 4,
        256..2048 => 16,
        _ => 32,
    }
}

fn path_with_sbin() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn fsck(disk: &Path) -> bool {
        Command::new("e2fsck")
            .args(["-f", "-n"])
            .arg(disk)
            .env("PATH", path_with_sbin())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    #[test]
    fn a_disk_is_sound_and_takes_next_to_no_room() {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let seeds = Seeds::new(root.path());
        for size in [MINIMUM, ByteSize(300 << 20), ByteSize(64 << 30)] {
            let path = root.path().join(format!("disk-{}", size.bytes()));
            let disk = seeds.make_disk(size, &path).unwrap();
            let metadata = disk.metadata().unwrap();
            assert_eq!(metadata.len(), size.bytes());
            assert_eq!(metadata.mode() & 0o7777, 0o600);
            assert!(metadata.blocks() * 512 < 1 << 20, "{metadata:?}");
            assert!(fsck(&path), "{size}");
        }
        let left = fs::read_dir(root.path().join("disk-seeds"))
            .unwrap()
            .count();
        assert_eq!(left, 3);
    }

    #[test]
    fn a_seed_of_the_wrong_size_is_made_again() {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let seeds = Seeds::new(root.path());
        let seed = seeds.seed(MINIMUM).unwrap();
        File::options()
            .write(true)
            .open(&seed)
            .unwrap()
            .set_len(5)
            .unwrap();
        let path = root.path().join("disk");
        seeds.make_disk(MINIMUM, &path).unwrap();
        assert!(fsck(&path));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_with_a_remedy() {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let seeds = Seeds::new(root.path());
        for size in [0, 1 << 20, u64::MAX] {
            let error = seeds.seed(ByteSize(size)).unwrap_err();
            assert!(matches!(error, SeedError::Size { .. }));
            assert!(error.hint().unwrap().contains("--storage-opt"));
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_that_is_there_is_not_overwritten() {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let seeds = Seeds::new(root.path());
        let path = root.path().join("disk");
        fs::write(&path, "data").unwrap();
        seeds.make_disk(MINIMUM, &path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }
}
