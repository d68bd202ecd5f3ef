//! P1: the OCI runtime's command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::harness::{self, Benchmark, Column, Settings};
use crate::rivals;

/// A runtime, with a state folder of its own.
struct Runtime {
    name: String,
    program: PathBuf,
}

impl Runtime {
    fn command(&self, state: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(state.join(&self.name));
        command
    }
}

fn measure_all(settings: &Settings, runtimes: &[Runtime], folder: &Path) -> Result<()> {
    let bundle = folder.join("bundle");
    let number = std::cell::Cell::new(0_u32);
    let id = || {
        number.set(number.get() + 1);
        format!("bench-{}-{}", std::process::id(), number.get())
    };
    let columns = runtimes.iter().map(|runtime| {
        let (bundle, id) = (&bundle, &id);
        Column::new(runtime.name.clone(), move || {
            harness::quietly(
                runtime
                    .command(folder)
                    .arg("run")
                    .arg("--bundle")
                    .arg(bundle)
                    .arg(id()),
            )
        })
    });
    harness::measure(
        settings,
        Benchmark {
            id: "P1",
            title: "OCI runtime, `run` of a bundle whose program is `/bin/true`",
            span: "From before the runtime's process is made to its end. The bundle is Docker's default one: \
                   all namespaces but user's, Docker's capabilities, masked paths, a cgroup.",
            warm_up: 3,
            runs: settings.runs,
            columns: columns.collect(),
        },
    )?;
    let columns = runtimes.iter().map(|runtime| {
        let (bundle, id) = (&bundle, &id);
        Column::new(runtime.name.clone(), move || {
            let id = id();
            harness::quietly(
                runtime
                    .command(folder)
                    .arg("create")
                    .arg("--bundle")
                    .arg(bundle)
                    .arg(&id),
            )?;
            harness::quietly(runtime.command(folder).arg("start").arg(&id))?;
            // As an engine does: the exit is awaited before `delete`, which refuses a running one.
            wait_until_stopped(runtime, folder, &id)?;
            harness::quietly(runtime.command(folder).arg("delete").arg(&id))
        })
    });
    harness::measure(
        settings,
        Benchmark {
            id: "P1-verbs",
            title: "OCI runtime, `create`, `start`, `delete` of the same bundle, three processes",
            span: "From before the first process is made to the end of the third. Between `start` and `delete`, `state` is asked \
                   until it says that the container has stopped, as in the conformance tests.",
            warm_up: 3,
            runs: settings.runs,
            columns: columns.collect(),
        },
    )
}

fn wait_until_stopped(runtime: &Runtime, folder: &Path, id: &str) -> Result<()> {
    loop {
        let output = runtime.command(folder).arg("state").arg(id).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("stopped") {
            return Ok(());
        }
        anyhow::ensure!(output.status.success(), "state of {id}: {text}");
    }
}

pub fn measure(settings: &Settings) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("isle-bench-")
        .tempdir_in("/var/tmp")?;
    bundle(&folder.path().join("bundle"))?;
    let runtime = |name: &str, program: PathBuf| Runtime {
        name: name.to_owned(),
        program,
    };
    let runtimes = [
        runtime("isle-oci", rivals::isle("isle-oci", "ISLE_OCI_BIN")),
        runtime("crun", "crun".into()),
        runtime("runc", "runc".into()),
    ];
    measure_all(settings, &runtimes, folder.path())
}

/// Where the version 2 hierarchy is on a host that has version 1 as well.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// crun 1.8 refuses hosts where the version 2 hierarchy has a controller beside version 1.
pub fn crun_needs_cgroup2_hidden() -> Result<bool> {
    let file = Path::new(HYBRID).join("cgroup.controllers");
    Ok(file.exists() && !fs::read_to_string(file)?.trim().is_empty())
}

/// Measures all runtimes in a mount namespace without that hierarchy.
pub fn measure_without_cgroup2(settings: &Settings) -> Result<()> {
    println!(
        "\ncrun refuses this host's hybrid cgroups: P1 is measured, for all, without the version 2 hierarchy."
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .args(["--hide-cgroup2-unlike", &mount_namespace()?])
        .args(["--runs", &settings.runs.to_string()]);
    if !settings.without.is_empty() {
        command.args(["--without", &settings.without.join(",")]);
    }
    let status = command.arg("P1").status().context("cannot run unshare")?;
    anyhow::ensure!(status.success(), "the measurement of P1 failed");
    Ok(())
}

fn mount_namespace() -> Result<String> {
    let link = fs::read_link("/proc/self/ns/mnt").context("cannot read /proc/self/ns/mnt")?;
    Ok(link.to_string_lossy().into_owned())
}

/// Unmounts it in this mount namespace, which must not be the one that the caller came from.
pub fn hide_cgroup2(caller: &str) -> Result<()> {
    anyhow::ensure!(
        mount_namespace()? != caller,
        "the version 2 hierarchy is hidden in a mount namespace of its own only"
    );
    rustix::mount::unmount(HYBRID, rustix::mount::UnmountFlags::DETACH)
        .with_context(|| format!("cannot unmount {HYBRID} in this mount namespace"))
}

/// Docker's default bundle around busybox.
fn bundle(folder: &Path) -> Result<()> {
    let root = folder.join("rootfs");
    fs::create_dir_all(&root)?;
    let cache = std::env::var("ISLE_EXAMPLES_CACHE").unwrap_or("target/examples-cache".into());
    let description = fs::read(Path::new(&cache).join("busybox.json"))
        .context("the busybox image is not there: cargo xtask images busybox")?;
    let description: serde_json::Value = serde_json::from_slice(&description)?;
    harness::quietly(
        Command::new("tar")
            .arg("-xf")
            .arg(description["rootfs"].as_str().context("no rootfs")?)
            .arg("-C")
            .arg(&root),
    )?;
    let capabilities: Vec<String> = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
    .iter()
    .map(|name| format!("CAP_{name}"))
    .collect();
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": false,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    fs::write(
        folder.join("config.json"),
        serde_json::to_vec_pretty(&config)?,
    )?;
    Ok(())
}
