//! What Docker and Podman take with Isle as their runtime, beside the runtime that they have by themselves.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow};
use isle_tests::peers::{Docker, Podman};

use crate::engines::busybox_rootfs;
use crate::harness::{self, Benchmark, Column, Settings, measure};
use crate::rivals;

/// An engine with one runtime.
struct Pair {
    name: &'static str,
    engine: Engine,
    /// What `run` is told.
    flags: &'static [&'static str],
    daemons: Vec<u32>,
}

enum Engine {
    Podman(Podman),
    Docker(Rc<Docker>),
}

impl Pair {
    fn quietly(&self, arguments: &[&str]) -> Result<()> {
        harness::quietly(&mut match &self.engine {
            Engine::Podman(podman) => podman.command(arguments),
            Engine::Docker(docker) => docker.command(arguments),
        })
    }

    fn run(&self, flags: &[&str], command: &[&str]) -> Result<()> {
        let mut arguments = vec!["run"];
        arguments.extend(self.flags);
        arguments.extend(["--network", "none"]);
        arguments.extend(flags);
        arguments.push("busybox");
        arguments.extend(command);
        self.quietly(&arguments)
    }
}

/// Both benchmarks. Podman runs runc beside Isle: its own crun does not run on hosts with two hierarchies of control groups.
pub fn run_and_exec(settings: &Settings) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("isle-bench-")
        .tempdir_in("/var/tmp")?;
    let isle = std::path::absolute(rivals::isle("isle-oci", "ISLE_OCI_BIN"))?;
    let isle = isle.to_str().context("the path of isle-oci is odd")?;
    let mut pairs = Vec::new();
    if settings.wants("podman") {
        pairs.push(podman("podman with runc", folder.path(), "runc"));
        pairs.push(podman("podman with isle", folder.path(), isle));
    }
    let docker = match settings.wants("docker") {
        true => Some(Rc::new(
            Docker::start_with(
                &folder.path().join("docker"),
                &["--add-runtime".to_owned(), format!("isle={isle}")],
            )
            .map_err(|reason| anyhow!("docker: {reason}"))?,
        )),
        false => None,
    };
    for (name, flags) in [
        ("docker with runc", &[][..]),
        ("docker with isle", &["--runtime", "isle"][..]),
    ] {
        let Some(docker) = docker.clone() else {
            continue;
        };
        pairs.push(Pair {
            name,
            daemons: docker.daemons(),
            engine: Engine::Docker(docker),
            flags,
        });
    }
    let rootfs = busybox_rootfs()?;
    for pair in &pairs {
        pair.quietly(&["import", "--change", "ENV PATH=/bin", &rootfs, "busybox"])?;
    }

    let columns = pairs
        .iter()
        .map(|pair| column(pair, move || pair.run(&["--rm"], &["true"])));
    measure(
        settings,
        Benchmark {
            id: "P2-runtimes",
            title: "other engines, `run --rm --network none busybox true`",
            span: "From before the command's process is made to its end.",
            warm_up: 3,
            runs: settings.runs,
            columns: columns.collect(),
        },
    )?;

    for (index, pair) in pairs.iter().enumerate() {
        pair.run(
            &["-d", "--name", &format!("exec{index}")],
            &["sleep", "3600"],
        )?;
    }
    let columns = pairs.iter().enumerate().map(|(index, pair)| {
        let name = format!("exec{index}");
        column(pair, move || pair.quietly(&["exec", &name, "true"]))
    });
    measure(
        settings,
        Benchmark {
            id: "P5-runtimes",
            title: "other engines, `exec true` in a running container",
            span: "From before the command's process is made to its end.",
            warm_up: 3,
            runs: settings.runs,
            columns: columns.collect(),
        },
    )?;
    for (index, pair) in pairs.iter().enumerate() {
        pair.quietly(&["rm", "-f", &format!("exec{index}")])?;
    }
    Ok(())
}

fn column<'a>(pair: &'a Pair, act: impl FnMut() -> Result<()> + 'a) -> Column<'a> {
    Column::new(pair.name, act).daemons(pair.daemons.clone())
}

fn podman(name: &'static str, folder: &Path, runtime: &str) -> Pair {
    Pair {
        name,
        engine: Engine::Podman(Podman::new(&folder.join(name.replace(' ', "-")), runtime)),
        flags: &[],
        daemons: Vec::new(),
    }
}
