//! What a group has used.

use std::time::Duration;

use crate::directory::Directory;
use crate::{Cgroup, Error, Version};

/// What was counted. Zero where the host has no such controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used.
    pub cpu: Duration,
    /// In user space.
    pub cpu_user: Duration,
    /// In the kernel.
    pub cpu_system: Duration,
    /// Bytes of memory in use, page cache included.
    pub memory_usage_bytes: u64,
    /// Page cache that can be dropped at once (`inactive_file`).
    pub memory_inactive_file_bytes: u64,
    /// `None`: no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Times the kernel killed a process for lack of memory.
    pub oom_kills: u64,
    /// Bytes read from block devices.
    pub io_read_bytes: u64,
    /// Bytes written to block devices.
    pub io_write_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// What lack of memory has led to in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Times the kernel killed a process.
    pub kills: u64,
    /// The group has been at its own limit; else it was the memory of the whole machine that ran out. Version 1 tells
    /// so as well of a limit that was kept by dropping page cache.
    pub was_at_limit: bool,
}

impl Cgroup {
    /// One reading.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        match self.directory_with("cpuacct") {
            Some(directory) => cpu_v1(directory, &mut stats)?,
            // cpu.stat is there without the cpu controller.
            None => {
                if let Some(directory) = self.directory_with("") {
                    cpu_v2(directory, &mut stats)?;
                }
            }
        }
        if let Some(directory) = self.enabled("memory", "memory.current") {
            match directory.version {
                Version::V1 => memory_v1(directory, &mut stats)?,
                Version::V2 => memory_v2(directory, &mut stats)?,
            }
            stats.oom_kills = self.oom_kills()?;
        }
        if let Some(directory) = self.enabled("pids", "pids.current") {
            stats.pids = number(&directory.read("pids.current")?);
        }
        if let Some(directory) = self.directory_with("blkio") {
            io_v1(directory, &mut stats)?;
        } else if let Some(directory) = self.enabled("io", "io.stat") {
            io_v2(directory, &mut stats)?;
        }
        Ok(stats)
    }

    /// Times the kernel killed a process here for lack of memory. 0 without a memory controller.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        Ok(self.out_of_memory()?.kills)
    }

    /// What lack of memory has led to here.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn out_of_memory(&self) -> Result<OutOfMemory, Error> {
        let Some(directory) = self.enabled("memory", "memory.events") else {
            return Ok(OutOfMemory::default());
        };
        Ok(match directory.version {
            Version::V1 => OutOfMemory {
                kills: keyed(&directory.read("memory.oom_control")?, "oom_kill"),
                // Failed charges (`failcnt`) are not counted when it is swap and memory together that is limited.
                was_at_limit: ["memory", "memory.memsw"]
                    .iter()
                    .any(|counter| has_reached_limit(directory, counter)),
            },
            Version::V2 => {
                let events = directory.read("memory.events")?;
                OutOfMemory {
                    kills: keyed(&events, "oom_kill"),
                    was_at_limit: keyed(&events, "oom") > 0,
                }
            }
        })
    }

    /// The directory of a controller, if version 2 has it enabled in this group.
    fn enabled(&self, controller: &str, file: &str) -> Option<&Directory> {
        self.directory_with(controller)
            .filter(|directory| directory.version == Version::V1 || directory.has_file(file))
    }
}

fn cpu_v1(directory: &Directory, stats: &mut Stats) -> Result<(), Error> {
    stats.cpu = Duration::from_nanos(number(&directory.read("cpuacct.usage")?));
    // cpuacct.stat has these in ticks of 10 ms
    stats.cpu_user = Duration::from_nanos(number(&directory.read("cpuacct.usage_user")?));
    stats.cpu_system = Duration::from_nanos(number(&directory.read("cpuacct.usage_sys")?));
    Ok(())
}

fn cpu_v2(directory: &Directory, stats: &mut Stats) -> Result<(), Error> {
    let text = directory.read("cpu.stat")?;
    stats.cpu = Duration::from_micros(keyed(&text, "usage_usec"));
    stats.cpu_user = Duration::from_micros(keyed(&text, "user_usec"));
    stats.cpu_system = Duration::from_micros(keyed(&text, "system_usec"));
    Ok(())
}

fn memory_v1(directory: &Directory, stats: &mut Stats) -> Result<(), Error> {
    // No limit is the largest number of pages that fits (PAGE_COUNTER_MAX).
    const NO_LIMIT: u64 = 1 << 62;
    stats.memory_usage_bytes = number(&directory.read("memory.usage_in_bytes")?);
    stats.memory_inactive_file_bytes =
        keyed(&directory.read("memory.stat")?, "total_inactive_file");
    let limit = number(&directory.read("memory.limit_in_bytes")?);
    stats.memory_limit_bytes = Some(limit).filter(|&limit| limit < NO_LIMIT);
    Ok(())
}

fn memory_v2(directory: &Directory, stats: &mut Stats) -> Result<(), Error> {
    stats.memory_usage_bytes = number(&directory.read("memory.current")?);
    stats.memory_inactive_file_bytes = keyed(&directory.read("memory.stat")?, "inactive_file");
    stats.memory_limit_bytes = directory.read("memory.max")?.trim().parse().ok();
    Ok(())
}

/// Lines like `8:0 Read 4096`.
fn io_v1(directory: &Directory, stats: &mut Stats) -> Result<(), Error> {
    let text = directory.read("blkio.throttle.io_service_bytes_recursive")?;
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        match (words.next(), words.next()) {
            (Some("Read"), Some(bytes)) => stats.io_read_bytes += number(bytes),
            (Some("Write"), Some(bytes)) => stats.io_write_bytes += number(bytes),
            _ => {}
        }
    }
    Ok(())
}

/// Lines like `8:0 rbytes=4096 wbytes=0 rios=1 …`.
fn io_v2(directory: &Directory, stats: &mut Stats) -> Result<(), Error> {
    let text = directory.read("io.stat")?;
    for word in text.split_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", bytes)) => stats.io_read_bytes += number(bytes),
            Some(("wbytes", bytes)) => stats.io_write_bytes += number(bytes),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a counter of version 1 has ever been at its limit, but for what the kernel charges in one go.
fn has_reached_limit(directory: &Directory, counter: &str) -> bool {
    const CHARGED_AT_ONCE: u64 = 64 * 4096;
    let read = |file: &str| {
        let text = directory.read(&format!("{counter}.{file}"));
        text.ok().map(|text| number(&text))
    };
    match (read("max_usage_in_bytes"), read("limit_in_bytes")) {
        (Some(most), Some(limit)) => most.saturating_add(CHARGED_AT_ONCE) >= limit,
        _ => false,
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The value of a line `key value`.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map_or(0, |(_, value)| number(value))
}
