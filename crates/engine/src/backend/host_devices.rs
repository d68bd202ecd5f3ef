//! Block devices of the host, as limits name them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The numbers of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Number {
    fn of(device: u64) -> Number {
        Number {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
        }
    }

    fn read(path: &Path) -> Option<Number> {
        let text = fs::read_to_string(path).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(Number {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    fn folder(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{}:{}", self.major, self.minor))
    }

    /// The disk that a partition is on.
    pub(crate) fn disk(self) -> Option<Number> {
        let folder = fs::canonicalize(self.folder()).ok()?;
        match folder.join("partition").exists() {
            true => Number::read(&folder.parent()?.join("dev")),
            false => None,
        }
    }

    /// The name that the kernel has for it, like `sda`.
    pub(crate) fn name(self) -> Option<String> {
        let folder = fs::canonicalize(self.folder()).ok()?;
        Some(folder.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether what is written to it ends on another device: on itself, the disk of a partition, what a
    /// mapping or an array is made of.
    pub(crate) fn lies_on(self, device: Number) -> bool {
        self.lies_on_within(device, 8)
    }

    fn lies_on_within(self, device: Number, depth: u32) -> bool {
        if self == device {
            return true;
        }
        let Some(depth) = depth.checked_sub(1) else {
            return false;
        };
        let below = fs::read_dir(self.folder().join("slaves"));
        let below = below.into_iter().flatten().flatten();
        below
            .filter_map(|entry| Number::read(&entry.path().join("dev")))
            .chain(self.disk())
            .any(|below| below.lies_on_within(device, depth))
    }
}

/// The block device of a node.
///
/// # Errors
/// When there is no such node, or it is none of a block device.
pub(crate) fn block_device(path: &Path) -> io::Result<Number> {
    let metadata = fs::metadata(path)?;
    match metadata.file_type().is_block_device() {
        true => Ok(Number::of(metadata.rdev())),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a block device",
        )),
    }
}

/// The device that the file system of a path is on; `None` when that is told by no number: memory, the
/// network, file systems of several devices.
///
/// # Errors
/// When there is no such path.
pub(crate) fn device_below(path: &Path) -> io::Result<Option<Number>> {
    let number = Number::of(fs::metadata(path)?.dev());
    Ok((number.major != 0).then_some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused() {
        block_device(Path::new("/dev/null")).unwrap_err();
        block_device(Path::new("/nowhere")).unwrap_err();
        assert_eq!(device_below(Path::new("/proc")).unwrap(), None);
    }

    #[test]
    fn every_disk_lies_on_itself_and_partitions_on_their_disk() {
        for entry in fs::read_dir("/sys/class/block")
            .into_iter()
            .flatten()
            .flatten()
        {
            let Some(number) = Number::read(&entry.path().join("dev")) else {
                continue;
            };
            assert!(number.lies_on(number));
            assert!(!number.lies_on(Number { major: 0, minor: 0 }));
            if let Some(disk) = number.disk() {
                assert!(number.lies_on(disk) && !disk.lies_on(number));
            }
        }
    }
}
