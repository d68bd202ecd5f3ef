//! Limits in the words of the runtime specification.

use std::io;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources,
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType,
};

use crate::backend::host_devices::block_device;
use crate::config::{DeviceLimit, Resources, Ulimit};

/// The period that `--cpus` is a part of, in µs: Docker's and the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Cgroup limits; what is not asked for is left as the kernel has it.
///
/// As Docker has it, memory without `--memory-swap` may be swapped out up to its own size again,
/// where the host counts swap.
pub(crate) fn resources(
    resources: &Resources,
    counts_swap: bool,
    devices: Option<Vec<LinuxDeviceCgroup>>,
) -> LinuxResources {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut limits = LinuxResources::default();
    limits.set_devices(devices);

    let limit = resources.memory.map(|memory| signed(memory.bytes()));
    let swap = match (resources.memory_swap, limit) {
        (Some(swap), _) => Some(swap),
        (None, Some(limit)) if counts_swap => Some(limit.saturating_mul(2)),
        _ => None,
    };
    let reservation = resources.memory_reservation.map(|r| signed(r.bytes()));
    if limit.is_some() || swap.is_some() || reservation.is_some() {
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(limit)
            .set_swap(swap)
            .set_reservation(reservation);
        limits.set_memory(Some(memory));
    }

    let quota = resources
        .nano_cpus
        .map(|nano| signed(nano * CPU_PERIOD_US / 1_000_000_000));
    let shares = resources.cpu_shares.filter(|shares| *shares != 0);
    if quota.is_some()
        || shares.is_some()
        || resources.cpuset_cpus.is_some()
        || resources.cpuset_mems.is_some()
    {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(quota)
            .set_period(quota.map(|_| CPU_PERIOD_US))
            .set_shares(shares)
            .set_cpus(resources.cpuset_cpus.clone())
            .set_mems(resources.cpuset_mems.clone());
        limits.set_cpu(Some(cpu));
    }

    if let Some(limit) = resources.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limit <= 0 { -1 } else { limit });
        limits.set_pids(Some(pids));
    }
    if let Some(weight) = resources.blkio_weight.filter(|weight| *weight != 0) {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        limits.set_block_io(Some(block_io));
    }
    limits
}

/// The same with the limits of single devices, whose numbers are looked up: they may be others after a
/// restart of the host.
///
/// # Errors
/// When a device is not there.
pub(crate) fn with_devices(
    mut limits: LinuxResources,
    resources: &Resources,
) -> io::Result<LinuxResources> {
    if resources
        .of_devices()
        .iter()
        .all(|(_, list)| list.is_empty())
    {
        return Ok(limits);
    }
    let number = |limit: &DeviceLimit| {
        block_device(&limit.path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", limit.path.display()))
        })
    };
    let rates = |list: &[DeviceLimit]| -> io::Result<Option<Vec<LinuxThrottleDevice>>> {
        let devices = list.iter().map(|limit| {
            let number = number(limit)?;
            let device = LinuxThrottleDeviceBuilder::default()
                .major(i64::from(number.major))
                .minor(i64::from(number.minor))
                .rate(limit.limit)
                .build();
            Ok(device.expect("all fields are given"))
        });
        let devices = devices.collect::<io::Result<Vec<_>>>()?;
        Ok((!devices.is_empty()).then_some(devices))
    };
    let weights = resources.blkio_weight_device.iter().map(|limit| {
        let number = number(limit)?;
        let device = LinuxWeightDeviceBuilder::default()
            .major(i64::from(number.major))
            .minor(i64::from(number.minor))
            .weight(u16::try_from(limit.limit).unwrap_or(u16::MAX))
            .build();
        Ok(device.expect("all fields are given"))
    });
    let weights = weights.collect::<io::Result<Vec<_>>>()?;
    let mut block_io = limits.block_io().clone().unwrap_or_default();
    block_io
        .set_weight_device((!weights.is_empty()).then_some(weights))
        .set_throttle_read_bps_device(rates(&resources.device_read_bps)?)
        .set_throttle_write_bps_device(rates(&resources.device_write_bps)?)
        .set_throttle_read_iops_device(rates(&resources.device_read_iops)?)
        .set_throttle_write_iops_device(rates(&resources.device_write_iops)?);
    limits.set_block_io(Some(block_io));
    Ok(limits)
}

/// `--ulimit` in the specification's words; `-1` is `RLIM_INFINITY`.
pub(crate) fn rlimits(ulimits: &[Ulimit]) -> Vec<PosixRlimit> {
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    ulimits
        .iter()
        .filter_map(|ulimit| {
            let limit = PosixRlimitBuilder::default()
                .typ(rlimit_type(&ulimit.name)?)
                .soft(value(ulimit.soft))
                .hard(value(ulimit.hard))
                .build();
            Some(limit.expect("all fields are given"))
        })
        .collect()
}

/// A resource limit by the name that ulimits have, see setrlimit(2).
pub(crate) fn rlimit_type(name: &str) -> Option<PosixRlimitType> {
    Some(match name {
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        "as" => PosixRlimitType::RlimitAs,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use isle_types::ByteSize;

    use super::*;

    #[test]
    fn nothing_asked_for_is_nothing_set() {
        let limits = resources(&Resources::default(), true, None);
        assert_eq!(limits, {
            let mut none = LinuxResources::default();
            none.set_devices(None);
            none
        });
    }

    #[test]
    fn swap_is_as_large_as_memory_where_it_is_counted() {
        let asked = Resources {
            memory: Some(ByteSize(64 << 20)),
            nano_cpus: Some(1_500_000_000),
            ..Resources::default()
        };
        let limits = resources(&asked, true, None);
        let memory = limits.memory().unwrap();
        assert_eq!(memory.swap(), Some(128 << 20));
        let cpu = limits.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        let without = resources(&asked, false, None);
        assert_eq!(without.memory().unwrap().swap(), None);
    }
}
