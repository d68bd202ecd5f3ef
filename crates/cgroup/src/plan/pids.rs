//! Number of processes and threads. `Documentation/admin-guide/cgroup-v1/pids.rst`

use oci_spec::runtime::LinuxPids;

use super::Settings;
use crate::Error;

const CONTROLLER: &str = "pids";

pub(super) fn plan(pids: &LinuxPids, settings: &mut Settings<'_>) -> Result<(), Error> {
    // 0 is what Docker writes for "not set".
    if pids.limit() == 0 {
        return Ok(());
    }
    let version = settings.version(CONTROLLER, "pids.limit")?;
    let value = if pids.limit() < 0 {
        "max".to_owned()
    } else {
        pids.limit().to_string()
    };
    settings.push((CONTROLLER, version), "pids.limit", "pids.max", value);
    Ok(())
}
