//! How fast the disks of a machine may be: QEMU's own limits, see `block_set_io_throttle` in
//! <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>.

use serde_json::{Value, json};

use crate::monitor::{Monitor, MonitorError, Sent};

/// The disks of one machine share what it may do.
const GROUP: &str = "disks";

/// What all disks of a machine together may do; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Bytes read a second.
    pub read_bps: u64,
    /// Bytes written a second.
    pub write_bps: u64,
    /// Reads a second.
    pub read_iops: u64,
    /// Writes a second.
    pub write_iops: u64,
}

impl Throttle {
    fn arguments(&self, index: usize) -> Value {
        json!({
            "id": format!("vd{index}"),
            "group": GROUP,
            "bps": 0,
            "bps_rd": self.read_bps,
            "bps_wr": self.write_bps,
            "iops": 0,
            "iops_rd": self.read_iops,
            "iops_wr": self.write_iops,
        })
    }

    /// Tells QEMU, without waiting for the answers.
    pub(crate) fn send(
        &self,
        monitor: &mut Monitor,
        disks: usize,
    ) -> Result<Vec<Sent>, MonitorError> {
        (0..disks)
            .map(|index| monitor.send("block_set_io_throttle", self.arguments(index), &[]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_limited_is_zero() {
        let throttle = Throttle {
            write_bps: 1 << 20,
            ..Throttle::default()
        };
        assert_eq!(
            throttle.arguments(1),
            json!({
                "id": "vd1", "group": "disks", "bps": 0, "bps_rd": 0, "bps_wr": 1_048_576,
                "iops": 0, "iops_rd": 0, "iops_wr": 0,
            })
        );
    }
}
