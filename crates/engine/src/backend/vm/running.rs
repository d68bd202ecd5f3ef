//! A machine that runs, and what is held for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isle_cgroup::Cgroup;
use isle_guest::{Connection, Further, OutOfMemory, RemoteProcess};
use isle_kernel::Hold;
use isle_machine::elastic::Elastic;
use isle_machine::end;
use isle_machine::host::{HostMemory, HostUsage};
use isle_machine::size;
use isle_runtime::Kept;
use isle_share::Server;
use isle_types::{ByteSize, Signal};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::record::Record;
use super::{inside, request, words};
use crate::backend::oci::{self, limits, spec};
use crate::backend::{Ended, StartError, Stdio, chain};
use crate::config::Resources;
use crate::state::{Instance, MemoryOf};
use crate::{ExecRequest, MachineStats, Stats};

/// How long a guest may take for an answer that costs it nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a guest may take to write everything back when it is switched off.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a guest may take to say what it could do without.
const ADJUST_PATIENCE: Duration = Duration::from_secs(1);

/// Whether a process has ended.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())) == Ok(1)
}

/// What a run has until it is cleaned up.
pub(super) struct Running {
    pub(super) guest: Connection,
    pub(super) machine: isle_qemu::Vm,
    /// Serves folders of the host; ends with the machine.
    server: Option<Server>,
    /// Readable when the guest or the server has something to tell.
    watch: OwnedFd,
    /// What the machine was ended for from here.
    end_reason: Option<&'static str>,
    cgroup: Arc<Cgroup>,
    facts: spec::Facts,
    /// Made when it is needed, by a supervisor that has taken the machine over.
    pub(super) kept: Option<Kept>,
    /// What is known of the machine.
    pub(super) record: Record,
    /// Where that is written.
    directory: PathBuf,
    elastic: Option<Elastic>,
    /// The kernel stays while the machine runs.
    _kernel: Arc<Hold>,
    /// Processes of exec.
    further: BTreeSet<u32>,
    /// Tasks that carry archives.
    pub(super) carrying: BTreeSet<u32>,
    /// The machine was ended from here: that it is gone is no crash.
    is_killed: bool,
    pub(super) is_paused: bool,
    /// The first process has ended, and its end was collected.
    pub(super) is_over: bool,
}

impl Running {
    pub(super) fn new(
        mut guest: Connection,
        machine: isle_qemu::Vm,
        server: Option<Server>,
        cgroup: Arc<Cgroup>,
        (record, directory): (Record, PathBuf),
        kernel: Arc<Hold>,
        facts: spec::Facts,
    ) -> io::Result<Running> {
        guest.set_patience(PATIENCE);
        let watch = epoll::create(CreateFlags::CLOEXEC)?;
        let (token, readable) = (EventData::new_u64(0), EventFlags::IN);
        epoll::add(&watch, guest.as_fd(), token, readable)?;
        if let Some(server) = &server {
            // Level-triggered it would be readable for ever.
            epoll::add(&watch, &server.pidfd, token, readable | EventFlags::ET)?;
        }
        Ok(Running {
            guest,
            machine,
            server,
            watch,
            end_reason: None,
            cgroup,
            facts,
            kept: None,
            elastic: record
                .is_elastic
                .then(|| Elastic::new(record.memory_bytes, record.guest_memory_bytes)),
            record,
            directory,
            _kernel: kernel,
            further: BTreeSet::new(),
            carrying: BTreeSet::new(),
            is_killed: false,
            is_paused: false,
            is_over: false,
        })
    }

    /// Readable when [`Running::tend`] has something to do.
    pub(super) fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Passes on what waits.
    pub(super) fn tend(&mut self) {
        // When the connection has ended, all processes have, and that is heard of.
        let is_connected = self.guest.tend().is_ok();
        let server = self.server.as_ref().map(|server| &server.pidfd);
        let is_lost = is_connected
            && !self.is_over
            && !self.is_killed
            && self.end_reason.is_none()
            && server.is_some_and(has_ended)
            // It ends with the machine, and is collected before it sometimes.
            && self.machine.has_ended(end::END).is_none()
            && self.guest.tend().is_ok();
        if is_lost {
            // What it had open for the guest nobody else can know.
            self.end_reason = Some("the server of the host's folders (isle-share) has ended");
            let _ = self.machine.kill();
        }
    }

