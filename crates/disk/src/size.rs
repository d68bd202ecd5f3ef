//! How large a disk is.

use std::io;
use std::path::Path;

use isle_types::ByteSize;

/// The smallest disk: below it there is no room for the journal and any files.
pub const MINIMUM: ByteSize = ByteSize(64 << 20);
/// The largest disk: what ext4 can address with numbers of 32 bits.
pub const MAXIMUM: ByteSize = ByteSize(16 << 40);

/// Disks have a size that is a multiple of this.
const STEP: u64 = 1 << 20;
/// The largest default: each terabyte of a disk costs time at each mount.
const LARGEST_DEFAULT: u64 = 1 << 40;
const SMALLEST_DEFAULT: u64 = 8 << 30;

/// How large a disk is when nobody says: as large as the host's own file system below `root`, rounded up to
/// a power of two, between 8 GiB and 1 TiB. So nothing runs full inside that would not run full as a
/// container on the same host; what is not written takes no room.
///
/// # Errors
/// When the file system cannot be asked.
pub fn default_size(root: &Path) -> io::Result<ByteSize> {
    let filesystem = rustix::fs::statvfs(root)?;
    Ok(default_for(
        filesystem.f_blocks.saturating_mul(filesystem.f_frsize),
    ))
}

fn default_for(host_bytes: u64) -> ByteSize {
    ByteSize(
        host_bytes
            .clamp(SMALLEST_DEFAULT, LARGEST_DEFAULT)
            .next_power_of_two(),
    )
}

/// As it is made: rounded up to whole steps. `None` outside the limits.
pub(crate) fn rounded(size: ByteSize) -> Option<ByteSize> {
    let fits = size >= MINIMUM && size <= MAXIMUM;
    fits.then(|| ByteSize(size.bytes().next_multiple_of(STEP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_no_smaller_than_the_host_up_to_a_terabyte() {
        for (host, expected) in [
            (0, 8 << 30),
            (20 << 30, 32 << 30),
            (256 << 30, 256 << 30),
            (257 << 30, 512 << 30),
            (5 << 40, 1 << 40),
            (u64::MAX, 1 << 40),
        ] {
            assert_eq!(default_for(host), ByteSize(expected));
        }
    }

    #[test]
    fn sizes_are_whole_steps_within_the_limits() {
        assert_eq!(rounded(ByteSize((64 << 20) + 1)), Some(ByteSize(65 << 20)));
        assert_eq!(rounded(ByteSize(64 << 20)), Some(ByteSize(64 << 20)));
        assert_eq!(rounded(ByteSize((64 << 20) - 1)), None);
        assert_eq!(rounded(ByteSize((16 << 40) + 1)), None);
    }
}
