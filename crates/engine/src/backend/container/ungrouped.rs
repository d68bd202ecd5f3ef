//! Instances without a control group: those of ordinary users to whom the host delegates none. Their processes are found in
//! `/proc`, and what they use is added up.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Stats;
use crate::backend::stat_field;
use isle_machine::host::HostUsage;

/// Ticks of proc_pid_stat(5) a second: `USER_HZ` is this on every architecture that Isle runs on.
const TICKS: u64 = 100;

/// The first process of an instance, what it has started, and all others of a process namespace that is its own.
pub(super) fn processes(first: i32) -> Vec<i32> {
    let namespace = |pid: i32| fs::read_link(folder(pid).join("ns/pid")).ok();
    let own = namespace(std::process::id().cast_signed());
    let of_first = namespace(first);
    let is_private = of_first.is_some() && of_first != own;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<(i32, i32)> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let stat = fs::read_to_string(folder(pid).join("stat")).ok()?;
            Some((pid, stat_field(&stat, 4)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![first];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        let children = all.iter().filter(|(_, of)| *of == parent);
        found.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    if is_private {
        let others = all.iter().map(|(pid, _)| *pid);
        found.extend(others.filter(|pid| namespace(*pid) == of_first));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Kills them until none is left.
pub(super) fn kill_all(first: i32) {
    for _ in 0..100 {
        let mut is_any = false;
        for pid in processes(first) {
            let held = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
            if let Some(Ok(held)) = held
                && !is_zombie(pid)
            {
                is_any |= pidfd_send_signal(&held, Signal::KILL).is_ok();
            }
        }
        if !is_any {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What they have used, as far as those that live know: memory that they share is counted for each.
pub(super) fn stats(first: i32) -> io::Result<Stats> {
    let host = HostUsage::read()?;
    let mut stats = Stats {
        system_cpu: host.cpu,
        online_cpus: host.online_cpus,
        memory_limit_bytes: host.memory_bytes,
        ..Stats::default()
    };
    for pid in processes(first) {
        let Ok(stat) = fs::read_to_string(folder(pid).join("stat")) else {
            continue;
        };
        let number = |field| {
            stat_field(&stat, field)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        // With children that were waited for.
        let ticks: u64 = (14..=17).map(number).sum();
        stats.cpu += Duration::from_millis(ticks * 1000 / TICKS);
        stats.pids += number(20);
        stats.memory_bytes += value(pid, "status", "VmRSS:") * 1024;
        stats.block_io.0 += value(pid, "io", "read_bytes:");
        stats.block_io.1 += value(pid, "io", "write_bytes:");
    }
    Ok(stats)
}

/// A number in a file of lines `name: number`; 0 where it is not told.
fn value(pid: i32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(folder(pid).join(file)).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(folder(pid).join("stat")).is_ok_and(|stat| stat_field(&stat, 3) == Some("Z"))
}

fn folder(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_and_what_it_has_started_are_found_and_killed() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & sleep 1000 & wait"])
            .spawn()
            .unwrap();
        let first = child.id().cast_signed();
        while processes(first).len() < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let stats = stats(first).unwrap();
        assert!(stats.memory_bytes > 0);
        assert_eq!(stats.pids, 3);
        kill_all(first);
        child.wait().unwrap();
        assert_eq!(processes(first), [first]);
    }
}
