//! Memory and swap.
//!
//! The specification's `swap` is memory plus swap, as version 1's `memsw`; version 2's
//! `memory.swap.max` is swap alone.

use oci_spec::runtime::LinuxMemory;

use super::{Current, Settings, limit_value};
use crate::{Error, Version};

const CONTROLLER: &str = "memory";

#[allow(
    deprecated,
    reason = "the kernel memory limit is refused, not left out in silence"
)]
pub(super) fn plan(
    memory: &LinuxMemory,
    current: &Current,
    settings: &mut Settings<'_>,
) -> Result<(), Error> {
    let limit = memory.limit().filter(|&bytes| bytes != 0);
    let swap = memory.swap().filter(|&bytes| bytes != 0);
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap > 0
        && (limit < 0 || swap < limit)
    {
        return Err(Error::Invalid {
            limit: "memory.swap",
            value: swap.to_string(),
            expected: "memory plus swap, so at least memory.limit",
        });
    }
    if let Some(swappiness) = memory.swappiness()
        && swappiness > 100
    {
        return Err(Error::Invalid {
            limit: "memory.swappiness",
            value: swappiness.to_string(),
            expected: "0 to 100",
        });
    }
    let asks = limit.or(swap).is_some()
        || memory.reservation().is_some_and(|bytes| bytes != 0)
        || memory.swappiness().is_some()
        || memory.disable_oom_killer() == Some(true)
        || memory.kernel().is_some_and(|bytes| bytes > 0)
        || memory.kernel_tcp().is_some_and(|bytes| bytes != 0);
    if !asks {
        return Ok(());
    }
    match settings.version(CONTROLLER, "memory")? {
        Version::V1 => v1(memory, limit, swap, settings),
        Version::V2 => v2(memory, limit, swap, current, settings),
    }
}

/// `Documentation/admin-guide/cgroup-v1/memory.rst`
#[allow(deprecated, reason = "as above")]
fn v1(
    memory: &LinuxMemory,
    limit: Option<i64>,
    swap: Option<i64>,
    settings: &mut Settings<'_>,
) -> Result<(), Error> {
    let at = (CONTROLLER, Version::V1);
    // The kernel holds limit <= memsw at all times: which one can be written first depends on the
    // old values. The executor tries a refused one again after the others.
    if let Some(limit) = limit {
        let value = limit_value(Version::V1, limit);
        settings.push(at, "memory.limit", "memory.limit_in_bytes", value);
    }
    match swap {
        Some(swap) => {
            let value = limit_value(Version::V1, swap);
            settings.push(at, "memory.swap", "memory.memsw.limit_in_bytes", value);
        }
        // No memory limit, so no limit of memory plus swap either.
        None if limit == Some(-1) => {
            settings
                .push(at, "memory.limit", "memory.memsw.limit_in_bytes", -1)
                .otherwise = super::Otherwise::Skip;
        }
        None => {}
    }
    if let Some(reservation) = memory.reservation().filter(|&bytes| bytes != 0) {
        let value = limit_value(Version::V1, reservation);
        settings.push(
            at,
            "memory.reservation",
            "memory.soft_limit_in_bytes",
            value,
        );
    }
    if let Some(swappiness) = memory.swappiness() {
        settings.push(at, "memory.swappiness", "memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer() == Some(true) {
        settings.push(at, "memory.disableOOMKiller", "memory.oom_control", 1);
    }
    if let Some(bytes) = memory.kernel().filter(|&bytes| bytes > 0) {
        settings.push(at, "memory.kernel", "memory.kmem.limit_in_bytes", bytes);
    }
    if let Some(bytes) = memory.kernel_tcp().filter(|&bytes| bytes != 0) {
        let value = limit_value(Version::V1, bytes);
        settings.push(
            at,
            "memory.kernelTCP",
            "memory.kmem.tcp.limit_in_bytes",
            value,
        );
    }
    Ok(())
}

/// `Documentation/admin-guide/cgroup-v2.rst`, "Memory".
#[allow(deprecated, reason = "as above")]
fn v2(
    memory: &LinuxMemory,
    limit: Option<i64>,
    swap: Option<i64>,
    current: &Current,
    settings: &mut Settings<'_>,
) -> Result<(), Error> {
    let at = (CONTROLLER, Version::V2);
    for (is_set, limit) in [
        (memory.swappiness().is_some(), "memory.swappiness"),
        (
            memory.disable_oom_killer() == Some(true),
            "memory.disableOOMKiller",
        ),
        (memory.kernel().is_some_and(|b| b > 0), "memory.kernel"),
        (
            memory.kernel_tcp().is_some_and(|b| b > 0),
            "memory.kernelTCP",
        ),
    ] {
        if is_set {
            return Err(Error::NotInVersion {
                limit,
                version: Version::V2,
            });
        }
    }
    if let Some(limit) = limit {
        let value = limit_value(Version::V2, limit);
        settings.push(at, "memory.limit", "memory.max", value);
    }
    match swap {
        Some(swap) if swap < 0 => {
            settings.push(at, "memory.swap", "memory.swap.max", "max");
        }
        Some(swap) => {
            let Some(memory) = limit.or(current.memory_limit).filter(|&bytes| bytes > 0) else {
                return Err(Error::Invalid {
                    limit: "memory.swap",
                    value: swap.to_string(),
                    expected: "a memory.limit beside it",
                });
            };
            if swap < memory {
                return Err(Error::Invalid {
                    limit: "memory.swap",
                    value: swap.to_string(),
                    expected: "memory plus swap, so at least memory.limit",
                });
            }
            settings.push(at, "memory.swap", "memory.swap.max", swap - memory);
        }
        None if limit == Some(-1) => {
            settings
                .push(at, "memory.limit", "memory.swap.max", "max")
                .otherwise = super::Otherwise::Skip;
        }
        None => {}
    }
    if let Some(reservation) = memory.reservation().filter(|&bytes| bytes != 0) {
        let value = limit_value(Version::V2, reservation);
        settings.push(at, "memory.reservation", "memory.low", value);
    }
    Ok(())
}
