//! How a container that is a virtual machine comes to be: the verbs' side.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as ChildStdio};

use anyhow::{Context, bail};
use isle_cgroup::Cgroup;
use isle_runtime::{Child, Stdio};
use isle_types::Isolation;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process, Spec};
use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::machine::Setup;
use super::spec::Parts;
use super::wire::{self, Answer, Request, Size, Stats};
use super::{FURTHER, HOLD, level, network, terminal};
use crate::arguments::Global;
use crate::state::Directory;

/// The folder of a machine's sockets in the container's directory. Where it is, the container is a machine.
const FOLDER: &str = "machine";
/// The socket of the verbs in it.
const CONTROL: &str = "control";
/// Where this program is, for what comes with it; see [`isle_machine::programs`].
const OWN: &str = "/proc/self/exe";
/// The program of the stand-in, as it sees it: it has it for its standard output until it is executed.
const STAND_IN_PROGRAM: &str = "/proc/self/fd/1";

/// A virtual machine that was asked for.
pub(crate) struct Asked {
    parts: Parts,
    /// The other end of the stand-in's socket.
    link: Option<OwnedFd>,
    root: PathBuf,
    run: PathBuf,
}

impl Asked {
    /// `None`: the container is none.
    ///
    /// # Errors
    /// What a virtual machine cannot do, by the name of the field.
    pub(crate) fn of(
        global: &Global,
        spec: &Spec,
        bundle: &Path,
        preserve_fds: u32,
    ) -> anyhow::Result<Option<Asked>> {
        let program = std::env::args_os().next();
        match level::of(spec, program.as_deref(), global.isolation)? {
            Isolation::Container => return Ok(None),
            Isolation::Vm => {}
        }
        if preserve_fds > 0 {
            bail!(
                "--preserve-fds {preserve_fds}: descriptors of the host cannot be passed into a virtual machine"
            );
        }
        need_static_program()?;
        let variable =
            |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let given = global
            .isle_root
            .clone()
            .or_else(|| variable("ISLE_ROOT").map(PathBuf::from));
        let run = match &given {
            Some(root) => root.join("run"),
            None => "/run/isle".into(),
        };
        Ok(Some(Asked {
            parts: Parts::of(spec, bundle, STAND_IN_PROGRAM)?,
            link: None,
            root: given.unwrap_or_else(|| "/var/lib/isle".into()),
            run: variable("ISLE_RUN").map_or(run, PathBuf::from),
        }))
    }

    /// The specification of what stands in for the container on the host.
    pub(crate) fn stand_in(&self) -> &Spec {
        &self.parts.stand_in
    }

    /// Limits of the control group on the host.
    pub(crate) fn host_limits(&self) -> &LinuxResources {
        &self.parts.host
    }

    /// The standard streams of the stand-in.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub(crate) fn stand_in_streams(&mut self) -> anyhow::Result<Stdio> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .context("cannot make a socket")?;
        self.link = Some(ours);
        let null = File::options().read(true).write(true).open("/dev/null");
        Ok(Stdio::Streams {
            stdin: theirs,
            stdout: File::open(OWN).context("cannot open this program")?.into(),
            stderr: null.context("cannot open /dev/null")?.into(),
        })
    }

    /// Starts the machine, up to the container's process. `streams`: the container's, or its terminal's size. Its
    /// terminal's master becomes the stand-in's.
    ///
    /// # Errors
    /// Whatever fails; nothing of the machine is left then.
    pub(crate) fn launch(
        mut self,
        id: &str,
        directory: &Directory,
        cgroup: Option<&Path>,
        stand_in: &mut Child,
        streams: Stdio,
    ) -> anyhow::Result<()> {
        let folder = directory.path().join(FOLDER);
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the directory {}", folder.display()))?;
        let listener = wire::socket().context("cannot make a socket")?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(control(directory))?)
            .context("cannot bind the machine's socket")?;
        rustix::net::listen(&listener, 16).context("cannot listen on the machine's socket")?;
        let path = format!("/proc/{}/ns/net", stand_in.pid);
        let namespace = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context("cannot open the network namespace")?;
        let is_terminal = matches!(streams, Stdio::Terminal { .. });
        let streams: Vec<OwnedFd> = match streams {
            Stdio::Streams {
                stdin,
                stdout,
                stderr,
            } => vec![stdin, stdout, stderr],
            Stdio::Terminal { size } => {
                let (master, slave) = terminal::pair(size).context("cannot make a terminal")?;
                stand_in.terminal = Some(master);
                vec![slave]
            }
        };
        let setup = Setup {
            id: id.to_owned(),
            root: self.root,
            run: self.run,
            directory: folder,
            guest: self.parts.guest,
            shares: self.parts.shares,
            cgroup: cgroup.map(Path::to_owned),
            memory_bytes: self.parts.memory_bytes,
            nano_cpus: self.parts.nano_cpus,
            is_terminal,
        };
        let setup = in_memory(&setup).context("cannot describe the machine")?;
        let link = self.link.take().context("the stand-in has no socket")?;
        let mut descriptors = vec![
            setup.as_fd(),
            link.as_fd(),
            listener.as_fd(),
            namespace.as_fd(),
        ];
        descriptors.extend(streams.iter().map(AsFd::as_fd));
        let (_, socket) =
            spawn(HOLD, &descriptors).context("cannot start the machine's process")?;
        match wire::receive(&socket).context("the machine's process has ended")? {
            Some((Answer::Done, _)) => Ok(()),
            Some((Answer::Failed { message, .. }, _)) => bail!(message),
            _ => bail!("the machine's process has ended without a word"),
        }
    }
}

