//! `events`: what a container uses, in the JSON of runc.

use std::path::Path;

use anyhow::{Context, bail};
use isle_cgroup::{Cgroup, Stats};
use serde_json::json;

use crate::arguments::Events;
use crate::container::Container;
use crate::log::print;
use crate::state::Directory;
use crate::vm;

fn line(id: &str, stats: &Stats) -> String {
    json!({
        "type": "stats",
        "id": id,
        "data": {
            "cpu": {"usage": {
                "total": u64::try_from(stats.cpu.as_nanos()).unwrap_or(u64::MAX),
                "user": u64::try_from(stats.cpu_user.as_nanos()).unwrap_or(u64::MAX),
                "kernel": u64::try_from(stats.cpu_system.as_nanos()).unwrap_or(u64::MAX),
            }},
            "memory": {
                "usage": {
                    "limit": stats.memory_limit_bytes.unwrap_or(u64::MAX),
                    "usage": stats.memory_usage_bytes,
                },
                "raw": {"inactive_file": stats.memory_inactive_file_bytes},
            },
            "pids": {"current": stats.pids},
            "blkio": {
                "ioServiceBytesRecursive": [
                    {"op": "Read", "value": stats.io_read_bytes},
                    {"op": "Write", "value": stats.io_write_bytes},
                ],
            },
        },
    })
    .to_string()
}

/// One reading. Of a virtual machine the host sees the hypervisor: what its processes have of the guest, the guest tells.
fn read(cgroup: &Cgroup, directory: &Directory) -> anyhow::Result<Stats> {
    let mut stats = cgroup.stats()?;
    if vm::is_machine(directory)
        && let Ok(guest) = vm::stats(directory)
    {
        stats.memory_usage_bytes = guest.memory_usage;
        stats.memory_inactive_file_bytes = guest.memory_inactive_file;
        stats.memory_limit_bytes = guest.memory_limit;
        stats.pids = guest.pids;
        stats.io_read_bytes = guest.read_bytes;
        stats.io_write_bytes = guest.written_bytes;
    }
    Ok(stats)
}

pub(super) fn run(root: &Path, arguments: &Events) -> anyhow::Result<u8> {
    let interval = isle_types::parse_duration(&arguments.interval).context("invalid --interval")?;
    let id = &arguments.id;
    let container = Container::open(root, id)?;
    if container.process.is_none() {
        bail!("container {id:?} is not running");
    }
    let Some(cgroup) = container.cgroup()? else {
        bail!("container {id:?} has no control group that counts");
    };
    let mut oom_kills = cgroup.oom_kills().unwrap_or(0);
    print(&line(id, &read(&cgroup, &container.directory)?))?;
    if arguments.stats {
        return Ok(0);
    }
    // others may change it while we look on
    rustix::fs::flock(container.directory.fd(), rustix::fs::FlockOperation::Unlock)?;
    while container.state.process().is_some() {
        std::thread::sleep(interval);
        let Ok(stats) = read(&cgroup, &container.directory) else {
            break;
        };
        let now = cgroup.oom_kills().unwrap_or(oom_kills);
        if now > oom_kills {
            oom_kills = now;
            print(&json!({"type": "oom", "id": id}).to_string())?;
        }
        print(&line(id, &stats))?;
    }
    Ok(0)
}