    /// Why the machine has ended, when it has.
    pub(super) fn last_words(&self) -> Option<String> {
        end::last_words(&self.machine)
    }

    pub(super) fn kill(&mut self) {
        self.is_killed = true;
        let _ = self.machine.kill();
    }

    /// Runs a further process.
    pub(super) fn exec(
        &mut self,
        instance: &Instance,
        request: &ExecRequest,
        stdio: Stdio,
    ) -> Result<RemoteProcess, StartError> {
        let (process, user) = request::further(instance, &self.facts, request);
        let kept = match &mut self.kept {
            Some(kept) => kept,
            none => none.insert(oci::kept(&request::specification(instance, &self.facts))?),
        };
        let further = Further {
            spec: &kept.spec,
            process: &process,
            user: Some(&user),
            seccomp: kept.program.as_deref(),
        };
        let process = self
            .guest
            .exec(&further, words::streams(stdio))
            .map_err(|error| words::not_started(&error))?;
        self.further.insert(process.id);
        Ok(process)
    }

    /// How a task has ended.
    pub(super) fn reap(&mut self, task: u32) -> io::Result<Ended> {
        self.further.remove(&task);
        if self.carrying.remove(&task) {
            return Ok(inside::reap(&mut self.guest, task));
        }
        let result = self.guest.reap(task);
        if task == isle_guest::WORKLOAD {
            self.is_over = true;
        }
        match result {
            Ok(ended) => words::told(ended.end),
            Err(error) if error.is_final() => Ok(match self.is_killed {
                true => Ended::Signal(Signal::KILL),
                false => {
                    if let Some(reason) = self.end_reason {
                        return Ok(Ended::Crashed(reason.to_owned()));
                    }
                    let mut why = chain(&error);
                    if let Some(more) = end::why_off(&mut self.machine) {
                        why.push_str(": ");
                        why.push_str(&more);
                    }
                    // Whatever has gone wrong: a machine whose agent cannot be spoken to is of no use.
                    let said = self.last_words();
                    let _ = self.machine.kill();
                    Ended::Crashed(match said {
                        Some(said) => format!("{why}: {said}"),
                        None => why,
                    })
                }
            }),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn signal(&mut self, task: u32, signal: Signal) {
        if task != isle_guest::WORKLOAD || signal != Signal::KILL || self.is_paused {
            return self.guest.signal(task, signal);
        }
        if end::kill(&mut self.guest, task, PATIENCE) {
            self.kill();
        }
    }

    pub(super) fn kill_all(&mut self) {
        if self.is_paused || self.guest.kill_all().is_err() {
            // It does not answer: its machine is what can be ended.
            self.kill();
        }
    }

    pub(super) fn update(&mut self, resources: &Resources) -> io::Result<()> {
        let refused = |text: String| Err(io::Error::other(text));
        let again = "stop the instance, update it, and start it again";
        let machine = self.record.memory_bytes;
        if let Some(memory) = resources.memory
            && size::with_kernel(memory) > machine
        {
            let most = ByteSize(machine);
            return refused(format!(
                "{memory} and what the guest's kernel needs are more than the machine has ({most}): {again}"
            ));
        }
        if let Some(nano) = resources.nano_cpus
            && nano.div_ceil(1_000_000_000) > u64::from(self.record.vcpus)
        {
            let vcpus = self.record.vcpus;
            return refused(format!(
                "the machine has not as many processors ({vcpus}): {again}"
            ));
        }
        if self.is_paused {
            return refused("a paused virtual machine cannot be told: unpause it first".to_owned());
        }
        let inside = limits::resources(&request::inside_limits(resources), false, None);
        self.guest.set_limits(&inside)?;
        let host = request::host_limits(resources, machine)?;
        self.cgroup.update(&host)?;
        if let Some(memory) = resources.memory {
            self.elastic = None;
            self.record.is_elastic = false;
            self.leave_guest(size::with_kernel(memory))?;
        }
        Ok(())
    }

    /// Leaves the guest this much memory from now on.
    fn leave_guest(&mut self, bytes: u64) -> io::Result<()> {
        self.machine.set_balloon(bytes).map_err(io::Error::other)?;
        self.record.guest_memory_bytes = bytes;
        self.record.write(&self.directory)
    }

    pub(super) fn adjust_at(&self) -> Option<Instant> {
        let elastic = self.elastic.as_ref().filter(|_| !self.is_paused);
        elastic.map(Elastic::next)
    }

    /// Takes memory from the guest while the host is short, and gives it back afterwards.
    pub(super) fn adjust(&mut self) {
        let (Some(elastic), Ok(host)) = (&mut self.elastic, HostMemory::read()) else {
            return;
        };
        let guest = &mut self.guest;
        let target = elastic.look(host, || {
            guest.set_patience(ADJUST_PATIENCE);
            let stats = guest.stats();
            guest.set_patience(PATIENCE);
            stats.ok().map(|stats| stats.guest_available)
        });
        if let Some(target) = target
            // What fails now is tried again.
            && self.leave_guest(target).is_ok()
            && let Some(elastic) = &mut self.elastic
        {
            elastic.set(target);
        }
    }

    pub(super) fn stats(&mut self) -> io::Result<Stats> {
        let guest = match self.is_paused {
            false => Some(self.guest.stats()?),
            true => None,
        };
        let of_host = self.cgroup.stats()?;
        let host = HostUsage::read()?;
        let memory = self.machine.memory().map_err(io::Error::other)?;
        let machine = MachineStats {
            memory_bytes: self.record.memory_bytes,
            guest_memory_bytes: memory.guest_bytes,
            host_bytes: memory.proportional_bytes,
            host_private_bytes: memory.private_bytes,
        };
        let seen_from_host = Stats {
            cpu: of_host.cpu,
            system_cpu: host.cpu,
            online_cpus: host.online_cpus,
            memory_bytes: machine.host_bytes,
            memory_limit_bytes: machine.memory_bytes,
            network: None,
            block_io: (of_host.io_read_bytes, of_host.io_write_bytes),
            pids: 0,
            machine: Some(machine),
        };
        let Some(guest) = guest else {
            return Ok(seen_from_host);
        };
        Ok(Stats {
            memory_bytes: guest
                .memory_usage
                .saturating_sub(guest.memory_inactive_file),
            memory_limit_bytes: guest
                .memory_limit
                .unwrap_or(guest.guest_memory)
                .min(guest.guest_memory)
                .min(machine.guest_memory_bytes),
            network: Some((guest.received_bytes, guest.sent_bytes)),
            block_io: (guest.read_bytes, guest.written_bytes),
            pids: guest.pids,
            ..seen_from_host
        })
    }

    pub(super) fn oom_kills(&self) -> u64 {
        self.guest.oom_kills() + self.cgroup.oom_kills().unwrap_or(0)
    }

    /// Whose memory ran out: of hypervisor and host their own kernel tells, of the rest the guest.
    pub(super) fn out_of_memory(&self) -> Option<MemoryOf> {
        let of_host = self.cgroup.out_of_memory().unwrap_or_default();
        match (of_host.kills, of_host.was_at_limit) {
            (0, _) => self.guest.out_of_memory().map(|whose| match whose {
                OutOfMemory::Instance => MemoryOf::Instance,
                OutOfMemory::Guest => MemoryOf::Guest,
            }),
            (_, true) => Some(MemoryOf::Hypervisor),
            (_, false) => Some(MemoryOf::Host),
        }
    }

    /// Ends the machine, in order where there is something to be written; how processes of exec have ended that
    /// nobody has asked about.
    pub(super) fn end(mut self, writes_are_kept: bool) -> BTreeMap<u32, Ended> {
        if self.is_over && !self.is_killed && writes_are_kept {
            self.guest.set_patience(SHUTDOWN_PATIENCE);
            let _ = self.guest.shut_down();
        }
        let _ = self.machine.kill();
        let _ = self.machine.reap();
        // Those who wait for the end of an exec hear of it from now on; most have ended with the machine.
        let _ = self.guest.tend();
        let mut ends = BTreeMap::new();
        for task in std::mem::take(&mut self.further) {
            let ended = self.guest.reap(task).map(|ended| words::told(ended.end));
            let ended = match ended {
                Ok(Ok(ended)) => ended,
                _ => Ended::Signal(Signal::KILL),
            };
            ends.insert(task, ended);
        }
        if let Some(server) = self.server {
            let id = WaitId::PidFd(server.pidfd.as_fd());
            let _ = waitid(id, WaitIdOptions::EXITED);
        }
        ends
    }
}
