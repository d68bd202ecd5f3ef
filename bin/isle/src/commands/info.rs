//! `isle info`.

use std::process::ExitCode;

use isle_engine::state::Status;
use isle_format::human;
use serde_json::{Value, json};

use super::version::show;
use crate::context::Context;
use crate::failure::Result;
use crate::images;

pub const ABOUT: &str = "Show what Isle has and what the host can do";
pub const EXAMPLES: &str = "  isle info
  isle info --format '{{.ContainersRunning}}'";

/// Flags of `info`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instances = engine.list()?;
    let count = |wanted: &[Status]| {
        instances
            .iter()
            .filter(|instance| wanted.contains(&instance.state.status))
            .count()
    };
    let paths = context.paths();
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory_bytes();
    let value = json!({
        "Containers": instances.len(),
        "ContainersRunning": count(&[Status::Running, Status::Restarting]),
        "ContainersPaused": count(&[Status::Paused]),
        "ContainersStopped": count(&[Status::Created, Status::Exited, Status::Removing]),
        "Images": images::count(context)?,
        "Driver": "overlayfs",
        "LoggingDriver": "json-file",
        "CgroupVersion": cgroup_version(),
        "IsolationLevels": levels(context),
        "DefaultIsolation": "container",
        "KernelVersion": uname.release().to_string_lossy(),
        "OperatingSystem": operating_system(),
        "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(),
        "NCPU": cpus,
        "MemTotal": memory,
        "DockerRootDir": paths.root,
        "RunDir": paths.run,
        "Name": uname.nodename().to_string_lossy(),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "SecurityOptions": ["name=seccomp,profile=builtin"],
    });
    show(args.format.as_deref(), &value, || words(&value, memory))?;
    Ok(ExitCode::SUCCESS)
}

/// Every level of the design: what this version and this host can do, and why not.
fn levels(context: &Context) -> Value {
    let level = |level: &isle_doctor::Level| {
        let reason = match (level.is_available, level.is_host_ready) {
            (true, _) => String::new(),
            (false, true) => "comes with a later version".to_owned(),
            (false, false) => level.notes.join("; "),
        };
        json!({
            "Name": level.isolation,
            "Available": level.is_available,
            "Reason": reason,
        })
    };
    isle_doctor::levels_of(&context.paths().root)
        .iter()
        .map(level)
        .collect()
}

fn words(value: &Value, memory: u64) -> String {
    let text = |key: &str| match &value[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let levels: Vec<String> = value["IsolationLevels"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|level| {
            let name = level["Name"].as_str().unwrap_or_default();
            match level["Reason"].as_str().unwrap_or_default() {
                "" => format!("  {name}: available\n"),
                reason => format!("  {name}: not available ({reason})\n"),
            }
        })
        .collect();
    format!(
        "Containers: {}\n Running: {}\n Paused: {}\n Stopped: {}\nImages: {}\nVersion: {}\n\
         Storage: {}\nLogging driver: {}\nCgroup version: {}\nIsolation levels:\n{}\
         Kernel: {}\nOperating system: {}\nArchitecture: {}\nCPUs: {}\nMemory: {}\nName: {}\nRoot: {}\nRun: {}\n\
         `isle doctor` looks closer at the host.\n",
        text("Containers"),
        text("ContainersRunning"),
        text("ContainersPaused"),
        text("ContainersStopped"),
        text("Images"),
        text("ServerVersion"),
        text("Driver"),
        text("LoggingDriver"),
        text("CgroupVersion"),
        levels.concat(),
        text("KernelVersion"),
        text("OperatingSystem"),
        text("Architecture"),
        text("NCPU"),
        human::binary_size(memory),
        text("Name"),
        text("DockerRootDir"),
        text("RunDir"),
    )
}

/// `2` where all controllers are on the unified hierarchy, `1` or hybrid otherwise.
fn cgroup_version() -> &'static str {
    let has = |path: &str| std::path::Path::new(path).exists();
    match (
        has("/sys/fs/cgroup/cgroup.controllers"),
        has("/sys/fs/cgroup/memory") || has("/sys/fs/cgroup/cpu"),
    ) {
        (true, _) => "2",
        (false, true) => "1",
        (false, false) => "none",
    }
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
