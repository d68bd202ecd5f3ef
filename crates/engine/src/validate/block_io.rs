//! Limits of block I/O.

use super::{Checked, refuse};
use crate::backend::host_devices::{Number, block_device};
use crate::config::Resources;

/// Looks at weights and rates, and at the devices that they are for.
///
/// # Errors
/// The first that cannot be carried out.
pub(super) fn check(resources: &Resources) -> Checked {
    let is_weight = |weight: u64| weight == 0 || (10..=1000).contains(&weight);
    let reason = "it must be from 10 to 1000";
    if let Some(weight) = resources
        .blkio_weight
        .filter(|weight| !is_weight((*weight).into()))
    {
        return Err(refuse("--blkio-weight", weight, reason, None));
    }
    for (field, limits) in resources.of_devices() {
        for limit in limits {
            let shown = limit.path.display();
            let device = block_device(&limit.path).map_err(|error| {
                let hint = Some("lsblk lists the block devices of this host");
                refuse(field, shown.to_string(), error.to_string(), hint)
            })?;
            if let Some(disk) = device.disk().and_then(Number::name) {
                let reason =
                    format!("it is a partition: the kernel limits whole disks, here /dev/{disk}");
                return Err(refuse(field, shown.to_string(), reason, None));
            }
            if field == "--blkio-weight-device" && !is_weight(limit.limit) {
                return Err(refuse(field, limit.limit, reason, None));
            }
        }
    }
    Ok(())
}
