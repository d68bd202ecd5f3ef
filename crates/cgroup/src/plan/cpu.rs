//! CPU time.

use oci_spec::runtime::LinuxCpu;

use super::{Current, Otherwise, Settings};
use crate::{Error, Version};

const CONTROLLER: &str = "cpu";

pub(super) fn plan(
    cpu: &LinuxCpu,
    current: &Current,
    settings: &mut Settings<'_>,
) -> Result<(), Error> {
    let wanted = Wanted {
        shares: cpu.shares().filter(|&shares| shares != 0),
        quota: cpu.quota().filter(|&quota| quota != 0),
        period: cpu.period().filter(|&period| period != 0),
        burst: cpu.burst(),
        idle: cpu.idle(),
        realtime_runtime: cpu.realtime_runtime().filter(|&runtime| runtime != 0),
        realtime_period: cpu.realtime_period().filter(|&period| period != 0),
    };
    if wanted == Wanted::default() {
        return Ok(());
    }
    if let Some(shares) = wanted.shares
        && !(2..=262_144).contains(&shares)
    {
        // The kernel would clamp it in silence.
        return Err(Error::Invalid {
            limit: "cpu.shares",
            value: shares.to_string(),
            expected: "2 to 262144",
        });
    }
    if let Some(idle) = wanted.idle
        && !(0..=1).contains(&idle)
    {
        return Err(Error::Invalid {
            limit: "cpu.idle",
            value: idle.to_string(),
            expected: "0 or 1",
        });
    }
    match settings.version(CONTROLLER, "cpu")? {
        Version::V1 => {
            v1(&wanted, settings);
            Ok(())
        }
        Version::V2 => v2(&wanted, current, settings),
    }
}

#[derive(Default, PartialEq)]
struct Wanted {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    burst: Option<u64>,
    idle: Option<i64>,
    realtime_runtime: Option<i64>,
    realtime_period: Option<u64>,
}

/// `Documentation/scheduler/sched-bwc.rst`, `sched-rt-group.rst`
fn v1(wanted: &Wanted, settings: &mut Settings<'_>) {
    let at = (CONTROLLER, Version::V1);
    if let Some(shares) = wanted.shares {
        settings.push(at, "cpu.shares", "cpu.shares", shares);
    }
    if let Some(idle) = wanted.idle {
        settings.push(at, "cpu.idle", "cpu.idle", idle);
    }
    // Period, quota and burst bound each other; the executor tries a refused one again after the
    // others.
    if let Some(period) = wanted.period {
        settings.push(at, "cpu.period", "cpu.cfs_period_us", period);
    }
    if let Some(quota) = wanted.quota {
        settings.push(at, "cpu.quota", "cpu.cfs_quota_us", quota.max(-1));
    }
    if let Some(burst) = wanted.burst {
        let setting = settings.push(at, "cpu.burst", "cpu.cfs_burst_us", burst);
        if burst == 0 {
            setting.otherwise = Otherwise::Skip;
        }
    }
    if let Some(period) = wanted.realtime_period {
        settings.push(at, "cpu.realtimePeriod", "cpu.rt_period_us", period);
    }
    if let Some(runtime) = wanted.realtime_runtime {
        settings.push(at, "cpu.realtimeRuntime", "cpu.rt_runtime_us", runtime);
    }
}

/// `Documentation/admin-guide/cgroup-v2.rst`, "CPU".
fn v2(wanted: &Wanted, current: &Current, settings: &mut Settings<'_>) -> Result<(), Error> {
    let at = (CONTROLLER, Version::V2);
    if wanted.realtime_runtime.is_some() || wanted.realtime_period.is_some() {
        return Err(Error::NotInVersion {
            limit: "cpu.realtimeRuntime",
            version: Version::V2,
        });
    }
    if let Some(shares) = wanted.shares {
        settings.push(at, "cpu.shares", "cpu.weight", weight(shares));
    }
    if let Some(idle) = wanted.idle {
        settings.push(at, "cpu.idle", "cpu.idle", idle);
    }
    match (wanted.quota, wanted.period) {
        (None, None) => {}
        (quota, period) => {
            let quota = match (quota, &current.cpu_quota) {
                (Some(quota), _) if quota > 0 => quota.to_string(),
                (None, Some(quota)) => quota.clone(),
                _ => "max".to_owned(),
            };
            // The kernel keeps the old period when only a quota is written.
            let value = match period {
                Some(period) => format!("{quota} {period}"),
                None => quota,
            };
            settings.push(at, "cpu.quota", "cpu.max", value);
        }
    }
    if let Some(burst) = wanted.burst {
        let setting = settings.push(at, "cpu.burst", "cpu.max.burst", burst);
        if burst == 0 {
            setting.otherwise = Otherwise::Skip;
        }
    }
    Ok(())
}

/// Shares of version 1 (2 to 262144, 1024 by default) as a weight of version 2 (1 to 10000, 100 by
/// default).
///
/// A quadratic function on the logarithms that meets both ends and the default, as crun (since
/// 1.23) and runc (since 1.4) have it; the linear one before them made 39 of 1024 and so gave
/// containers less than the host's own services.
/// See <https://github.com/containers/crun/pull/1721>.
#[must_use]
pub fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss, reason = "at most 18 bits")]
    let logarithm = (shares as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    // The default must not become 101 by a rounding error in the last place.
    let weight = (10.0_f64.powf(exponent) - 1e-9).ceil();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000"
    )]
    {
        weight as u64
    }
}

#[cfg(test)]
mod tests {
    use super::weight;

    #[test]
    fn shares_become_weights_that_meet_both_ends_and_the_default() {
        let pairs: Vec<(u64, u64)> = [2, 3, 512, 1024, 2048, 10_000, 262_143, 262_144]
            .iter()
            .map(|&shares| (shares, weight(shares)))
            .collect();
        // Values as in the tests of github.com/opencontainers/cgroups.
        assert_eq!(pairs[0], (2, 1));
        assert_eq!(pairs[3], (1024, 100));
        assert_eq!(pairs[7], (262_144, 10_000));
        assert!(pairs.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }
}
