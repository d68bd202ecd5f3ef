//! `isle stats`.

use std::process::ExitCode;
use std::time::Duration;

use isle_docker_model::status;
use isle_engine::state::{Instance, Status};
use isle_engine::{Engine, MachineStats, Stats};
use isle_format::{Column, Row, human, column};
use isle_types::Isolation;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, ListFlags};

pub const ABOUT: &str = "Show what instances use of CPU, memory and I/O";
pub const EXAMPLES: &str = "  isle stats
  isle stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}}'";

/// Flags of `stats`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub shown: Shown,
    /// Names or ids; all that run when not given
    #[arg(value_name = "CONTAINER")]
    pub instances: Vec<String>,
}

/// What is shown, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct Shown {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// One reading, then end
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
}

/// The columns without template: those of Docker, and where there is a virtual machine what it costs the host.
const DEFAULT: usize = 8;
const COLUMNS: [Column; 12] = [
    column("ID", "CONTAINER ID"),
    column("Name", "NAME"),
    column("CPUPerc", "CPU %"),
    column("MemUsage", "MEM USAGE / LIMIT"),
    column("MemPerc", "MEM %"),
    column("NetIO", "NET I/O"),
    column("BlockIO", "BLOCK I/O"),
    column("PIDs", "PIDS"),
    column("HostMem", "HOST MEM"),
    column("HostMemPrivate", "PRIVATE HOST MEM"),
    column("GuestMem", "GUEST MEM / MACHINE"),
    column("Container", "CONTAINER"),
];

/// Between two readings: the CPU percentage is of this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// Cursor to the top left, and the rest of the screen empty.
const CLEAR: &str = "\x1b[H\x1b[J";

pub fn run(args: &Args, context: &Context) -> Result {
    let list = ListFlags {
        format: args.shown.format.as_deref(),
        only: None,
        without_titles: false,
    };
    // A mistake in a template is told before a reading is waited for.
    list.listing(&COLUMNS[..DEFAULT])?;
    let engine = context.engine()?;
    let is_screen = !args.shown.no_stream && rustix::termios::isatty(std::io::stdout());
    let mut before = readings(engine, args)?;
    loop {
        std::thread::sleep(INTERVAL);
        let now = readings(engine, args)?;
        let rows: Vec<Row> = now
            .iter()
            .map(|(instance, stats)| {
                let earlier = before.iter().find(|(other, _)| other.id == instance.id);
                let earlier = earlier.and_then(|(_, stats)| stats.as_ref());
                row(instance, earlier, stats.as_ref(), args.shown.no_trunc)
            })
            .collect();
        let has_machine = now
            .iter()
            .any(|(instance, _)| instance.config.isolation == Isolation::Vm);
        let listing = list.listing(&COLUMNS[..DEFAULT + usize::from(has_machine)])?;
        let text = listing.render(&COLUMNS, &rows)?;
        match is_screen {
            true => output::print(&format!("{CLEAR}{text}"))?,
            false => output::print(&text)?,
        }
        if args.shown.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

type Reading = (Instance, Option<Stats>);

fn readings(engine: &Engine, args: &Args) -> Result<Vec<Reading>> {
    let instances = match args.instances.as_slice() {
        [] => engine.list()?,
        names => names
            .iter()
            .map(|name| engine.find(name))
            .collect::<std::result::Result<_, _>>()?,
    };
    let named = !args.instances.is_empty();
    let mut readings = Vec::new();
    for instance in instances {
        let runs = matches!(instance.state.status, Status::Running | Status::Paused);
        if !runs && !args.shown.all && !named {
            continue;
        }
        // One that ends just now has no reading: it is shown with dashes, as one that is stopped.
        let stats = match runs {
            true => engine.stats(&instance.id).ok(),
            false => None,
        };
        readings.push((instance, stats));
    }
    Ok(readings)
}

fn row(instance: &Instance, before: Option<&Stats>, now: Option<&Stats>, no_trunc: bool) -> Row {
    let id = match no_trunc {
        true => instance.id.to_string(),
        false => instance.id.short(),
    };
    let dash = || "--".to_owned();
    let machine = now.and_then(|stats| stats.machine);
    // A container takes of the host what it uses.
    let host = |of: fn(MachineStats) -> u64| match (machine, now) {
        (Some(machine), _) => human::binary_size(of(machine)),
        (None, Some(stats)) => human::binary_size(stats.memory_bytes),
        (None, None) => dash(),
    };
    let guest = machine.map_or_else(
        || "-- / --".to_owned(),
        |machine| {
            format!(
                "{} / {}",
                human::binary_size(machine.guest_memory_bytes),
                human::binary_size(machine.memory_bytes)
            )
        },
    );
    let (cpu, memory, memory_percent, network, block, pids) = match now {
        None => (
            dash(),
            "-- / --".to_owned(),
            dash(),
            dash(),
            dash(),
            dash(),
        ),
        Some(stats) => (
            format!("{:.2}%", cpu_percent(before, stats)),
            format!(
                "{} / {}",
                human::binary_size(stats.memory_bytes),
                human::binary_size(stats.memory_limit_bytes)
            ),
            format!("{:.2}%", memory_percent(stats)),
            match stats.network {
                None => "-- / --".to_owned(),
                Some((received, sent)) => {
                    format!("{} / {}", human::size(received, 3), human::size(sent, 3))
                }
            },
            format!(
                "{} / {}",
                human::size(stats.block_io.0, 3),
                human::size(stats.block_io.1, 3)
            ),
            stats.pids.to_string(),
        ),
    };
    let text = Value::String;
    Row::new([
        ("ID", text(id.clone())),
        ("Container", text(id)),
        ("Name", text(instance.name.to_string())),
        ("CPUPerc", text(cpu)),
        ("MemUsage", text(memory)),
        ("MemPerc", text(memory_percent)),
        ("NetIO", text(network)),
        ("BlockIO", text(block)),
        ("PIDs", text(pids)),
        ("HostMem", text(host(|machine| machine.host_bytes))),
        ("HostMemPrivate", text(host(|machine| machine.host_private_bytes))),
        ("GuestMem", text(guest)),
        ("State", json!(status::word(instance.state.status))),
    ])
}

/// Of one CPU, as Docker counts: 200 % is two CPUs in full use.
fn cpu_percent(before: Option<&Stats>, now: &Stats) -> f64 {
    let Some(before) = before else {
        return 0.0;
    };
    let used = now.cpu.saturating_sub(before.cpu).as_secs_f64();
    let passed = now.system_cpu.saturating_sub(before.system_cpu).as_secs_f64();
    match passed > 0.0 {
        true => used / passed * f64::from(now.online_cpus) * 100.0,
        false => 0.0,
    }
}

fn memory_percent(stats: &Stats) -> f64 {
    match stats.memory_limit_bytes {
        0 => 0.0,
        limit => stats.memory_bytes as f64 / limit as f64 * 100.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_counted_in_percent_of_one() {
        let reading = |cpu, system| Stats {
            cpu: Duration::from_millis(cpu),
            system_cpu: Duration::from_millis(system),
            online_cpus: 2,
            ..Stats::default()
        };
        let percent = cpu_percent(Some(&reading(0, 0)), &reading(1000, 2000));
        assert_eq!(percent, 100.0);
        assert_eq!(cpu_percent(None, &reading(5, 5)), 0.0);
        assert_eq!(cpu_percent(Some(&reading(9, 9)), &reading(5, 9)), 0.0);
    }
}