/// The stand-in is executed with the container's files for its root: a dynamic program would have its libraries from there.
fn need_static_program() -> anyhow::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("cannot read /proc/self/maps")?;
    match maps.lines().any(|line| line.contains(".so")) {
        true => {
            bail!("isle-oci must be linked statically for virtual machines: build it with `make`")
        }
        false => Ok(()),
    }
}

fn in_memory(setup: &Setup) -> anyhow::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("setup", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(setup)?)?;
    file.rewind()?;
    Ok(file)
}

/// Executes this program as a process of a machine, with descriptors; the process, and the other end of its standard input.
fn spawn(
    what: &str,
    descriptors: &[BorrowedFd<'_>],
) -> anyhow::Result<(std::process::Child, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    wire::send(&ours, &(), descriptors)?;
    let child = Command::new(OWN)
        .arg0("isle-oci")
        .arg(what)
        .stdin(ChildStdio::from(theirs))
        .stdout(ChildStdio::null())
        .stderr(ChildStdio::null())
        .current_dir("/")
        .spawn()?;
    Ok((child, ours))
}

/// By a path that is short enough for unix(7).
fn control(directory: &Directory) -> PathBuf {
    let fd = directory.fd().as_raw_fd();
    PathBuf::from(format!("/proc/self/fd/{fd}/{FOLDER}/{CONTROL}"))
}

/// Whether a container is a virtual machine.
pub(crate) fn is_machine(directory: &Directory) -> bool {
    let access = rustix::fs::Access::EXISTS;
    rustix::fs::accessat(directory.fd(), FOLDER, access, AtFlags::empty()).is_ok()
}

fn connect(directory: &Directory) -> anyhow::Result<OwnedFd> {
    wire::connect(&control(directory))
        .context("cannot reach the process that holds the virtual machine")
}

fn order(directory: &Directory, request: &Request) -> anyhow::Result<()> {
    wire::ask(connect(directory)?, request, &[]).map(drop)
}

/// Executes the container's process. When that fails its stand-in ends, as engines expect it of a container that could not be
/// started.
///
/// # Errors
/// [`super::Refused`] with the reason, or that nobody answers.
pub(crate) fn start(directory: &Directory, stand_in: Option<&OwnedFd>) -> anyhow::Result<()> {
    let started = order(directory, &Request::Start);
    if let (Err(_), Some(stand_in)) = (&started, stand_in) {
        let _ = pidfd_send_signal(stand_in, rustix::process::Signal::KILL);
    }
    started
}

/// Sends a signal to the container's process, or to all of them.
///
/// # Errors
/// That nobody answers.
pub(crate) fn kill(directory: &Directory, signal: i32, all: bool) -> anyhow::Result<()> {
    match all && signal == 9 {
        true => order(directory, &Request::KillAll),
        false => order(directory, &Request::Signal { signal }),
    }
}

/// Changes limits.
///
/// # Errors
/// When they do not fit the machine, or a kernel refuses them.
pub(crate) fn update(directory: &Directory, resources: &LinuxResources) -> anyhow::Result<()> {
    let resources = Box::new(resources.clone());
    order(directory, &Request::Update { resources })
}

/// What the processes in the guest use.
///
/// # Errors
/// That nobody answers.
pub(crate) fn stats(directory: &Directory) -> anyhow::Result<Stats> {
    match wire::ask(connect(directory)?, &Request::Stats, &[])? {
        (Answer::Stats(stats), _) => Ok(stats),
        _ => bail!("the process that holds the virtual machine does not make sense"),
    }
}

/// Executes a further process; what stands in for it on the host.
///
/// # Errors
/// [`super::Refused`] with the reason, or that nobody answers.
pub(crate) fn exec(
    directory: &Directory,
    process: &Process,
    cgroup: Option<&Cgroup>,
    streams: Stdio,
) -> anyhow::Result<Child> {
    let connection = connect(directory)?;
    let (owned, size): (Vec<OwnedFd>, Option<Size>) = match streams {
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => (vec![stdin, stdout, stderr], None),
        Stdio::Terminal { size } => (Vec::new(), size),
    };
    let is_terminal = owned.is_empty();
    let request = Request::Exec {
        process: Box::new(process.clone()),
        size,
    };
    let beside: Vec<_> = owned.iter().map(AsFd::as_fd).collect();
    let (_, guest) = wire::ask(&connection, &request, &beside)?;
    let (master, slave) = match is_terminal {
        true => {
            let (master, slave) = terminal::pair(size).context("cannot make a terminal")?;
            (Some(master), Some(slave))
        }
        false => (None, None),
    };
    let mut descriptors = vec![connection.as_fd()];
    if let Some(slave) = &slave {
        descriptors.push(slave.as_fd());
        let guest = guest
            .first()
            .context("the virtual machine has made no terminal")?;
        descriptors.push(guest.as_fd());
    }
    let (child, _) =
        spawn(FURTHER, &descriptors).context("cannot start what stands in for the process")?;
    let pid = i32::try_from(child.id()).context("a process id that is none")?;
    if let Some(cgroup) = cgroup {
        cgroup.add_process(pid)?;
    }
    let process = Pid::from_raw(pid).context("a process id that is none")?;
    Ok(Child {
        pid,
        pidfd: pidfd_open(process, PidfdFlags::empty()).context("cannot hold the process")?,
        terminal: master,
    })
}

/// Takes away what a machine that was killed has left in a network namespace that stays.
pub(crate) fn clean_up(spec: &Spec) {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    for namespace in namespaces.into_iter().flatten() {
        if namespace.typ() == LinuxNamespaceType::Network
            && let Some(path) = namespace.path()
            && let Ok(open) = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        {
            network::unwire(open.as_fd());
        }
    }
}
