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
/// The largest default: a mount reads something for each 128 MiB of a disk, and there is one at every start.
const LARGEST_DEFAULT: u64 = 64 << 30;
const SMALLEST_DEFAULT: u64 = 8 << 30;

/// How large a disk is when nobody says: as large as the host's own file system below `root`, rounded up to
/// a power of two, between 8 and 64 GiB. What is not written takes no room.
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
    fn the_default_is_as_large_as_the_host_up_to_where_it_costs() {
        for (host, expected) in [
            (0, 8 << 30),
            (20 << 30, 32 << 30),
            (32 << 30, 32 << 30),
            (33 << 30, 64 << 30),
            (5 << 40, 64 << 30),
            (u64::MAX, 64 << 30),
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
