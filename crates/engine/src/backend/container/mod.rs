//! Level `container`: the host's kernel, kept apart by namespaces, cgroups, capabilities and
//! seccomp.
//!
//! ```text
//!  Instance ─┐
//!            ├─ spec::specification ──> runtime spec ──> isle_runtime::Plan ──> process
//!  Facts ────┘                                              ^
//!  image layers ── rootfs::Overlay ── detached mount ───────┘
//! ```

mod adopted;
mod facts;
mod quota;
mod rootfs;
mod ungrouped;
mod user_range;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use isle_cgroup::{Cgroup, Layout, OomWatch};
use isle_network::Link;
use isle_runtime::{Options, Plan, Rootfs};
use isle_types::Signal;
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::termios::tcsetwinsize;

#[cfg(test)]
pub(crate) use adopted::how_it_ended;
pub(crate) use facts::available_capabilities;
pub(crate) use quota::{Limit, check_quotas, limit_folders, limit_storage, limited_storage};
pub(crate) use rootfs::{Overlay, upper, view};

use super::oci::{self, files, limits, spec};
use super::{Backend, Ended, Process, StartError, Stdio, chain, failed, remove_cgroup};
use crate::config::{NetworkMode, Resources, UserNamespace};
use crate::state::{Instance, MemoryOf};
use crate::wiring::Wiring;
use crate::{ExecRequest, Paths, Stats, WindowSize, volume};
use facts::{Facts, Moment};
use isle_machine::host::HostUsage;
use isle_runtime::Kept;

/// The back end of one instance.
#[derive(Debug)]
pub(crate) struct Container {
    instance: Instance,
    paths: Paths,
    /// The image's layers, topmost first.
    layers: Vec<PathBuf>,
    layout: Layout,
    running: Option<Running>,
    /// An earlier supervisor has started the first process: it is not our child.
    is_adopted: bool,
    has_run_out_of_memory: bool,
}

/// What a run has until it is cleaned up.
#[derive(Debug)]
struct Running {
    kept: Kept,
    facts: Facts,
    cgroup: Arc<Cgroup>,
    /// `None` where the host does not tell; then it is seen at the end.
    oom: Option<OomWatch>,
    init: OwnedFd,
    pid: i32,
}

/// Gives the network namespace of a process that waits for its start its interfaces.
fn connect(process: &isle_runtime::Child, wiring: &mut Wiring) -> Result<(), StartError> {
    if wiring.links().is_empty() {
        return Ok(());
    }
    let namespace = network_namespace(process.pid)
        .map_err(failed("cannot open the network of the instance"))?;
    wiring.attach(namespace.as_fd())
}

fn network_namespace(pid: i32) -> io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/net");
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn launch_failed(error: &isle_runtime::LaunchError) -> StartError {
    StartError {
        message: chain(error),
        exit_code: error.exit_code(),
    }
}

impl Container {
    /// The back end of an instance.
    pub(crate) fn open(
        instance: &Instance,
        paths: &Paths,
        layers: &[PathBuf],
    ) -> Result<Container, StartError> {
        Ok(Container {
            instance: instance.clone(),
            paths: paths.clone(),
            layers: layers.iter().map(|layer| paths.root.join(layer)).collect(),
            layout: Layout::detect().map_err(failed("cannot use control groups"))?,
            running: None,
            is_adopted: false,
            has_run_out_of_memory: false,
        })
    }

    fn overlay(&self) -> Overlay {
        Overlay {
            layers: self.layers.clone(),
            writable: Some(self.paths.instance(&self.instance.id)),
            is_volatile: self.instance.config.auto_remove,
        }
    }

    /// Whether the host lets the instance have a control group.
    fn has_group(&self) -> bool {
        !self.layout.hierarchies().is_empty()
    }

    fn is_first(&self, process: &Process) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.pid == process.pid)
    }

    fn running(&self) -> io::Result<&Running> {
        self.running
            .as_ref()
            .ok_or_else(|| io::Error::other("nothing runs"))
    }
}

