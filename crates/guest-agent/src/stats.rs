//! What was used.

use std::fs;
use std::io;

use isle_cgroup::Cgroup;
use isle_guest_protocol::Stats;

pub(crate) fn read(cgroup: Option<&Cgroup>) -> io::Result<Stats> {
    let mut stats = Stats::default();
    if let Some(cgroup) = cgroup {
        let own = cgroup.stats()?;
        stats.cpu_ns = own.cpu.as_nanos() as u64;
        stats.memory_usage = own.memory_usage_bytes;
        stats.memory_inactive_file = own.memory_inactive_file_bytes;
        stats.memory_limit = own.memory_limit_bytes;
        stats.oom_kills = own.oom_kills;
        stats.read_bytes = own.io_read_bytes;
        stats.written_bytes = own.io_write_bytes;
        stats.pids = own.pids;
    }
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal, in ticks of 10 ms; see proc_stat(5).
    let ticks = first.split_whitespace().skip(1).take(8);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    stats.system_cpu_ns = ticks * 10_000_000;
    let is_cpu = |line: &&str| {
        let number = line.strip_prefix("cpu");
        number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    stats.online_cpus = stat.lines().filter(is_cpu).count() as u32;
    for line in fs::read_to_string("/proc/meminfo")?.lines() {
        let (name, rest) = line.split_once(':').unwrap_or_default();
        let field = match name {
            "MemTotal" => &mut stats.guest_memory,
            "MemFree" => &mut stats.guest_free,
            "MemAvailable" => &mut stats.guest_available,
            _ => continue,
        };
        let kibibytes = rest
            .split_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        *field = kibibytes.unwrap_or(0) * 1024;
    }
    let links = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    (stats.received_bytes, stats.sent_bytes) = isle_netlink::link::carried(&links);
    Ok(stats)
}
