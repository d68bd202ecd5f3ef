//! Limits of block I/O: `--blkio-weight`, `--device-read-bps` and its kin.

use std::path::PathBuf;

use clap::Args;
use isle_engine::config::{DeviceLimit, Resources};
use isle_types::ByteSize;

use super::FlagError;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct BlockIoFlags {
    /// Weight of block I/O against others, 10 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = weight, help_heading = "Limits")]
    blkio_weight: Option<u16>,
    /// The same on one device
    #[arg(long, value_name = "DEVICE:WEIGHT", value_parser = device_weight, help_heading = "Limits")]
    blkio_weight_device: Vec<DeviceLimit>,
    /// Limit of what it reads from a device a second, like /dev/sda:10mb; 0 for none
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = bytes, help_heading = "Limits")]
    device_read_bps: Vec<DeviceLimit>,
    /// Limit of what it writes to a device a second
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = bytes, help_heading = "Limits")]
    device_write_bps: Vec<DeviceLimit>,
    /// Limit of reads from a device a second, like /dev/sda:1000; 0 for none
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = operations, help_heading = "Limits")]
    device_read_iops: Vec<DeviceLimit>,
    /// Limit of writes to a device a second
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = operations, help_heading = "Limits")]
    device_write_iops: Vec<DeviceLimit>,
}

impl BlockIoFlags {
    /// As the engine takes them; the last one of a device counts.
    pub fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        resources.merge(&Resources {
            blkio_weight: self.blkio_weight,
            blkio_weight_device: self.blkio_weight_device.clone(),
            device_read_bps: self.device_read_bps.clone(),
            device_write_bps: self.device_write_bps.clone(),
            device_read_iops: self.device_read_iops.clone(),
            device_write_iops: self.device_write_iops.clone(),
            ..Resources::default()
        });
        resources
    }
}

fn weight(text: &str) -> Result<u16, FlagError> {
    match text.parse() {
        Ok(weight @ 10..=1000) => Ok(weight),
        _ => Err(FlagError::new(
            format!("{text:?} is not a weight"),
            "give a number from 10 to 1000",
        )),
    }
}

/// `DEVICE:VALUE`.
fn device<'t>(text: &'t str, example: &str) -> Result<(PathBuf, &'t str), FlagError> {
    match text.rsplit_once(':') {
        Some((path, value)) if path.starts_with("/dev/") && !value.is_empty() => {
            Ok((PathBuf::from(path), value))
        }
        _ => Err(FlagError::new(
            format!("{text:?} has no DEVICE:VALUE form"),
            format!("write for example {example}"),
        )),
    }
}

fn device_weight(text: &str) -> Result<DeviceLimit, FlagError> {
    let (path, value) = device(text, "/dev/sda:500")?;
    Ok(DeviceLimit {
        path,
        limit: weight(value)?.into(),
    })
}

fn bytes(text: &str) -> Result<DeviceLimit, FlagError> {
    let (path, value) = device(text, "/dev/sda:10mb")?;
    let size: ByteSize = value.parse().map_err(|_| {
        FlagError::new(
            format!("{value:?} is not a size"),
            "write a number with a unit kb, mb or gb, like /dev/sda:10mb",
        )
    })?;
    Ok(DeviceLimit {
        path,
        limit: size.bytes(),
    })
}

fn operations(text: &str) -> Result<DeviceLimit, FlagError> {
    let (path, value) = device(text, "/dev/sda:1000")?;
    let limit = value.parse().map_err(|_| {
        FlagError::new(
            format!("{value:?} is not a number of operations"),
            "write for example /dev/sda:1000",
        )
    })?;
    Ok(DeviceLimit { path, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_of_a_device() {
        let limit = |path: &str, limit| DeviceLimit {
            path: path.into(),
            limit,
        };
        assert_eq!(bytes("/dev/sda:10mb"), Ok(limit("/dev/sda", 10 << 20)));
        assert_eq!(bytes("/dev/sda:0"), Ok(limit("/dev/sda", 0)));
        assert_eq!(operations("/dev/sda:7"), Ok(limit("/dev/sda", 7)));
        assert_eq!(device_weight("/dev/a:b:10"), Ok(limit("/dev/a:b", 10)));
        for text in [
            "",
            "/dev/sda",
            "/dev/sda:",
            "sda:1mb",
            "/dev/sda:much",
            "/dev/sda:-1",
        ] {
            bytes(text).expect_err(text);
            operations(text).expect_err(text);
            device_weight(text).expect_err(text);
        }
        weight("5").unwrap_err();
        device_weight("/dev/sda:1001").unwrap_err();
    }

    #[test]
    fn the_last_limit_of_a_device_counts() {
        let flags = BlockIoFlags {
            device_read_bps: ["/dev/a:1k", "/dev/b:2k", "/dev/a:3k"]
                .map(|text| bytes(text).unwrap())
                .to_vec(),
            ..BlockIoFlags::default()
        };
        let limits = flags.resources().device_read_bps;
        let limits: Vec<u64> = limits.iter().map(|limit| limit.limit >> 10).collect();
        assert_eq!(limits, [2, 3]);
    }
}
