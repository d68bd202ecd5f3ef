//! Writable disks of virtual machines: sparse files with an empty ext4 file system in them.
//!
//! A disk is copied from a [`Seeds`] file of its size, which `mke2fs` makes once. Copying takes as long as
//! the metadata is large (some 200 KB for 64 GiB), whatever the size of the disk: holes are left out, and where
//! the file system of the host can share blocks, nothing is copied at all.
//!
//! The file system holds two directories, [`UPPER`] and [`WORK`], as an overlay needs them.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let root = "/var/lib/isle".as_ref();
//! let seeds = isle_disk::Seeds::new(root);
//! let disk = seeds.make_disk(isle_disk::default_size(root)?, "/var/lib/isle/instances/x/disk".as_ref())?;
//! # Ok(())
//! # }
//! ```
//!
//! How it is formatted, and why: docs/decisions/0010-disks-of-virtual-machines.md.

#![forbid(unsafe_code)]

mod copy;
mod seed;
mod size;

pub use copy::copy_sparse;
pub use seed::{SeedError, Seeds, UPPER, WORK, copy_disk};
pub use size::{MAXIMUM, MINIMUM, default_size};
