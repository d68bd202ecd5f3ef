//! `update`: changes the limits of a container.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use isle_cgroup::Layout;
use isle_types::ByteSize;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::arguments::Update;
use crate::container::Container;
use crate::groups;
use crate::systemd::Systemd;
use crate::vm;

/// Bytes with a unit, or -1: no limit.
fn memory(flag: &str, text: Option<&str>) -> anyhow::Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    if text == "-1" {
        return Ok(Some(-1));
    }
    let size: ByteSize = text.parse().with_context(|| format!("invalid {flag}"))?;
    Ok(Some(i64::try_from(size.bytes()).with_context(|| {
        format!("invalid {flag} {text:?}: it is too large")
    })?))
}

fn from_flags(arguments: &Update) -> anyhow::Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(arguments.cpu_quota)
        .set_period(arguments.cpu_period)
        .set_burst(arguments.cpu_burst)
        .set_shares(arguments.cpu_share)
        .set_idle(arguments.cpu_idle)
        .set_realtime_period(arguments.cpu_rt_period)
        .set_realtime_runtime(arguments.cpu_rt_runtime)
        .set_cpus(arguments.cpuset_cpus.clone())
        .set_mems(arguments.cpuset_mems.clone());
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    let mut limits = LinuxMemory::default();
    limits
        .set_limit(memory("--memory", arguments.memory.as_deref())?)
        .set_reservation(memory(
            "--memory-reservation",
            arguments.memory_reservation.as_deref(),
        )?)
        .set_swap(memory("--memory-swap", arguments.memory_swap.as_deref())?)
        .set_kernel_tcp(memory(
            "--kernel-memory-tcp",
            arguments.kernel_memory_tcp.as_deref(),
        )?);
    #[allow(deprecated, reason = "a kernel without it refuses it")]
    limits.set_kernel(memory(
        "--kernel-memory",
        arguments.kernel_memory.as_deref(),
    )?);
    if limits != LinuxMemory::default() {
        resources.set_memory(Some(limits));
    }
    if let Some(limit) = arguments.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = arguments.blkio_weight {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
    }
    Ok(resources)
}

pub(super) fn run(root: &Path, arguments: &Update) -> anyhow::Result<u8> {
    if arguments.l3_cache_schema.is_some() || arguments.mem_bw_schema.is_some() {
        bail!("--l3-cache-schema and --mem-bw-schema are not supported: leave them out");
    }
    let resources = match &arguments.resources {
        None => from_flags(arguments)?,
        Some(path) => {
            let mut text = String::new();
            if path == Path::new("-") {
                std::io::stdin().read_to_string(&mut text)
            } else {
                std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
            }
            .with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} does not hold limits of the runtime specification",
                    path.display()
                )
            })?
        }
    };
    if resources == LinuxResources::default() {
        bail!("nothing to change: give --resources or one of the limits");
    }
    let id = &arguments.id;
    let container = Container::open(root, id)?;
    if container.process.is_none() {
        bail!("cannot update container {id:?}: it has stopped");
    }
    if vm::is_machine(&container.directory) {
        vm::update(&container.directory, &resources)
            .with_context(|| format!("cannot update container {id:?}"))?;
        return Ok(0);
    }
    let Some(cgroup) = container.cgroup()? else {
        bail!("cannot update container {id:?}: it has no control group");
    };
    cgroup
        .update(&resources)
        .with_context(|| format!("cannot update container {id:?}"))?;
    if let Some(scope) = &container.state.scope {
        let is_unified = Layout::detect()?.is_unified();
        Systemd::connect(groups::is_unprivileged())?.update(scope, &resources, is_unified)?;
    }
    Ok(0)
}
