//! What the host as a whole has and uses, beside which the use of an instance is shown.

use std::fs;
use std::io;
use std::time::Duration;

/// What the host as a whole has used and has.
#[derive(Clone, Copy, Debug)]
pub struct HostUsage {
    /// Time that its processors were given, all of them together.
    pub cpu: Duration,
    /// How many of them run.
    pub online_cpus: u32,
    /// Its memory.
    pub memory_bytes: u64,
}

/// The host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// All of it, in bytes.
    pub total: u64,
    /// What could be had without swapping, in bytes.
    pub available: u64,
}

impl HostMemory {
    /// From `/proc/meminfo`, see proc_meminfo(5).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read() -> io::Result<HostMemory> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|rest| rest.split_ascii_whitespace().next());
            let kibibytes = kibibytes.and_then(|number| number.parse::<u64>().ok());
            kibibytes
                .map(|number| number * 1024)
                .ok_or_else(|| io::Error::other(format!("/proc/meminfo has no {name}")))
        };
        Ok(HostMemory {
            total: bytes("MemTotal:")?,
            available: bytes("MemAvailable:")?,
        })
    }
}

impl HostUsage {
    /// From `/proc/stat` and sysinfo(2).
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn read() -> io::Result<HostUsage> {
        let stat = fs::read_to_string("/proc/stat")?;
        let first = stat.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal, in ticks of 10 ms; see proc_stat(5).
        let ticks = first.split_whitespace().skip(1).take(8);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        let is_cpu = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let info = rustix::system::sysinfo();
        Ok(HostUsage {
            cpu: Duration::from_millis(ticks * 10),
            online_cpus: stat.lines().filter(is_cpu).count() as u32,
            memory_bytes: info.totalram as u64 * u64::from(info.mem_unit),
        })
    }
}