impl Backend for Container {
    fn start(&mut self, stdio: Stdio, wiring: &mut Wiring) -> Result<Process, StartError> {
        let instance = &self.instance;
        let overlay = self.overlay();
        let cannot = "cannot mount the root file system";
        let (rootfs, facts) = match &instance.config.namespaces.user {
            UserNamespace::Default | UserNamespace::Host => {
                let rootfs = overlay.mount().map_err(failed(cannot))?;
                let facts =
                    Facts::gather(instance, &self.paths, rootfs.as_fd(), None, Moment::Start)?;
                (rootfs, facts)
            }
            UserNamespace::Auto { size } => {
                // Accounts and volumes are read as they are on the disk, before ids are mapped.
                let seen = overlay.view().map_err(failed(cannot))?;
                let range = user_range::take(instance, &self.paths, seen.as_fd(), *size)?;
                let facts = Facts::gather(
                    instance,
                    &self.paths,
                    seen.as_fd(),
                    Some(range),
                    Moment::Start,
                )?;
                drop(seen);
                let rootfs = overlay.mount_mapped(range).map_err(failed(cannot))?;
                user_range::give(&stdio, range, &facts.user).map_err(failed(
                    "cannot give the standard streams to the user of the instance",
                ))?;
                (rootfs, facts)
            }
        };
        // Who shares a network shares the other instance's files, and leaves them as they are.
        if !matches!(instance.config.network, NetworkMode::Instance(_)) {
            files::write(
                &facts.files,
                &spec::hostname(instance, &facts.host_name),
                &instance.config,
                wiring.links(),
            )
            .map_err(failed("cannot write the instance's own files"))?;
        }
        let spec = spec::specification(instance, &facts);

        let kept = oci::kept(&spec)?;
        let options = Options {
            id: instance.id.to_string(),
            bundle: self.paths.instance(&instance.id),
            seccomp: kept.program.clone(),
            confinement: isle_runtime::Confinement {
                no_device_nodes: isle_sys::features::is_in_user_namespace(),
                ..isle_runtime::Confinement::default()
            },
            ..Options::default()
        };
        let plan = Plan::new(&spec, options).map_err(failed("cannot run this configuration"))?;
        let limits = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().clone());
        let limits = limits::with_devices(limits.unwrap_or_default(), &instance.config.resources)
            .map_err(failed("cannot limit block I/O"))?;
        let cgroup = Cgroup::create(&self.layout, &spec::cgroup_path(instance), &limits)
            .map_err(failed("cannot make the control group"))?;
        let cgroup = Arc::new(cgroup);
        let launched = plan
            .create(
                Rootfs::Detached(rootfs),
                Some(Arc::clone(&cgroup)),
                stdio.into(),
            )
            .map_err(|error| launch_failed(&error))
            .and_then(|created| {
                connect(&created.init, wiring)?;
                created.start().map_err(|error| launch_failed(&error))
            });
        let child = match launched {
            Ok(child) => child,
            Err(error) => {
                // The runtime has ended its process; the group is empty.
                let _ = cgroup.kill_all();
                let _ = cgroup.remove();
                return Err(error);
            }
        };
        let init = child
            .pidfd
            .try_clone()
            .map_err(failed("cannot hold the process"))?;
        self.running = Some(Running {
            kept,
            facts,
            oom: cgroup.watch_oom().unwrap_or(None),
            cgroup,
            init,
            pid: child.pid,
        });
        Ok(Process {
            pid: child.pid,
            ended: child.pidfd,
            terminal: child.terminal,
            task: 0,
        })
    }

    fn exec(&mut self, request: &ExecRequest, stdio: Stdio) -> Result<Process, StartError> {
        let running = self.running().map_err(failed("cannot run a process"))?;
        let (process, facts) = running
            .facts
            .for_exec(&self.instance, request, running.pid)?;
        if let Some(range) = facts.id_range {
            user_range::give(&stdio, range, &facts.user).map_err(failed(
                "cannot give the standard streams to the user of the process",
            ))?;
        }
        let child = isle_runtime::exec(
            running.init.as_fd(),
            &running.kept.spec,
            &process,
            Some(&running.cgroup),
            running.kept.program.as_deref(),
            stdio.into(),
        )
        .map_err(|error| launch_failed(&error))?;
        Ok(Process {
            pid: child.pid,
            ended: child.pidfd,
            terminal: child.terminal,
            task: 0,
        })
    }

    fn adopt(&mut self, process: Process, _stdio: Stdio) -> io::Result<Process> {
        // Its root as it sees it itself; looked into as into any root: by descriptor, in it.
        let rootfs = rustix::fs::open(
            format!("/proc/{}/root", process.pid),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let range = user_range::of(&self.instance, &self.paths).map_err(io::Error::other)?;
        let facts = Facts::gather(
            &self.instance,
            &self.paths,
            rootfs.as_fd(),
            range,
            Moment::Adoption,
        )
        .map_err(io::Error::other)?;
        let cgroup = Cgroup::open(&self.layout, &spec::cgroup_path(&self.instance))?;
        self.running = Some(Running {
            kept: oci::kept(&spec::specification(&self.instance, &facts))
                .map_err(io::Error::other)?,
            facts,
            oom: cgroup.watch_oom().unwrap_or(None),
            cgroup: Arc::new(cgroup),
            init: process.ended.try_clone()?,
            pid: process.pid,
        });
        self.is_adopted = true;
        Ok(process)
    }

    fn reap(&mut self, process: &Process) -> io::Result<Ended> {
        if self.is_adopted && self.is_first(process) {
            return Ok(adopted::how_it_ended(process)?.unwrap_or(Ended::Unknown));
        }
        let id = WaitId::PidFd(process.ended.as_fd());
        let status = waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?
            .ok_or_else(|| io::Error::other("it has not ended"))?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ok(Ended::Code(code as u8)),
            (None, Some(signal)) => Signal::from_number(signal)
                .map(Ended::Signal)
                .map_err(io::Error::other),
            (None, None) => Err(io::Error::other("it has neither exited nor been killed")),
        }
    }

    fn signal(&mut self, process: &Process, signal: Signal) -> io::Result<()> {
        // Real-time signals too: rustix takes them only as raw numbers.
        let signal = rustix::process::Signal::from_named_raw(signal.number())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(pidfd_send_signal(&process.ended, signal)?)
    }

    fn resize(
        &mut self,
        _process: &Process,
        terminal: BorrowedFd<'_>,
        size: WindowSize,
    ) -> io::Result<()> {
        Ok(tcsetwinsize(terminal, size.into())?)
    }

    fn kill_all(&mut self) -> io::Result<()> {
        if !self.has_group() {
            ungrouped::kill_all(self.running()?.pid);
            return Ok(());
        }
        Ok(self.running()?.cgroup.kill_all()?)
    }

    fn pause(&mut self) -> io::Result<()> {
        Ok(self.running()?.cgroup.freeze()?)
    }

    fn resume(&mut self) -> io::Result<()> {
        Ok(self.running()?.cgroup.thaw()?)
    }

    fn update(&mut self, resources: &Resources) -> io::Result<()> {
        let limits = limits::resources(resources, facts::counts_swap(), None);
        let limits = limits::with_devices(limits, resources)?;
        self.running()?.cgroup.update(&limits)?;
        // What starts again starts with them.
        self.instance.config.resources.merge(resources);
        Ok(())
    }

    fn connect(
        &mut self,
        process: &Process,
        link: Link,
        wiring: &mut Wiring,
    ) -> Result<(), StartError> {
        let namespace = network_namespace(process.pid)
            .map_err(failed("cannot open the network of the instance"))?;
        wiring.connect(link, namespace.as_fd())
    }

    fn disconnect(
        &mut self,
        process: &Process,
        network: &str,
        wiring: &mut Wiring,
    ) -> Result<(), StartError> {
        network_namespace(process.pid)
            .and_then(|namespace| wiring.disconnect_from(network, namespace.as_fd()))
            .map_err(failed("cannot disconnect from the network"))
    }

    fn stats(&mut self) -> io::Result<Stats> {
        let running = self.running()?;
        let network = match self.instance.config.network.is_own() {
            true => Some(network_bytes(running.pid)?),
            false => None,
        };
        if !self.has_group() {
            return Ok(Stats {
                network,
                ..ungrouped::stats(running.pid)?
            });
        }
        let read = running.cgroup.stats()?;
        let host = HostUsage::read()?;
        Ok(Stats {
            cpu: read.cpu,
            system_cpu: host.cpu,
            online_cpus: host.online_cpus,
            memory_bytes: read
                .memory_usage_bytes
                .saturating_sub(read.memory_inactive_file_bytes),
            memory_limit_bytes: match read.memory_limit_bytes {
                Some(limit) => limit.min(host.memory_bytes),
                None => host.memory_bytes,
            },
            network,
            block_io: (read.io_read_bytes, read.io_write_bytes),
            pids: read.pids,
            machine: None,
        })
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        let running = self.running.as_ref()?;
        running.oom.as_ref().map(AsFd::as_fd)
    }

    fn tend(&mut self) {
        if let Some(oom) = self
            .running
            .as_ref()
            .and_then(|running| running.oom.as_ref())
        {
            oom.acknowledge();
            self.has_run_out_of_memory = true;
        }
    }

    fn has_run_out_of_memory(&mut self) -> bool {
        std::mem::take(&mut self.has_run_out_of_memory)
    }

    fn oom_kills(&mut self) -> u64 {
        let kills = self
            .running
            .as_ref()
            .map(|running| running.cgroup.oom_kills());
        kills.and_then(Result::ok).unwrap_or(0)
    }

    fn out_of_memory(&mut self) -> Option<MemoryOf> {
        let found = self.running.as_ref()?.cgroup.out_of_memory().ok()?;
        (found.kills > 0).then_some(match found.was_at_limit {
            true => MemoryOf::Instance,
            false => MemoryOf::Host,
        })
    }

    fn rest(&mut self) {
        // Nothing is kept that could be had again.
    }

    fn clean_up(&mut self) -> io::Result<()> {
        self.running = None;
        self.is_adopted = false;
        volume::release(&self.paths, &self.instance)?;
        remove_cgroup(&self.layout, &spec::cgroup_path(&self.instance))
    }
}

