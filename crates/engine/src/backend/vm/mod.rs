//! Level `vm`: a kernel of its own, in a virtual machine.
//!
//! ```text
//!  Instance ── request ──> runtime spec, Prepare ──> isle_guest::Connection ──> agent in the guest
//!     │                                                      ^
//!     └────── ground ──> kernel, template, disks ──> isle_qemu::Vm (QEMU, confined)
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `refusals` | what this level cannot be asked for |
//! | `request` | what the guest is asked for; pure |
//! | `ground` | what the machine is started from: kernel, template, block image |
//! | `rehearsal` | an instance that runs before there is one: templates of images |
//! | `disk` | the writable layer |
//! | `start` | how a machine comes to run |
//! | `running` | a machine that runs: what is asked of it |
//! | `words` | between the guest's words and the supervisor's |
//! | `shares` | folders of the host |
//! | `network` | its cards and what they are connected to |
//! | `inside` | files and processes, by the agent |
//! | `ps` | processes in the words of ps(1); pure |
//! | `record` | what a later supervisor has to know |
//! | `pool` | machines that wait for instances |
//!
//! The instance's own process is task 1 of the agent. Its end is told by the agent, once all that it wrote has come;
//! when the machine ends under it, by the connection that closes.

mod disk;
mod ground;
mod inside;
mod network;
pub(crate) mod pool;
mod ps;
mod record;
mod refusals;
pub(crate) mod rehearsal;
mod request;
mod running;
mod shares;
mod start;
mod throttle;
mod words;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use isle_cgroup::{Cgroup, Layout};
use isle_guest::Connection;
use isle_kernel::Kernels;
use isle_network::Link;
use isle_types::{Accelerator, Signal};

pub(crate) use ground::{base, make_ready};
use record::Record;
pub(crate) use refusals::{check, resources as check_resources};
use running::{PATIENCE, Running};
use words::{local, streams};

use super::inside::Inside;
use super::oci::spec;
use super::{Backend, Ended, Process, StartError, Stdio, failed, remove_cgroup};
use crate::config::Resources;
use crate::machines::Machine;
use crate::state::{Instance, MemoryOf};
use crate::wiring::Wiring;
use crate::{ExecRequest, MachineStats, Paths, Stats, WindowSize, volume};

/// The back end of one instance.
pub(crate) struct Vm {
    instance: Instance,
    paths: Paths,
    /// The image's layers, topmost first.
    layers: Vec<PathBuf>,
    layout: Layout,
    running: Option<Running>,
    /// The pool that a start may have taken a machine of.
    pool: Option<String>,
    /// How processes of exec have ended that nobody had asked about when their machine went.
    ends: BTreeMap<u32, Ended>,
}

impl Vm {
    /// The back end of an instance.
    pub(crate) fn open(
        instance: &Instance,
        paths: &Paths,
        layers: &[PathBuf],
    ) -> Result<Vm, StartError> {
        Ok(Vm {
            layers: layers.iter().map(|layer| paths.root.join(layer)).collect(),
            instance: instance.clone(),
            paths: paths.clone(),
            layout: Layout::detect().map_err(failed("cannot use control groups"))?,
            running: None,
            pool: None,
            ends: BTreeMap::new(),
        })
    }

    /// Has the machine that a start has taken replaced. Off the hot path: it takes processor time.
    fn fill_pool(&mut self) {
        if let Some(name) = self.pool.take() {
            // Without it the next start takes longer, no more.
            let _ = crate::launch::fill_pool(&self.paths, &name);
        }
    }

    fn running(&mut self) -> io::Result<&mut Running> {
        running(&mut self.running)
    }
}

fn running(running: &mut Option<Running>) -> io::Result<&mut Running> {
    running
        .as_mut()
        .ok_or_else(|| io::Error::other("nothing runs"))
}

impl Backend for Vm {
    fn start(&mut self, stdio: Stdio, wiring: &mut Wiring) -> Result<Process, StartError> {
        let (running, process) = self.launch(stdio, wiring)?;
        let pid = running.machine.pid();
        self.running = Some(running);
        Ok(local(pid, process))
    }

    fn exec(&mut self, request: &ExecRequest, stdio: Stdio) -> Result<Process, StartError> {
        let running = running(&mut self.running).map_err(failed("cannot run a process"))?;
        let process = running.exec(&self.instance, request, stdio)?;
        Ok(local(running.machine.pid(), process))
    }

    fn adopt(&mut self, process: Process, stdio: Stdio) -> io::Result<Process> {
        let directory = self.paths.instance_run(&self.instance.id);
        let record = Record::read(&directory)?;
        let kernel = Kernels::new(&self.paths.root)
            .hold(&record.kernel)
            .map_err(io::Error::other)?;
        let pidfd = process.ended;
        let mut machine = isle_qemu::Vm::adopt(&directory, process.pid, pidfd, PATIENCE)
            .map_err(io::Error::other)?;
        let is_paused = !machine.is_running().map_err(io::Error::other)?;
        if is_paused {
            // Its agent has to answer once.
            machine.resume().map_err(io::Error::other)?;
        }
        let agent = isle_qemu::Vm::connect_port(&directory, isle_machine::PORT)?;
        let mut guest = Connection::resume(agent.into())?;
        let others: Vec<u32> = guest.tasks().iter().map(|task| task.task).collect();
        for task in others {
            if task != isle_guest::WORKLOAD {
                guest.abandon(task)?;
            }
        }
        let first = guest.adopt(isle_guest::WORKLOAD, streams(stdio))?;
        if is_paused {
            machine.pause().map_err(io::Error::other)?;
        }
        let pid = machine.pid();
        let cgroup = Cgroup::open(&self.layout, &spec::cgroup_path(&self.instance))?;
        let mut running = Running::new(
            guest,
            machine,
            shares::find(record.server)?,
            Arc::new(cgroup),
            (record, directory),
            Arc::new(kernel),
            request::facts(&self.instance),
        )?;
        running.is_paused = is_paused;
        self.running = Some(running);
        Ok(local(pid, first))
    }

