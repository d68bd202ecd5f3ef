//! P6 and P8: many containers at once.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::engines::{Engine, Engines};
use crate::harness::{Settings, milliseconds};

/// Clients that start containers at the same time.
const CLIENTS: usize = 4;

/// P8.
pub fn supervisor_memory(engines: &Engines, settings: &Settings) -> Result<()> {
    const CONTAINERS: usize = 20;
    println!(
        "\n### P8: memory of the supervisor, a container\n\n\
         PSS of all processes of the supervisor's name 3 s after {CONTAINERS} idle containers were started, divided by \
         their number (/proc/<pid>/smaps_rollup). Docker's daemons come on top.\n"
    );
    println!("| column | supervisor | processes | PSS a container |");
    println!("|---|---|---|---|");
    let mut csv = String::from("column,containers,processes,pss_kb\n");
    for engine in engines.list(settings) {
        let names: Vec<String> = (0..CONTAINERS).map(|number| format!("m{number}")).collect();
        for name in &names {
            engines.quietly(
                engine,
                &[
                    "run",
                    "-d",
                    "--name",
                    name,
                    "--network",
                    "none",
                    "busybox",
                    "sleep",
                    "3600",
                ],
            )?;
        }
        // A supervisor gives back what it needed for the start once it is calm.
        std::thread::sleep(Duration::from_secs(3));
        let pids = supervisors(engine, engines.folder());
        let pss: u64 = pids.iter().map(|pid| pss_kb(*pid)).sum();
        let processes = pids.len();
        println!(
            "| {} | {} | {processes} | {:.2} MB |",
            engine.name(),
            engine.supervisor(),
            pss as f64 / 1024.0 / CONTAINERS as f64
        );
        csv.push_str(&format!(
            "{},{CONTAINERS},{processes},{pss}\n",
            engine.name()
        ));
        let mut arguments = vec!["rm", "-f"];
        arguments.extend(names.iter().map(String::as_str));
        engines.quietly(engine, &arguments)?;
    }
    fs::write(settings.output.join("P8.csv"), csv)?;
    Ok(())
}

/// Those whose arguments name our folder: others may run on the same host.
fn supervisors(engine: Engine, folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let read = |pid: u32, name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let folder = folder.to_string_lossy();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            read(*pid, "comm").starts_with(engine.supervisor())
                && read(*pid, "cmdline").contains(&*folder)
        })
        .collect()
}

fn pss_kb(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// P6.
pub fn up_and_down(engines: &Engines, settings: &Settings, containers: usize) -> Result<()> {
    up_and_down_on(engines, settings, containers, ("P6", "none"), |_| "none")
}

/// P6, on a network: each engine's default one.
pub fn up_and_down_on_bridge(
    engines: &Engines,
    settings: &Settings,
    containers: usize,
) -> Result<()> {
    let name = ("P6-bridge", "bridge");
    up_and_down_on(engines, settings, containers, name, Engine::bridge)
}

fn up_and_down_on(
    engines: &Engines,
    settings: &Settings,
    containers: usize,
    (id, word): (&str, &str),
    network: impl Fn(Engine) -> &'static str,
) -> Result<()> {
    println!(
        "\n### {id}: {containers} containers up, then gone\n\n\
         Up: from the first `run -d --network {word} busybox sleep 3600` of {CLIENTS} clients at once until the last has \
         returned. Down: one `rm -f` of them all, until it has returned. Rivals start a twentieth. Left: \
         mounts, control groups, links and processes more than before, 2 s later (a network and who keeps it may stay \
         for a while).\n"
    );
    println!("| column | containers | up | down | up, each | down, each | left |");
    println!("|---|---|---|---|---|---|---|");
    let mut csv = String::from("column,containers,up_us,down_us,left\n");
    for engine in engines.list(settings) {
        let count = match engine {
            Engine::Isle => containers,
            _ => (containers / 20).max(1),
        };
        let before = census();
        let begin = Instant::now();
        start_all(engines, engine, count, network(engine))?;
        let up = begin.elapsed();
        let begin = Instant::now();
        let names: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
        let mut arguments = vec!["rm", "-f"];
        if engine == Engine::Podman {
            arguments.extend(["--time", "0"]);
        }
        arguments.extend(names.iter().map(String::as_str));
        engines.quietly(engine, &arguments)?;
        let down = begin.elapsed();
        std::thread::sleep(Duration::from_secs(2));
        let after = census();
        let left = format!(
            "{} mounts, {} cgroups, {} links, {} processes",
            after.mounts.saturating_sub(before.mounts),
            after.cgroups.saturating_sub(before.cgroups),
            after.links.saturating_sub(before.links),
            after.processes.saturating_sub(before.processes)
        );
        let each = |time: Duration| time / u32::try_from(count).expect("some thousands");
        println!(
            "| {} | {count} | {:.1} s | {:.1} s | {} | {} | {left} |",
            engine.name(),
            up.as_secs_f64(),
            down.as_secs_f64(),
            milliseconds(each(up)),
            milliseconds(each(down))
        );
        csv.push_str(&format!(
            "{},{count},{},{},{left}\n",
            engine.name(),
            up.as_micros(),
            down.as_micros()
        ));
    }
    fs::write(settings.output.join(format!("{id}.csv")), csv)?;
    Ok(())
}

fn start_all(engines: &Engines, engine: Engine, count: usize, network: &str) -> Result<()> {
    // The commands are made here; a thread only runs them.
    let mut shares: Vec<Vec<std::process::Command>> = (0..CLIENTS).map(|_| Vec::new()).collect();
    for number in 0..count {
        let name = format!("c{number}");
        shares[number % CLIENTS].push(engines.command(
            engine,
            [
                "run",
                "-d",
                "--name",
                &name,
                "--network",
                network,
                "busybox",
                "sleep",
                "3600",
            ],
        ));
    }
    std::thread::scope(|scope| {
        let clients: Vec<_> = shares
            .into_iter()
            .map(|share| {
                scope.spawn(move || {
                    for mut command in share {
                        crate::harness::quietly(&mut command)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for client in clients {
            match client.join() {
                Ok(result) => result.with_context(|| format!("{} run", engine.name()))?,
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(())
    })
}

struct Census {
    mounts: usize,
    cgroups: usize,
    links: usize,
    processes: usize,
}

fn census() -> Census {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let processes = fs::read_dir("/proc").map_or(0, |entries| {
        entries
            .flatten()
            // Kernel threads come and go by themselves; they have no program.
            .filter(|entry| fs::read_link(entry.path().join("exe")).is_ok())
            .count()
    });
    let mut cgroups = 0;
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                cgroups += 1;
                folders.push(entry.path());
            }
        }
    }
    Census {
        mounts: mounts.lines().count(),
        cgroups,
        links: fs::read_dir("/sys/class/net").map_or(0, Iterator::count),
        processes,
    }
}
