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
//! | `size` | how large the machine is; pure |
//! | `request` | what the guest is asked for; pure |
//! | `ground` | what the machine is started from: kernel, template, block image |
//! | `disk` | the writable layer |
//! | `shares` | folders of the host |
//! | `inside` | files and processes, by the agent |
//! | `record` | what a later supervisor has to know |
//! | `pool` | machines that wait for instances |
//!
//! The instance's own process is task 1 of the agent. Its end is told by the agent, once all that it wrote has come;
//! when the machine ends under it, by the connection that closes.

mod disk;
mod ground;
mod inside;
pub(crate) mod pool;
mod record;
mod refusals;
mod request;
mod shares;
mod size;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isle_cgroup::{Cgroup, Layout};
use isle_guest::{
    Clock, Connection, Disk, End, File, Further, Prepare, RemoteProcess, Root, Workload, Writable,
};
use isle_kernel::{Hold, Kernels};
use isle_share::Server;
use isle_types::{Accelerator, Signal};
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use ground::Ground;
pub(crate) use ground::{Base, make_ready};
use record::Record;
pub(crate) use refusals::{check, resources as check_resources};

use super::host::HostUsage;
use super::inside::Inside;
use super::oci::{files, limits, spec};
use super::{Backend, Ended, Process, StartError, Stdio, chain, failed, remove_cgroup};
use crate::config::Resources;
use crate::state::Instance;
use crate::{ExecRequest, Paths, Stats, WindowSize};

/// How long a guest may take for an answer that costs it nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a guest may take to write everything back when it is switched off.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

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

/// What a run has until it is cleaned up.
struct Running {
    guest: Connection,
    machine: isle_qemu::Vm,
    /// Serves folders of the host; ends with the machine.
    server: Option<Server>,
    cgroup: Cgroup,
    facts: spec::Facts,
    /// Made again from instance and facts when it is needed: it is large.
    spec: Option<Spec>,
    accelerator: Accelerator,
    memory_bytes: u64,
    /// The kernel stays while the machine runs.
    _kernel: Arc<Hold>,
    /// Processes of exec.
    further: BTreeSet<u32>,
    /// Tasks that carry archives.
    carrying: BTreeSet<u32>,
    /// The machine was ended from here: that it is gone is no crash.
    is_killed: bool,
    is_paused: bool,
    /// The first process has ended, and its end was collected.
    is_over: bool,
}

/// From the guest's words to the supervisor's.
fn not_started(error: &isle_guest::StartError) -> StartError {
    StartError {
        message: chain(&error.error),
        exit_code: error.exit_code,
    }
}

fn now() -> Clock {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Clock {
        seconds: since.as_secs(),
        nanoseconds: since.subsec_nanos(),
    }
}

fn streams(stdio: Stdio) -> isle_guest::Stdio {
    match stdio {
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => isle_guest::Stdio::Streams {
            stdin,
            stdout,
            stderr,
        },
        Stdio::Terminal { size } => isle_guest::Stdio::Terminal {
            size: size.map(window),
        },
    }
}

