//! P2 and P5: what a user of an engine waits for.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result};
use isle_tests::peers::{Docker, Podman};
use serde_json::Value;

use crate::harness::{self, Benchmark, Column, Settings, measure};
use crate::rivals;

/// The engines, each in a root of its own with the busybox image in its store.
pub struct Engines {
    podman: Option<Podman>,
    docker: Option<Docker>,
    // Last: fields are dropped in this order, and the engines live in it.
    folder: tempfile::TempDir,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Isle,
    Podman,
    Docker,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Engine::Isle => "isle",
            Engine::Podman => "podman",
            Engine::Docker => "docker",
        }
    }

    /// Its default network. The daemon of the benchmarks has no bridge: Docker is measured without a network, which
    /// flatters it.
    pub fn bridge(self) -> &'static str {
        match self {
            Engine::Isle | Engine::Podman => "bridge",
            Engine::Docker => "none",
        }
    }

    /// What the supervisor of a container is called, as /proc/<pid>/comm has it.
    pub fn supervisor(self) -> &'static str {
        match self {
            Engine::Isle => "isle-shim",
            Engine::Podman => "conmon",
            Engine::Docker => "containerd-shim",
        }
    }
}

/// The archive that the image of most benchmarks is imported from.
pub fn busybox_rootfs() -> Result<String> {
    let cache = std::env::var("ISLE_EXAMPLES_CACHE").unwrap_or("target/examples-cache".into());
    let description = std::fs::read(format!("{cache}/busybox.json"))
        .context("the busybox image is not there: cargo xtask images busybox")?;
    let description: Value = serde_json::from_slice(&description)?;
    let rootfs = description["rootfs"].as_str().context("no rootfs")?;
    Ok(rootfs.to_owned())
}

impl Engines {
    pub fn start(settings: &Settings) -> Result<Engines> {
        let folder = tempfile::Builder::new()
            .prefix("isle-bench-")
            .tempdir_in("/var/tmp")?;
        let podman = settings
            .wants("podman")
            .then(|| Podman::new(&folder.path().join("podman"), "runc"));
        let docker = if settings.wants("docker") {
            match Docker::start(&folder.path().join("docker")) {
                Ok(docker) => Some(docker),
                Err(reason) => {
                    println!("\nLeft out: docker: {reason}");
                    None
                }
            }
        } else {
            None
        };
        let engines = Engines {
            folder,
            podman,
            docker,
        };
        let rootfs = busybox_rootfs()?;
        for engine in engines.list(settings) {
            harness::quietly(&mut engines.command(
                engine,
                ["import", "--change", "ENV PATH=/bin", &rootfs, "busybox"],
            ))
            .with_context(|| format!("{} import", engine.name()))?;
        }
        Ok(engines)
    }

    /// Those that run here.
    pub fn list(&self, settings: &Settings) -> Vec<Engine> {
        [Engine::Isle, Engine::Podman, Engine::Docker]
            .into_iter()
            .filter(|engine| match engine {
                Engine::Isle => settings.wants("isle"),
                Engine::Podman => self.podman.is_some(),
                Engine::Docker => self.docker.is_some(),
            })
            .collect()
    }

    pub fn command<S: AsRef<OsStr>>(
        &self,
        engine: Engine,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        match engine {
            Engine::Isle => {
                let mut command = Command::new(rivals::isle("isle", "ISLE_BIN"));
                command
                    .env("ISLE_ROOT", self.folder.path().join("isle"))
                    .env("ISLE_NETWORK", "none")
                    .args(arguments);
                command
            }
            Engine::Podman => self.podman.as_ref().expect("listed").command(arguments),
            Engine::Docker => self.docker.as_ref().expect("listed").command(arguments),
        }
    }

    pub fn quietly(&self, engine: Engine, arguments: &[&str]) -> Result<()> {
        harness::quietly(&mut self.command(engine, arguments))
    }

    pub fn daemons(&self, engine: Engine) -> Vec<u32> {
        match (engine, &self.docker) {
            (Engine::Docker, Some(docker)) => docker.daemons(),
            _ => Vec::new(),
        }
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// P2, on a network: each engine's default one.
pub fn run_on_bridge(engines: &Engines, settings: &Settings) -> Result<()> {
    run_on(engines, settings, "P2-bridge", "bridge", Engine::bridge)
}

/// P2.
pub fn run_and_remove(engines: &Engines, settings: &Settings) -> Result<()> {
    run_on(engines, settings, "P2", "none", |_| "none")
}

fn run_on(
    engines: &Engines,
    settings: &Settings,
    id: &'static str,
    word: &str,
    network: impl Fn(Engine) -> &'static str,
) -> Result<()> {
    // A network is there before it is measured, and stays: somebody is on it.
    for engine in engines.list(settings) {
        let network = network(engine);
        engines.quietly(
            engine,
            &[
                "run",
                "-d",
                "--name",
                "first",
                "--network",
                network,
                "busybox",
                "sleep",
                "3600",
            ],
        )?;
    }
    let columns = engines.list(settings).into_iter().map(|engine| {
        let network = network(engine);
        Column::new(engine.name(), move || {
            engines.quietly(
                engine,
                &["run", "--rm", "--network", network, "busybox", "true"],
            )
        })
        .daemons(engines.daemons(engine))
    });
    let title = match word {
        "none" => "engine, `run --rm --network none busybox true`, cached image".to_owned(),
        word => format!(
            "engine, `run --rm --network {word} busybox true`, cached image; Docker with --network none"
        ),
    };
    let result = measure(
        settings,
        Benchmark {
            id,
            title: &title,
            span: "From before the command's process is made to its end: the container has run, its exit code is known. CPU: \
                   the command, the supervisors and runtimes it started, and for Docker its daemons; what the \
                   kernel does later (namespaces taken down) is not in it.",
            warm_up: 3,
            runs: settings.runs,
            columns: columns.collect(),
        },
    );
    for engine in engines.list(settings) {
        engines.quietly(engine, &["rm", "-f", "first"])?;
    }
    result
}

/// P5.
pub fn exec(engines: &Engines, settings: &Settings) -> Result<()> {
    let list = engines.list(settings);
    for engine in &list {
        engines.quietly(
            *engine,
            &[
                "run",
                "-d",
                "--name",
                "exec",
                "--network",
                "none",
                "busybox",
                "sleep",
                "3600",
            ],
        )?;
    }
    let columns = list.iter().map(|engine| {
        Column::new(engine.name(), move || {
            engines.quietly(*engine, &["exec", "exec", "true"])
        })
        .daemons(engines.daemons(*engine))
    });
    let result = measure(
        settings,
        Benchmark {
            id: "P5",
            title: "engine, `exec true` in a running container",
            span: "From before the command's process is made to its end.",
            warm_up: 3,
            runs: settings.runs,
            columns: columns.collect(),
        },
    );
    for engine in &list {
        engines.quietly(*engine, &["rm", "-f", "exec"])?;
    }
    result
}
