//! P10: images from a Dockerfile, when nothing and when one file has changed.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::engines::{Engine, Engines};
use crate::harness::{self, Benchmark, Column, Settings, measure};

/// Steps after `FROM`.
const STEPS: usize = 50;
/// Of them those that come after the file that changes.
const AFTER: usize = 5;

/// P10.
pub fn rebuilds(engines: &Engines, settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    context(folder.path())?;
    // BuildKit is Docker's builder; Podman builds by buildah.
    let build = |engine: Engine| {
        let mut command = engines.command(engine, ["build", "--network", "none", "-t", "built"]);
        command.arg(folder.path()).env("DOCKER_BUILDKIT", "1");
        match engine {
            Engine::Docker => harness::quietly(&mut with_builder(command)),
            Engine::Isle | Engine::Podman => harness::quietly(&mut command),
        }
    };
    let mut engines_here = Vec::new();
    for engine in engines.list(settings) {
        match build(engine) {
            Ok(()) => engines_here.push(engine),
            Err(error) if engine != Engine::Isle => {
                println!("\nLeft out: {} build: {error:#}", engine.name());
            }
            Err(error) => return Err(error),
        }
    }
    let columns = || engines_here.iter().copied();
    measure(
        settings,
        Benchmark {
            id: "P10-noop",
            title: "`build` of 50 steps, nothing changed; BuildKit in Docker's column, buildah in Podman's",
            span: "From before the command's process is made to its end: the image has its name.",
            warm_up: 1,
            runs: settings.runs,
            columns: columns()
                .map(|engine| {
                    Column::new(engine.name(), move || build(engine))
                        .daemons(engines.daemons(engine))
                })
                .collect(),
        },
    )?;
    let changes = Cell::new(0_u64);
    let changes = &changes;
    let changed = folder.path().join("changed");
    let changed = &changed;
    measure(
        settings,
        Benchmark {
            id: "P10-change",
            title: "the same with one file changed: a COPY and 5 RUN are done again",
            span: "As above; the file has just been written.",
            warm_up: 1,
            runs: settings.runs.min(15),
            columns: columns()
                .map(|engine| {
                    Column::new(engine.name(), move || {
                        changes.set(changes.get() + 1);
                        fs::write(changed, changes.get().to_string())?;
                        build(engine)
                    })
                    .daemons(engines.daemons(engine))
                })
                .collect(),
        },
    )
}

/// By Debian's command line where it is there: it has BuildKit's client in it, newer ones want a plug-in for that.
fn with_builder(command: Command) -> Command {
    const DEBIANS: &str = "/usr/bin/docker";
    if !Path::new(DEBIANS).exists() {
        return command;
    }
    let mut other = Command::new(DEBIANS);
    other.args(command.get_args());
    other.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    other
}

/// A Dockerfile with files to copy.
fn context(folder: &Path) -> Result<()> {
    let mut steps = String::from("FROM busybox\n");
    let before = STEPS - AFTER - 1;
    for step in 0..before {
        match step % 3 {
            0 => {
                fs::write(folder.join(format!("f{step}")), format!("file {step}\n"))?;
                writeln!(steps, "COPY f{step} /files/")?;
            }
            1 => writeln!(steps, "RUN echo {step} > /r{step}")?,
            _ => writeln!(steps, "ENV V{step}={step}")?,
        }
    }
    fs::write(folder.join("changed"), "0")?;
    steps.push_str("COPY changed /files/\n");
    for step in 0..AFTER {
        writeln!(steps, "RUN cat /files/changed > /a{step}")?;
    }
    fs::write(folder.join("Dockerfile"), steps)?;
    Ok(())
}