    fn reap(&mut self, process: &Process) -> io::Result<Ended> {
        if let Some(ended) = self.ends.remove(&process.task) {
            return Ok(ended);
        }
        self.running()?.reap(process.task)
    }

    fn signal(&mut self, process: &Process, signal: Signal) -> io::Result<()> {
        self.running()?.signal(process.task, signal);
        Ok(())
    }

    fn kill_all(&mut self) -> io::Result<()> {
        self.running()?.kill_all();
        Ok(())
    }

    fn resize(
        &mut self,
        process: &Process,
        _terminal: BorrowedFd<'_>,
        size: WindowSize,
    ) -> io::Result<()> {
        self.running()?
            .guest
            .resize(process.task, words::window(size));
        Ok(())
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(Running::watch)
    }

    fn tend(&mut self) {
        if let Some(running) = &mut self.running {
            running.tend();
        }
    }

    fn adjust_at(&self) -> Option<Instant> {
        self.running.as_ref().and_then(Running::adjust_at)
    }

    fn adjust(&mut self) {
        if let Some(running) = &mut self.running {
            running.adjust();
        }
    }

    fn pause(&mut self) -> io::Result<()> {
        let running = self.running()?;
        running.machine.pause().map_err(io::Error::other)?;
        running.is_paused = true;
        Ok(())
    }

    fn resume(&mut self) -> io::Result<()> {
        let running = self.running()?;
        running.machine.resume().map_err(io::Error::other)?;
        running.is_paused = false;
        running.guest.set_clock(isle_machine::now());
        Ok(())
    }

    fn update(&mut self, resources: &Resources) -> io::Result<()> {
        let mut merged = self.instance.config.resources.clone();
        merged.merge(resources);
        let throttle = throttle::of(&merged, &self.paths)?;
        let running = self.running()?;
        running.update(resources)?;
        if let Some(throttle) = throttle {
            let disks = throttle::DISKS;
            let done = running.machine.throttle_disks(&throttle, disks);
            done.map_err(|error| io::Error::other(super::chain(&error)))?;
        }
        // What starts again starts with them.
        self.instance.config.resources = merged;
        Ok(())
    }

    fn connect(
        &mut self,
        _process: &Process,
        link: Link,
        wiring: &mut Wiring,
    ) -> Result<(), StartError> {
        let running =
            running(&mut self.running).map_err(failed("cannot connect to the network"))?;
        network::connect(running, &self.instance, link, wiring)
    }

    fn disconnect(
        &mut self,
        _process: &Process,
        network: &str,
        wiring: &mut Wiring,
    ) -> Result<(), StartError> {
        let running =
            running(&mut self.running).map_err(failed("cannot disconnect from the network"))?;
        network::disconnect(running, &self.instance, network, wiring)
    }

    fn stats(&mut self) -> io::Result<Stats> {
        self.running()?.stats()
    }

    fn has_run_out_of_memory(&mut self) -> bool {
        let running = self.running.as_mut();
        running.is_some_and(|running| running.guest.take_memory_kills())
    }

    fn oom_kills(&mut self) -> u64 {
        self.running.as_ref().map_or(0, Running::oom_kills)
    }

    fn out_of_memory(&mut self) -> Option<MemoryOf> {
        self.running.as_ref().and_then(Running::out_of_memory)
    }

    fn inside(&mut self) -> Option<Box<dyn Inside + '_>> {
        let running = self.running.as_mut()?;
        Some(Box::new(inside::Agent {
            pid: running.machine.pid(),
            guest: &mut running.guest,
            carrying: &mut running.carrying,
        }))
    }

    fn accelerator(&self) -> Option<Accelerator> {
        self.running
            .as_ref()
            .map(|running| running.record.accelerator)
    }

    fn rest(&mut self) {
        self.fill_pool();
    }

    fn clean_up(&mut self) -> io::Result<()> {
        self.fill_pool();
        let _ = Record::remove(&self.paths.instance_run(&self.instance.id));
        if let Some(running) = self.running.take() {
            // What a removed instance has written nobody reads.
            self.ends
                .extend(running.end(!self.instance.config.auto_remove));
        }
        volume::release(&self.paths, &self.instance)?;
        remove_cgroup(&self.layout, &spec::cgroup_path(&self.instance))
    }
}

/// Takes away what runs of an instance have left: its hypervisor, and the control group.
pub(crate) fn clean_up(instance: &Instance) -> io::Result<()> {
    remove_cgroup(&Layout::detect()?, &spec::cgroup_path(instance))
}

/// The machine of an instance with this hypervisor, by what its supervisor has written down and what the host sees.
pub(crate) fn machine(instance: &Instance, paths: &Paths, pid: i32) -> Option<Machine> {
    let record = Record::read(&paths.instance_run(&instance.id)).ok()?;
    let (host_bytes, host_private_bytes) = isle_qemu::host_memory(pid).ok()?;
    Some(Machine {
        vcpus: record.vcpus,
        is_elastic: record.is_elastic,
        memory: MachineStats {
            memory_bytes: record.memory_bytes,
            guest_memory_bytes: record.guest_memory_bytes,
            host_bytes,
            host_private_bytes,
        },
    })
}
