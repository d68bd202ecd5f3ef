//! The process that holds a virtual machine: it starts QEMU, speaks to the agent, answers the verbs, and tells the
//! stand-in how the container's process has ended. Everything ends with it: QEMU by the kernel's doing, the server of
//! folders with QEMU, the taps when nobody has them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use isle_cgroup::{Cgroup, Layout};
use isle_guest::{
    Connection, End, Further, Prepare, RemoteProcess, StartError, Stdio, WORKLOAD, WindowSize,
    Workload,
};
use isle_machine::elastic::Elastic;
use isle_machine::host::HostMemory;
use isle_machine::{Base, PATIENCE, end, shares, size};
use isle_qemu::{Identity, Launch, Starting};
use isle_runtime::Kept;
use isle_share::{Server, Share};
use isle_types::{ByteSize, Signal};
use oci_spec::runtime::{LinuxMemory, LinuxResources, Process, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::SocketFlags;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use super::spec::{self, Shared};
use super::terminal::{self, Relay};
use super::wire::{self, Answer, Request, Size, Stats};
use super::{network, stand_in};

/// How long the guest may take for an answer that costs it nothing.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to say what it could do without.
const ADJUST: Duration = Duration::from_secs(1);
/// The exit code when the machine has ended under its container.
const CRASHED: u8 = 255;

/// What a machine is made from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) id: String,
    /// Where kernels and templates are.
    pub(super) root: PathBuf,
    /// What of Isle a boot of the host ends.
    pub(super) run: PathBuf,
    /// The machine's sockets.
    pub(super) directory: PathBuf,
    pub(super) guest: Spec,
    pub(super) shares: Vec<Shared>,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) nano_cpus: Option<u64>,
    pub(super) is_terminal: bool,
}

/// The descriptors that come with it, in this order; the rest are the container's three streams, or the slave of its terminal.
#[derive(Debug)]
pub(super) struct Given {
    /// The other end of the stand-in.
    link: OwnedFd,
    /// Where the verbs come to.
    listener: OwnedFd,
    namespace: OwnedFd,
    streams: Vec<OwnedFd>,
}

impl Given {
    pub(super) fn of(descriptors: Vec<OwnedFd>) -> Option<Given> {
        let mut all = VecDeque::from(descriptors);
        Some(Given {
            link: all.pop_front()?,
            listener: all.pop_front()?,
            namespace: all.pop_front()?,
            streams: all.into(),
        })
    }
}

/// Who has connected, and the further process that the connection is of.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    task: Option<(u32, OwnedFd)>,
    is_gone: bool,
}

/// The container's own process, once it was started.
struct Own {
    process: RemoteProcess,
    terminal: Option<(Relay, OwnedFd)>,
}

pub(super) struct Machine {
    setup: Setup,
    given: Given,
    guest: Connection,
    vm: isle_qemu::Vm,
    server: Server,
    cgroup: Option<Cgroup>,
    base: Base,
    kept: Option<Kept>,
    /// Of the container's standard error, for what nobody else would say.
    complaints: Option<File>,
    own: Option<Own>,
    clients: Vec<Client>,
    signals: OwnedFd,
    elastic: Option<Elastic>,
}

/// What poll(2) says.
#[derive(Default)]
struct Ready {
    guest: bool,
    server: bool,
    link: bool,
    listener: bool,
    signals: bool,
    own: bool,
    /// Socket and end of each client.
    clients: Vec<(bool, bool)>,
}

fn open_share(share: &Shared) -> anyhow::Result<Share> {
    let source = openat(
        CWD,
        &share.source,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("cannot mount {}", share.source.display()))?;
    Ok(Share {
        source,
        is_recursive: share.is_recursive,
        is_read_only: share.is_read_only,
    })
}

