//! `events`: what a container uses, in the JSON of runc.

use std::path::Path;

use anyhow::{Context, bail};
use isle_cgroup::Stats;
use serde_json::json;

use crate::arguments::Events;
use crate::container::Container;

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
    println!("{}", line(id, &cgroup.stats()?));
    if arguments.stats {
        return Ok(0);
    }
    let state = container.state;
    // others may change it while we look on
    drop(container.directory);
    while state.process().is_some() {
        std::thread::sleep(interval);
        let Ok(stats) = cgroup.stats() else { break };
        let now = cgroup.oom_kills().unwrap_or(oom_kills);
        if now > oom_kills {
            oom_kills = now;
            println!("{}", json!({"type": "oom", "id": id}));
        }
        println!("{}", line(id, &stats));
    }
    Ok(0)
}
