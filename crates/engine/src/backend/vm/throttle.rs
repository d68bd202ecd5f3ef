//! Limits of block I/O on the disks of the guest.
//!
//! The machine's control group limits what its hypervisor and the server of shared folders do on a device
//! of the host. That is not enough: what the guest writes goes to the host's page cache, and from there to
//! the device by a thread of the kernel's. So QEMU holds the guest's disks back itself, as far as their
//! files lie on a device that has a limit.

use std::io;

use isle_qemu::Throttle;

use crate::Paths;
use crate::backend::host_devices::{block_device, device_below};
use crate::config::{DeviceLimit, Resources};

/// The image, and the writable layer.
pub(super) const DISKS: usize = 2;

/// What the disks of the guest may do; `None` when nothing was asked for.
///
/// # Errors
/// When a device is not there.
pub(super) fn of(resources: &Resources, paths: &Paths) -> io::Result<Option<Throttle>> {
    let lists = [
        &resources.device_read_bps,
        &resources.device_write_bps,
        &resources.device_read_iops,
        &resources.device_write_iops,
    ];
    if lists.iter().all(|list| list.is_empty()) {
        return Ok(None);
    }
    let below = device_below(&paths.root)?;
    let least = |list: &[DeviceLimit]| -> io::Result<u64> {
        let mut least = 0;
        for limit in list.iter().filter(|limit| limit.limit > 0) {
            let device = block_device(&limit.path)?;
            // Where no number tells, it may be any of them.
            let is_meant = below.is_none_or(|below| below.lies_on(device));
            if is_meant && (least == 0 || limit.limit < least) {
                least = limit.limit;
            }
        }
        Ok(least)
    };
    let [read_bps, write_bps, read_iops, write_iops] = lists.map(|list| least(list));
    Ok(Some(Throttle {
        read_bps: read_bps?,
        write_bps: write_bps?,
        read_iops: read_iops?,
        write_iops: write_iops?,
    }))
}