impl Machine {
    /// Starts the machine, and makes its guest the container's, up to its process.
    ///
    /// # Errors
    /// With the remedy where one is known; nothing runs then.
    pub(super) fn start(setup: Setup, given: Given) -> anyhow::Result<Machine> {
        let signals = stand_in::all_signals().context("cannot watch signals")?;
        if setup.is_terminal
            && let Some(slave) = given.streams.first()
        {
            terminal::take(slave).context("cannot take the terminal")?;
        }
        let wanted = spec::wanted(setup.memory_bytes, setup.nano_cpus);
        // Before the group is joined: a template is nobody's.
        let base =
            Base::prepare(&wanted, &setup.root, &setup.run, &mut || {}).map_err(|error| {
                let hint = error.hint();
                let error = anyhow::Error::from(error).context("cannot run a virtual machine");
                match hint {
                    Some(hint) => anyhow::anyhow!("{error:#} (hint: {hint})"),
                    None => error,
                }
            })?;
        let cgroup = setup
            .cgroup
            .as_deref()
            .map(|path| -> anyhow::Result<Cgroup> {
                let cgroup = Cgroup::open(&Layout::detect()?, path)?;
                cgroup.add_process(std::process::id().cast_signed())?;
                Ok(cgroup)
            });
        let cgroup = cgroup
            .transpose()
            .context("cannot join the control group")?;
        let machine = base.template.machine();
        let cards = usize::from(machine.devices.network_cards);
        let wired = network::wire(given.namespace.as_fd(), cards)?;
        let shares = setup.shares.iter().map(open_share);
        let shares = shares.collect::<anyhow::Result<Vec<Share>>>()?;
        let launch = Launch {
            run_directory: &setup.directory,
            identity: Identity::of_name(&setup.id),
            cgroup: cgroup.as_ref(),
            disks: Vec::new(),
            taps: wired.taps,
            patience: PATIENCE,
            dies_with_starter: true,
        };
        let mut starting = Starting::clone_of(&base.template, launch)
            .context("cannot start the virtual machine")?;
        let agent = starting.take_agent().context("its machine has no port")?;
        let mut guest = Connection::open(agent.into())?;
        let server = shares::serve(&shares, &setup.directory, cgroup.as_ref())?;
        let prepare = Prepare {
            seed: isle_machine::seed().context("cannot get random bytes")?,
            clock: isle_machine::now(),
            hostname: setup.guest.hostname().clone().unwrap_or_default(),
            networks: wired.networks,
            files: Vec::new(),
            shares: Some(shares::announcement()),
            root: None,
        };
        let vm = starting
            .finish()
            .context("cannot start the virtual machine")?;
        let kept = Kept::of(&setup.guest).context("cannot compile the seccomp policy")?;
        guest
            .prepare(&prepare)
            .context("cannot prepare the virtual machine")?;
        guest.set_patience(ANSWER);
        let elastic = setup.memory_bytes.is_none();
        let bytes = base.template.machine().memory_bytes;
        let complaints = given.streams.get(2).map(OwnedFd::try_clone).transpose()?;
        Ok(Machine {
            elastic: elastic.then(|| Elastic::new(bytes, bytes)),
            kept: Some(kept),
            complaints: complaints.map(File::from),
            own: None,
            clients: Vec::new(),
            setup,
            given,
            guest,
            vm,
            server,
            cgroup,
            base,
            signals,
        })
    }

    /// Holds it until the container's process has ended, or its stand-in.
    pub(super) fn hold(mut self) -> ExitCode {
        let code = loop {
            let Ok(ready) = self.wait() else { continue };
            if let Some(code) = self.turn(&ready) {
                break code;
            }
        };
        self.finish(code)
    }

