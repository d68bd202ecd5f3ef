//! `ps`: the processes of a container, by their pids on the host.

use std::path::Path;

use anyhow::bail;

use crate::arguments::{Format, Ps};
use crate::container::Container;

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
        println!("{}", serde_json::to_string(&pids)?);
        return Ok(0);
    }
    println!("{:>7}  COMMAND", "PID");
    for pid in pids {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // it is the container's text: it must not steer our terminal
        let command: String = command
            .trim_end()
            .chars()
            .map(|letter| if letter.is_control() { '?' } else { letter })
            .collect();
        println!("{pid:>7}  {command}");
    }
    Ok(0)
}
