//! `ps`: the processes of a container, by their pids on the host.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::arguments::{Format, Ps};
use crate::container::Container;
use crate::log::print;

pub(super) fn run(root: &Path, arguments: &Ps) -> anyhow::Result<u8> {
    let container = Container::open(root, &arguments.id)?;
    if container.process.is_none() {
        bail!("container {:?} is not running", arguments.id);
    }
    let pids = match container.cgroup()? {
        Some(cgroup) => cgroup.processes()?,
        None => vec![container.state.pid],
    };
    if arguments.format == Format::Json {
        print(&serde_json::to_string(&pids)?)?;
        return Ok(0);
    }
    if !arguments.options.is_empty() {
        return table_of_ps(&pids, &arguments.options);
    }
    print(&format!("{:>7}  COMMAND", "PID"))?;
    for pid in pids {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // it is the container's text: it must not steer our terminal
        let command: String = command
            .trim_end()
            .chars()
            .map(|letter| if letter.is_control() { '?' } else { letter })
            .collect();
        print(&format!("{pid:>7}  {command}"))?;
    }
    Ok(0)
}

/// The lines of ps(1) that are about these processes, found by its column PID.
fn table_of_ps(pids: &[i32], options: &[String]) -> anyhow::Result<u8> {
    let output = Command::new("ps")
        .args(options)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run ps: install procps, or leave its arguments out")?;
    if !output.status.success() {
        bail!("ps {}: it ended with {}", options.join(" "), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let Some(column) = heading.split_whitespace().position(|word| word == "PID") else {
        bail!("ps {}: there is no column PID", options.join(" "));
    };
    print(heading)?;
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            print(line)?;
        }
    }
    Ok(0)
}