    fn wait(&mut self) -> rustix::io::Result<Ready> {
        let guest = self.guest.as_fd();
        let fixed = [
            guest,
            self.server.pidfd.as_fd(),
            self.given.link.as_fd(),
            self.given.listener.as_fd(),
            self.signals.as_fd(),
        ];
        let mut fds: Vec<PollFd<'_>> = fixed
            .into_iter()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        fds.extend(
            self.own
                .as_ref()
                .map(|own| PollFd::new(&own.process.ended, PollFlags::IN)),
        );
        for client in &self.clients {
            fds.push(PollFd::new(&client.socket, PollFlags::IN));
            fds.extend(
                client
                    .task
                    .as_ref()
                    .map(|(_, ended)| PollFd::new(ended, PollFlags::IN)),
            );
        }
        let left = self
            .elastic
            .as_ref()
            .map(|elastic| elastic.next().saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        poll(&mut fds, timeout.as_ref())?;
        let mut flags = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || flags.next().unwrap_or(false);
        Ok(Ready {
            guest: next(),
            server: next(),
            link: next(),
            listener: next(),
            signals: next(),
            own: self.own.is_some() && next(),
            clients: self
                .clients
                .iter()
                .map(|client| (next(), client.task.is_some() && next()))
                .collect(),
        })
    }

    /// Does what is due; the exit code of the container, once there is one.
    fn turn(&mut self, ready: &Ready) -> Option<u8> {
        self.adjust();
        if ready.guest && self.guest.tend().is_err() && self.own.is_none() {
            return Some(CRASHED);
        }
        if ready.own {
            return Some(self.collect());
        }
        if ready.server && self.vm.has_ended(end::END).is_none() {
            self.complain("the server of the host's folders (isle-share) has ended");
            return Some(CRASHED);
        }
        if ready.signals {
            self.follow_size();
        }
        if ready.link && !self.hear_stand_in() {
            return Some(128 + 9);
        }
        for (index, (is_asking, has_ended)) in ready.clients.iter().enumerate() {
            if *has_ended {
                self.tell_end(index);
            }
            if *is_asking {
                self.serve(index);
            }
        }
        self.clients.retain(|client| !client.is_gone);
        if ready.listener
            && let Ok(socket) = rustix::net::accept_with(&self.given.listener, SocketFlags::CLOEXEC)
        {
            self.clients.push(Client {
                socket,
                task: None,
                is_gone: false,
            });
        }
        None
    }

    /// How the container's process has ended.
    fn collect(&mut self) -> u8 {
        match self.guest.reap(WORKLOAD) {
            Ok(ended) => code(&ended.end),
            Err(error) => {
                let mut why = format!("{:#}", anyhow::Error::from(error));
                let off = end::why_off(&mut self.vm);
                for more in off.into_iter().chain(end::last_words(&self.vm)) {
                    why.push_str(": ");
                    why.push_str(&more);
                }
                self.complain(&why);
                CRASHED
            }
        }
    }

    /// Says on the container's standard error what nobody else would.
    fn complain(&mut self, why: &str) {
        if let Some(stderr) = &mut self.complaints {
            let _ = writeln!(stderr, "isle-oci: the virtual machine has ended: {why}");
        }
    }

    /// Passes on what was sent to the stand-in; `false`: it has ended.
    fn hear_stand_in(&mut self) -> bool {
        match wire::receive(&self.given.link) {
            Ok(Some((Request::Signal { signal }, _))) => {
                self.signal(WORKLOAD, signal);
                true
            }
            Ok(Some(_)) => true,
            Ok(None) => false,
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }

    fn signal(&mut self, task: u32, number: i32) {
        if task == WORKLOAD && self.own.is_none() {
            return;
        }
        let Ok(signal) = Signal::from_number(number) else {
            return;
        };
        if task == WORKLOAD && signal == Signal::KILL {
            if end::kill(&mut self.guest, task, ANSWER) {
                let _ = self.vm.kill();
            }
            return;
        }
        self.guest.signal(task, signal);
    }

    fn follow_size(&mut self) {
        let _ = stand_in::come(self.signals.as_fd());
        if let Some(Own {
            terminal: Some((_, slave)),
            ..
        }) = &self.own
            && let Some(size) = terminal::size(slave)
        {
            self.guest.resize(WORKLOAD, window(size));
        }
    }

    /// Takes memory from the guest while the host is short, and gives it back afterwards.
    fn adjust(&mut self) {
        let Some(elastic) = self
            .elastic
            .as_mut()
            .filter(|elastic| elastic.next() <= Instant::now())
        else {
            return;
        };
        let Ok(host) = HostMemory::read() else { return };
        let guest = &mut self.guest;
        let target = elastic.look(host, || {
            guest.set_patience(ADJUST);
            let stats = guest.stats();
            guest.set_patience(ANSWER);
            stats.ok().map(|stats| stats.guest_available)
        });
        // What fails now is tried again.
        if let Some(target) = target
            && self.vm.set_balloon(target).is_ok()
        {
            elastic.set(target);
        }
    }

    fn tell_end(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some((task, _)) = client.task.take() else {
            return;
        };
        let code = self
            .guest
            .reap(task)
            .map_or(CRASHED, |ended| code(&ended.end));
        let _ = wire::send(&client.socket, &Answer::Ended { code }, &[]);
        client.is_gone = true;
    }

    /// Answers a client.
    fn serve(&mut self, index: usize) {
        if self.clients[index].is_gone {
            return;
        }
        let received = wire::receive::<Request>(&self.clients[index].socket);
        let Ok(Some((request, descriptors))) = received else {
            self.clients[index].is_gone = true;
            if let Some((task, _)) = &self.clients[index].task {
                // Whoever waits for it has gone.
                self.guest.signal(*task, Signal::KILL);
            }
            return;
        };
        let task = self.clients[index].task.as_ref().map(|(task, _)| *task);
        let answer = match request {
            Request::Start => self.start_own().map(|()| (Answer::Done, None)),
            Request::Exec { process, size } => self.exec(index, &process, size, descriptors),
            Request::Signal { signal } => {
                self.signal(task.unwrap_or(WORKLOAD), signal);
                match task {
                    // Nobody waits for an answer.
                    Some(_) => return,
                    None => Ok((Answer::Done, None)),
                }
            }
            Request::Resize { size } => {
                if let Some(task) = task {
                    self.guest.resize(task, window(size));
                }
                return;
            }
            Request::KillAll => {
                if self.guest.kill_all().is_err() {
                    let _ = self.vm.kill();
                }
                Ok((Answer::Done, None))
            }
            Request::Update { resources } => self.update(&resources).map(|()| (Answer::Done, None)),
            Request::Stats => self.stats().map(|stats| (Answer::Stats(stats), None)),
        };
        let (answer, beside) = answer.unwrap_or_else(|error| (failed(&error), None));
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        let _ = wire::send(&self.clients[index].socket, &answer, &beside);
    }

    /// Executes the container's process.
    fn start_own(&mut self) -> anyhow::Result<()> {
        if self.own.is_some() {
            bail!("the container was started before");
        }
        let kept = self
            .kept
            .as_ref()
            .context("nothing is known of the container")?;
        let workload = Workload {
            id: &self.setup.id,
            spec: &self.setup.guest,
            user: None,
            seccomp: kept.program.as_deref(),
            root_share: Some(spec::ROOT),
        };
        let mut streams = std::mem::take(&mut self.given.streams).into_iter();
        let mut next = || streams.next().context("a stream is missing");
        let mut slave = None;
        let stdio = if self.setup.is_terminal {
            let own = next()?;
            let size = terminal::size(&own);
            slave = Some(own);
            Stdio::Terminal {
                size: size.map(window),
            }
        } else {
            Stdio::Streams {
                stdin: unshared(next()?)?,
                stdout: unshared(next()?)?,
                stderr: unshared(next()?)?,
            }
        };
        let mut process = self.guest.start(&workload, stdio)?;
        self.guest.started(&process)?;
        let terminal = match (slave, process.terminal.take()) {
            (Some(slave), Some(guest)) => {
                let kept = slave.try_clone()?;
                Some((Relay::start(slave, guest)?, kept))
            }
            _ => None,
        };
        self.own = Some(Own { process, terminal });
        Ok(())
    }

    /// Executes a further process, whose connection the client's is from now on.
    fn exec(
        &mut self,
        index: usize,
        process: &Process,
        size: Option<Size>,
        descriptors: Vec<OwnedFd>,
    ) -> anyhow::Result<(Answer, Option<OwnedFd>)> {
        let kept = self
            .kept
            .as_ref()
            .context("nothing is known of the container")?;
        if self.own.is_none() || self.clients[index].task.is_some() {
            bail!("container not running");
        }
        let stdio = match <[OwnedFd; 3]>::try_from(descriptors) {
            Ok([stdin, stdout, stderr]) => Stdio::Streams {
                stdin: unshared(stdin)?,
                stdout: unshared(stdout)?,
                stderr: unshared(stderr)?,
            },
            Err(_) => Stdio::Terminal {
                size: size.map(window),
            },
        };
        let process = spec::process_inside(process);
        let further = Further {
            spec: &kept.spec,
            process: &process,
            user: None,
            seccomp: kept.program.as_deref(),
        };
        let process = self.guest.exec(&further, stdio)?;
        self.clients[index].task = Some((process.id, process.ended));
        Ok((Answer::Done, process.terminal))
    }

    fn update(&mut self, resources: &LinuxResources) -> anyhow::Result<()> {
        let machine = self.base.template.machine();
        let memory = resources.memory().as_ref().and_then(LinuxMemory::limit);
        let memory = memory
            .and_then(|limit| u64::try_from(limit).ok())
            .filter(|limit| *limit > 0);
        let needed = memory.map(|limit| size::with_kernel(ByteSize(limit)));
        if needed.is_some_and(|needed| needed > machine.memory_bytes) {
            bail!(
                "{} and what the guest's kernel needs are more than the virtual machine has ({}): make the container again",
                ByteSize(memory.unwrap_or_default()),
                ByteSize(machine.memory_bytes)
            );
        }
        let nano_cpus = spec::nano_cpus(resources);
        if nano_cpus.is_some_and(|nano| nano.div_ceil(1_000_000_000) > u64::from(machine.vcpus)) {
            bail!(
                "the virtual machine has not as many processors ({}): make the container again",
                machine.vcpus
            );
        }
        self.guest.set_limits(&spec::limits_inside(resources))?;
        if let Some(cgroup) = &self.cgroup {
            // The machine stays as large as it is.
            let host = spec::host_limits(Some(resources), None, None)?;
            cgroup.update(&host)?;
        }
        if let Some(needed) = needed {
            self.elastic = None;
            self.vm.set_balloon(needed)?;
        }
        Ok(())
    }

    fn stats(&mut self) -> anyhow::Result<Stats> {
        let stats = self.guest.stats()?;
        Ok(Stats {
            memory_usage: stats.memory_usage,
            memory_inactive_file: stats.memory_inactive_file,
            memory_limit: stats.memory_limit,
            pids: stats.pids,
            read_bytes: stats.read_bytes,
            written_bytes: stats.written_bytes,
        })
    }

    /// Ends everything, and then tells the stand-in: the engine takes the files away as soon as that has ended.
    fn finish(mut self, code: u8) -> ExitCode {
        if let Some((relay, _)) = self.own.take().and_then(|own| own.terminal) {
            relay.finish();
        }
        let _ = self.vm.kill();
        let _ = self.vm.reap();
        let _ = waitid(
            WaitId::PidFd(self.server.pidfd.as_fd()),
            WaitIdOptions::EXITED,
        );
        for client in &self.clients {
            if client.task.is_some() {
                let _ = wire::send(&client.socket, &Answer::Ended { code: 128 + 9 }, &[]);
            }
        }
        network::unwire(self.given.namespace.as_fd());
        let _ = wire::send(&self.given.link, &Answer::Ended { code }, &[]);
        ExitCode::SUCCESS
    }
}

fn code(end: &End) -> u8 {
    match end {
        End::Code(code) => *code,
        End::Signal(number) => 128_u8.wrapping_add(*number),
        End::Failed(_) | End::Done => CRASHED,
    }
}

fn window((rows, columns): Size) -> WindowSize {
    WindowSize { rows, columns }
}

fn failed(error: &anyhow::Error) -> Answer {
    let exit_code = error
        .downcast_ref::<StartError>()
        .map(|error| error.exit_code);
    Answer::Failed {
        message: format!("{error:#}"),
        exit_code: exit_code.unwrap_or(1),
    }
}

/// A terminal opened once more: that it never makes its reader wait is the reader's own then, and not that of the shell.
fn unshared(fd: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if !rustix::termios::isatty(&fd) {
        return Ok(fd);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(openat(CWD, path, flags, Mode::empty())?)
}