fn window(size: WindowSize) -> isle_guest::WindowSize {
    isle_guest::WindowSize {
        rows: size.rows,
        columns: size.columns,
    }
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

    /// The same with a machine in which nothing of the image is executed, to look at the files of an
    /// instance that does not run.
    pub(crate) fn open_at_rest(
        instance: &Instance,
        paths: &Paths,
        layers: &[PathBuf],
    ) -> Result<Vm, StartError> {
        let mut vm = Vm::open(instance, paths, layers)?;
        let ground = Ground::find(instance, paths)?;
        let facts = request::facts(instance);
        let prepare = vm.prepare(&facts)?;
        let cgroup = vm.make_cgroup(&ground)?;
        let booted = vm.boot(&ground, &cgroup, facts).and_then(|mut running| {
            let prepared = running.guest.prepare(&prepare);
            prepared.map_err(failed("cannot look into the virtual machine"))?;
            Ok(running)
        });
        match booted {
            Ok(mut running) => {
                // It is let go in order, so that what was written is there.
                running.is_over = true;
                vm.running = Some(running);
                Ok(vm)
            }
            Err(error) => {
                let _ = cgroup.kill_all();
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    fn running(&mut self) -> io::Result<&mut Running> {
        self.running
            .as_mut()
            .ok_or_else(|| io::Error::other("nothing runs"))
    }

    /// What the guest has to hear before anything of the image runs.
    fn prepare(&self, facts: &spec::Facts) -> Result<Prepare, StartError> {
        let instance = &self.instance;
        let hostname = spec::hostname(instance, &facts.host_name);
        let directory = self.paths.instance(&instance.id);
        disk::make_folder(&self.paths, instance)?;
        files::write(&directory, &hostname, &instance.config)
            .map_err(failed("cannot write the instance's own files"))?;
        let mut handed = Vec::new();
        for name in files::NAMES {
            let content = std::fs::read(directory.join(name))
                .map_err(failed("cannot read the instance's own files"))?;
            handed.push(File {
                name: name.to_owned(),
                mode: 0o644,
                content: content.into(),
            });
        }
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| failed("cannot get random bytes")(io::Error::from(errno)))?;
        Ok(Prepare {
            seed,
            clock: now(),
            hostname,
            network: None,
            files: handed,
            shares: shares::announcement(instance),
            root: Root {
                is_volatile: self.instance.config.auto_remove,
                image: Disk {
                    device: "vda".to_owned(),
                    filesystem: "erofs".to_owned(),
                    options: String::new(),
                },
                writable: Writable::Disk(Disk {
                    device: "vdb".to_owned(),
                    filesystem: "ext4".to_owned(),
                    options: "discard".to_owned(),
                }),
            },
        })
    }

    /// Limits of the hypervisor: what of the instance's limits the host has to hold.
    fn host_limits(&self, resources: &Resources, memory_bytes: u64) -> LinuxResources {
        let of_host = Resources {
            // The guest's memory is what its machine has; this is for a hypervisor that has gone astray.
            memory: resources
                .memory
                .map(|_| isle_types::ByteSize(memory_bytes + ground::OVERHEAD_BYTES)),
            memory_swap: None,
            memory_reservation: resources.memory_reservation,
            pids_limit: None,
            ..resources.clone()
        };
        limits::resources(&of_host, false, None)
    }

    fn make_cgroup(&self, ground: &Ground) -> Result<Cgroup, StartError> {
        let limits = self.host_limits(&self.instance.config.resources, ground.memory_bytes());
        Cgroup::create(&self.layout, &spec::cgroup_path(&self.instance), &limits)
            .map_err(failed("cannot make the control group"))
    }

    /// Starts the hypervisor. What is queued for the guest from `Begun::guest` is there when it begins to run.
    fn begin(&self, ground: &Ground, cgroup: &Cgroup) -> Result<Begun, StartError> {
        let disk = disk::open(&self.paths, &self.instance)?;
        let directory = self.paths.instance_run(&self.instance.id);
        let mut starting = ground.start(&directory, Some(cgroup), disk)?;
        let agent = starting.take_agent().ok_or_else(|| StartError {
            message: "cannot reach the guest: its machine has no port".to_owned(),
            exit_code: 125,
        })?;
        let guest = Connection::open(agent.into()).map_err(failed("cannot speak to the guest"))?;
        let server = shares::serve(&self.instance, &self.paths, &self.layers, cgroup)?;
        Ok(Begun {
            starting,
            guest,
            server,
        })
    }

    /// Lets it run.
    fn run(
        &self,
        ground: &Ground,
        begun: Begun,
        facts: spec::Facts,
    ) -> Result<Running, StartError> {
        let starting = begun.starting;
        let machine = starting
            .finish()
            .map_err(failed("cannot start the virtual machine"))?;
        let cgroup = Cgroup::open(&self.layout, &spec::cgroup_path(&self.instance))
            .map_err(failed("cannot hold the control group"))?;
        let record = ground.record();
        record
            .write(&self.paths.instance_run(&self.instance.id))
            .map_err(failed("cannot write to the run directory"))?;
        let mut guest = begun.guest;
        guest.set_patience(PATIENCE);
        Ok(Running {
            guest,
            machine,
            server: begun.server,
            cgroup,
            facts,
            spec: None,
            accelerator: record.accelerator,
            memory_bytes: record.memory_bytes,
            _kernel: ground.kernel(),
            further: BTreeSet::new(),
            carrying: BTreeSet::new(),
            is_killed: false,
            is_paused: false,
            is_over: false,
        })
    }

    fn boot(
        &self,
        ground: &Ground,
        cgroup: &Cgroup,
        facts: spec::Facts,
    ) -> Result<Running, StartError> {
        let begun = self.begin(ground, cgroup)?;
        self.run(ground, begun, facts)
    }

    fn launch(
        &self,
        ground: &Ground,
        cgroup: &Cgroup,
        stdio: Stdio,
    ) -> Result<(Running, RemoteProcess), StartError> {
        let instance = &self.instance;
        let facts = request::facts(instance);
        let mut begun = self.begin(ground, cgroup)?;
        // All of this while QEMU starts.
        let spec = request::specification(instance, &facts);
        let policy = spec::seccomp(&instance.config.security, &facts);
        let policy = policy.as_ref().map(isle_seccomp::compile).transpose();
        let policy = policy.map_err(failed("cannot compile the seccomp policy"))?;
        let prepare = self.prepare(&facts)?;
        let user = request::user(instance);
        let workload = Workload {
            id: &instance.id.to_string(),
            spec: &spec,
            user: Some(&user),
            seccomp: policy.as_deref(),
        };
        let process = begun
            .guest
            .launch(&prepare, &workload, streams(stdio))
            .map_err(|error| not_started(&error))?;
        let mut running = self.run(ground, begun, facts)?;
        running.spec = Some(spec);
        match running.guest.started(&process) {
            Ok(_pid_in_guest) => Ok((running, process)),
            Err(error) => {
                let mut error = not_started(&error);
                if let Some(said) = running.last_words() {
                    error.message = format!("{}: {said}", error.message);
                }
                running.kill();
                Err(error)
            }
        }
    }
}

/// A machine on its way.
struct Begun {
    starting: isle_qemu::Starting,
    guest: Connection,
    server: Option<Server>,
}

impl Running {
    /// Why the machine has ended, when it has.
    fn last_words(&self) -> Option<String> {
        let said = self.machine.said();
        let said = said.trim();
        (!said.is_empty()).then(|| said.to_owned())
    }

    fn kill(&mut self) {
        self.is_killed = true;
        let _ = self.machine.kill();
    }

    fn spec(&mut self, instance: &Instance) -> &Spec {
        let facts = &self.facts;
        self.spec
            .get_or_insert_with(|| request::specification(instance, facts))
    }
}

impl Backend for Vm {
    fn start(&mut self, stdio: Stdio) -> Result<Process, StartError> {
        let ground = Ground::find(&self.instance, &self.paths)?;
        let cgroup = self.make_cgroup(&ground)?;
        self.pool = ground.pool();
        match self.launch(&ground, &cgroup, stdio) {
            Ok((running, process)) => {
                let pid = running.machine.pid();
                self.running = Some(running);
                Ok(local(pid, process))
            }
            Err(error) => {
                let _ = cgroup.kill_all();
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    fn exec(&mut self, request: &ExecRequest, stdio: Stdio) -> Result<Process, StartError> {
        let instance = self.instance.clone();
        let running = self.running().map_err(failed("cannot run a process"))?;
        let (process, user, config) = request::further(&instance, &running.facts, request);
        let policy = spec::seccomp(&config.security, &running.facts);
        let policy = policy.as_ref().map(isle_seccomp::compile).transpose();
        let policy = policy.map_err(failed("cannot compile the seccomp policy"))?;
        running.spec(&instance);
        let further = Further {
            spec: running.spec.as_ref().expect("it was just made"),
            process: &process,
            user: Some(&user),
            seccomp: policy.as_deref(),
        };
        let process = running
            .guest
            .exec(&further, streams(stdio))
            .map_err(|error| not_started(&error))?;
        running.further.insert(process.id);
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
        let agent = isle_qemu::Vm::connect_port(&directory, ground::PORT)?;
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
        self.running = Some(Running {
            guest,
            machine,
            server: None,
            cgroup: Cgroup::open(&self.layout, &spec::cgroup_path(&self.instance))?,
            facts: request::facts(&self.instance),
            spec: None,
            accelerator: record.accelerator,
            memory_bytes: record.memory_bytes,
            _kernel: Arc::new(kernel),
            further: BTreeSet::new(),
            carrying: BTreeSet::new(),
            is_killed: false,
            is_paused,
            is_over: false,
        });
        Ok(local(pid, first))
    }

    fn reap(&mut self, process: &Process) -> io::Result<Ended> {
        if let Some(ended) = self.ends.remove(&process.task) {
            return Ok(ended);
        }
        let running = self.running()?;
        running.further.remove(&process.task);
        if running.carrying.remove(&process.task) {
            return Ok(inside::reap(&mut running.guest, process.task));
        }
        let result = running.guest.reap(process.task);
        if process.task == isle_guest::WORKLOAD {
            running.is_over = true;
        }
        match result {
            Ok(ended) => told(ended.end),
            Err(error) if error.is_final() => Ok(match running.is_killed {
                true => Ended::Signal(Signal::KILL),
                false => {
                    let why = chain(&error);
                    // Whatever has gone wrong: a machine whose agent cannot be spoken to is of no use.
                    let said = running.last_words();
                    let _ = running.machine.kill();
                    Ended::Crashed(match said {
                        Some(said) => format!("{why}: {said}"),
                        None => why,
                    })
                }
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn signal(&mut self, process: &Process, signal: Signal) -> io::Result<()> {
        self.running()?.guest.signal(process.task, signal);
        Ok(())
    }

    fn kill_all(&mut self) -> io::Result<()> {
        let running = self.running()?;
        if running.is_paused || running.guest.kill_all().is_err() {
            // It does not answer: its machine is what can be ended.
            running.kill();
        }
        Ok(())
    }

    fn resize(
        &mut self,
        process: &Process,
        _terminal: BorrowedFd<'_>,
        size: WindowSize,
    ) -> io::Result<()> {
        self.running()?.guest.resize(process.task, window(size));
        Ok(())
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|running| running.guest.as_fd())
    }

    fn tend(&mut self) {
        if let Some(running) = &mut self.running {
            // When the connection has ended, all processes have, and that is heard of.
            let _ = running.guest.tend();
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
        running.guest.set_clock(now());
        Ok(())
    }

    fn update(&mut self, resources: &Resources) -> io::Result<()> {
        let memory_bytes = self.running()?.memory_bytes;
        if let Some(memory) = resources.memory {
            let needed = size::of(resources, memory_bytes, u32::MAX).memory_bytes;
            if needed > memory_bytes {
                let most = isle_types::ByteSize(memory_bytes);
                return Err(io::Error::other(format!(
                    "{memory} is more than the machine has ({most}): stop the instance, update it, and start it \
                     again"
                )));
            }
        }
        let host = self.host_limits(resources, memory_bytes);
        let inside = limits::resources(
            &Resources {
                memory: resources.memory,
                pids_limit: resources.pids_limit,
                ..Resources::default()
            },
            false,
            None,
        );
        let running = self.running()?;
        running.guest.set_limits(&inside)?;
        Ok(running.cgroup.update(&host)?)
    }

    fn stats(&mut self) -> io::Result<Stats> {
        let network = None;
        let running = self.running()?;
        let of_host = running.cgroup.stats()?;
        let host = HostUsage::read()?;
        if running.is_paused {
            return Err(io::Error::other(
                "a paused virtual machine does not answer: unpause it first",
            ));
        }
        let guest = running.guest.stats()?;
        Ok(Stats {
            cpu: of_host.cpu,
            system_cpu: host.cpu,
            online_cpus: host.online_cpus,
            memory_bytes: guest
                .memory_usage
                .saturating_sub(guest.memory_inactive_file),
            memory_limit_bytes: guest
                .memory_limit
                .unwrap_or(guest.guest_memory)
                .min(guest.guest_memory),
            network,
            block_io: (guest.read_bytes, guest.written_bytes),
            pids: guest.pids,
        })
    }

    fn oom_kills(&mut self) -> u64 {
        let Some(running) = &self.running else {
            return 0;
        };
        let of_host = running.cgroup.oom_kills().unwrap_or(0);
        running.guest.oom_kills() + of_host
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
        self.running.as_ref().map(|running| running.accelerator)
    }

    fn rest(&mut self) {
        self.fill_pool();
        if let Some(running) = &mut self.running {
            running.spec = None;
        }
    }

    fn clean_up(&mut self) -> io::Result<()> {
        self.fill_pool();
        let _ = Record::remove(&self.paths.instance_run(&self.instance.id));
        if let Some(mut running) = self.running.take() {
            // What a removed instance has written nobody reads.
            if running.is_over && !running.is_killed && !self.instance.config.auto_remove {
                running.guest.set_patience(SHUTDOWN_PATIENCE);
                let _ = running.guest.shut_down();
            }
            let _ = running.machine.kill();
            let _ = running.machine.reap();
            // Those who wait for the end of an exec hear of it from now on; most have ended with the machine.
            let _ = running.guest.tend();
            for task in std::mem::take(&mut running.further) {
                let ended = running.guest.reap(task).map(|ended| told(ended.end));
                let ended = match ended {
                    Ok(Ok(ended)) => ended,
                    _ => Ended::Signal(Signal::KILL),
                };
                self.ends.insert(task, ended);
            }
            if let Some(server) = running.server {
                let id = WaitId::PidFd(server.pidfd.as_fd());
                let _ = waitid(id, WaitIdOptions::EXITED);
            }
        }
        remove_cgroup(&self.layout, &spec::cgroup_path(&self.instance))
    }
}

/// The end of a process as the agent tells it.
fn told(end: End) -> io::Result<Ended> {
    match end {
        End::Code(code) => Ok(Ended::Code(code)),
        End::Signal(number) => Signal::from_number(number.into())
            .map(Ended::Signal)
            .map_err(io::Error::other),
        End::Failed(failure) => Err(io::Error::other(failure.message)),
        End::Done => Err(io::Error::other("it was no process")),
    }
}

/// A process of the guest as the supervisor holds it.
fn local(pid: i32, process: RemoteProcess) -> Process {
    Process {
        pid,
        ended: process.ended,
        terminal: process.terminal,
        task: process.id,
    }
}

/// Takes away what runs of an instance have left: its hypervisor, and the control group.
pub(crate) fn clean_up(instance: &Instance) -> io::Result<()> {
    remove_cgroup(&Layout::detect()?, &spec::cgroup_path(instance))
}
