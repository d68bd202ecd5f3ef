//! CPUs and memory nodes. `Documentation/admin-guide/cgroup-v1/cpusets.rst`

use oci_spec::runtime::LinuxCpu;

use super::Settings;
use crate::Error;

const CONTROLLER: &str = "cpuset";

pub(super) fn plan(cpu: &LinuxCpu, settings: &mut Settings<'_>) -> Result<(), Error> {
    for (list, limit, file) in [
        (cpu.cpus(), "cpu.cpus", "cpuset.cpus"),
        (cpu.mems(), "cpu.mems", "cpuset.mems"),
    ] {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
            continue;
        };
        if !list
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-' | b':' | b'/'))
        {
            return Err(Error::Invalid {
                limit,
                value: list.to_owned(),
                expected: "a list like 0-2,4",
            });
        }
        let version = settings.version(CONTROLLER, limit)?;
        settings.push((CONTROLLER, version), limit, file, list);
    }
    Ok(())
}
