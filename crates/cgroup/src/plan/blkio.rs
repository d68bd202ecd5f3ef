//! Block I/O: shares by weight, and throttling by bytes and operations a second.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Otherwise, Settings};
use crate::{Error, Version};

pub(super) fn plan(block_io: &LinuxBlockIo, settings: &mut Settings<'_>) -> Result<(), Error> {
    if settings.layout.hierarchy("io").is_some() {
        v2(block_io, settings)
    } else {
        v1(block_io, settings)
    }
}

fn weight_in_range(limit: &'static str, weight: u16) -> Result<u16, Error> {
    if (10..=1000).contains(&weight) {
        return Ok(weight);
    }
    Err(Error::Invalid {
        limit,
        value: weight.to_string(),
        expected: "10 to 1000",
    })
}

/// The four kinds of throttling: name of the field, file of version 1, key of version 2.
type Throttle<'a> = (
    &'static str,
    &'static str,
    &'static str,
    &'a Option<Vec<LinuxThrottleDevice>>,
);

fn throttles(block_io: &LinuxBlockIo) -> [Throttle<'_>; 4] {
    [
        (
            "blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
            block_io.throttle_read_bps_device(),
        ),
        (
            "blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
            block_io.throttle_write_bps_device(),
        ),
        (
            "blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
            block_io.throttle_read_iops_device(),
        ),
        (
            "blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
            block_io.throttle_write_iops_device(),
        ),
    ]
}

/// `Documentation/admin-guide/cgroup-v1/blkio-controller.rst`. Weights exist only with the BFQ
/// scheduler; older kernels had them without its prefix.
fn v1(block_io: &LinuxBlockIo, settings: &mut Settings<'_>) -> Result<(), Error> {
    const CONTROLLER: &str = "blkio";
    let at = (CONTROLLER, Version::V1);
    if let Some(weight) = block_io.weight().filter(|&weight| weight != 0) {
        settings.version(CONTROLLER, "blockIO.weight")?;
        let weight = weight_in_range("blockIO.weight", weight)?;
        settings
            .push(at, "blockIO.weight", "blkio.bfq.weight", weight)
            .otherwise = Otherwise::Write("blkio.weight".into(), weight.to_string());
    }
    if let Some(weight) = block_io.leaf_weight().filter(|&weight| weight != 0) {
        settings.version(CONTROLLER, "blockIO.leafWeight")?;
        settings.push(at, "blockIO.leafWeight", "blkio.leaf_weight", weight);
    }
    for device in block_io.weight_device().iter().flatten() {
        settings.version(CONTROLLER, "blockIO.weightDevice")?;
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let weight = weight_in_range("blockIO.weightDevice", weight)?;
            let value = format!("{number} {weight}");
            settings
                .push(
                    at,
                    "blockIO.weightDevice",
                    "blkio.bfq.weight_device",
                    &value,
                )
                .otherwise = Otherwise::Write("blkio.weight_device".into(), value.clone());
        }
        if let Some(weight) = device.leaf_weight().filter(|&weight| weight != 0) {
            let value = format!("{number} {weight}");
            settings.push(
                at,
                "blockIO.weightDevice",
                "blkio.leaf_weight_device",
                value,
            );
        }
    }
    for (limit, file, _, devices) in throttles(block_io) {
        for device in devices.iter().flatten() {
            settings.version(CONTROLLER, limit)?;
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.push(at, limit, file, value);
        }
    }
    Ok(())
}

/// `Documentation/admin-guide/cgroup-v2.rst`, "IO".
fn v2(block_io: &LinuxBlockIo, settings: &mut Settings<'_>) -> Result<(), Error> {
    let at = ("io", Version::V2);
    let refuse = |limit| {
        Err(Error::NotInVersion {
            limit,
            version: Version::V2,
        })
    };
    if let Some(weight) = block_io.weight().filter(|&weight| weight != 0) {
        let weight = weight_in_range("blockIO.weight", weight)?;
        settings
            .push(at, "blockIO.weight", "io.bfq.weight", weight)
            .otherwise = Otherwise::Write("io.weight".into(), io_weight(weight).to_string());
    }
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return refuse("blockIO.leafWeight");
    }
    for device in block_io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return refuse("blockIO.weightDevice.leafWeight");
        }
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let weight = weight_in_range("blockIO.weightDevice", weight)?;
            settings
                .push(
                    at,
                    "blockIO.weightDevice",
                    "io.bfq.weight",
                    format!("{number} {weight}"),
                )
                .otherwise = Otherwise::Write(
                "io.weight".into(),
                format!("{number} {}", io_weight(weight)),
            );
        }
    }
    for (limit, _, key, devices) in throttles(block_io) {
        for device in devices.iter().flatten() {
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            settings.push(at, limit, "io.max", value);
        }
    }
    Ok(())
}

/// 10 to 1000 as 1 to 10000, linear as in runc and crun.
fn io_weight(weight: u16) -> u32 {
    1 + (u32::from(weight) - 10) * 9999 / 990
}