/// Takes away the control group that runs of an instance have left, with all that is in it.
pub(crate) fn clean_up(instance: &Instance) -> io::Result<()> {
    remove_cgroup(&Layout::detect()?, &spec::cgroup_path(instance))
}

/// The pids of all processes of a running instance.
pub(crate) fn processes(instance: &Instance) -> io::Result<Vec<i32>> {
    let layout = Layout::detect()?;
    if layout.hierarchies().is_empty() {
        return Ok(instance
            .state
            .pid
            .map_or_else(Vec::new, ungrouped::processes));
    }
    let cgroup = Cgroup::open(&layout, &spec::cgroup_path(instance))?;
    Ok(cgroup.processes()?)
}

impl From<Stdio> for isle_runtime::Stdio {
    fn from(stdio: Stdio) -> isle_runtime::Stdio {
        match stdio {
            Stdio::Streams {
                stdin,
                stdout,
                stderr,
            } => isle_runtime::Stdio::Streams {
                stdin,
                stdout,
                stderr,
            },
            Stdio::Terminal { size } => isle_runtime::Stdio::Terminal {
                size: size.map(|size| (size.rows, size.columns)),
            },
        }
    }
}

/// Bytes received and sent on all links but loopback.
fn network_bytes(pid: i32) -> io::Result<(u64, u64)> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    Ok(isle_netlink::link::carried(&table))
}
