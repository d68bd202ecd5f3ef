//! `create`: everything up to the program of the container.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isle_cgroup::{Cgroup, Layout};
use isle_runtime::{Child, Created, Options, Plan, Rootfs, Stdio};
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::arguments::{CgroupManager, Create, Global};
use crate::console;
use crate::state::{Directory, State};
use crate::vm::Asked;

/// A container that is being made; what it has on the host is taken away again unless it is kept.
pub(super) struct Making {
    pub(super) directory: Option<Directory>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) spec: Spec,
    pub(super) state: State,
    pub(super) created: Option<Created>,
}

impl Drop for Making {
    fn drop(&mut self) {
        // the process ends when its channel closes
        drop(self.created.take());
        let Some(directory) = self.directory.take() else {
            return;
        };
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
        }
        let _ = directory.remove();
    }
}

impl Making {
    /// From now on it stays.
    pub(super) fn keep(mut self) -> (Directory, Option<Cgroup>, Spec, State) {
        let directory = self.directory.take().expect("it is taken once only");
        (
            directory,
            self.cgroup.take(),
            std::mem::take(&mut self.spec),
            self.state.clone(),
        )
    }
}

/// The path of the container's control group.
fn cgroup_path(spec: &Spec, id: &str) -> anyhow::Result<PathBuf> {
    let given = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_deref())
        .filter(|path| !path.as_os_str().is_empty());
    let Some(path) = given else {
        return Ok(Path::new("/").join(id));
    };
    let text = path.to_string_lossy();
    if text.contains(':') {
        bail!(
            "linux.cgroupsPath {text:?} is for control groups made by systemd, which are not \
             supported yet: set the cgroup driver of the engine to cgroupfs"
        );
    }
    if path.components().any(|part| part.as_os_str() == "..") {
        bail!("linux.cgroupsPath {text:?} leads out of the control groups");
    }
    Ok(Path::new("/").join(path))
}

fn is_seekable_fd(number: u32) -> bool {
    Path::new(&format!("/proc/self/fd/{number}")).exists()
}

/// `--preserve-fds` and the sockets of sd_listen_fds(3): descriptors that must be open already,
/// else one of ours would get such a number.
pub(super) fn preserved(asked: u32) -> anyhow::Result<u32> {
    let listen = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or(0);
    let all = asked.saturating_add(listen);
    if let Some(missing) = (3..3_u32.saturating_add(all)).find(|number| !is_seekable_fd(*number)) {
        bail!("--preserve-fds {all}: descriptor {missing} is not open");
    }
    Ok(all)
}

/// Duplicates of our own standard streams.
pub(super) fn own_streams() -> anyhow::Result<Stdio> {
    use std::os::fd::AsFd;
    let own = |fd: std::os::fd::BorrowedFd<'_>| -> anyhow::Result<OwnedFd> {
        fd.try_clone_to_owned()
            .context("cannot duplicate a standard stream")
    };
    Ok(Stdio::Streams {
        stdin: own(std::io::stdin().as_fd())?,
        stdout: own(std::io::stdout().as_fd())?,
        stderr: own(std::io::stderr().as_fd())?,
    })
}

fn listen(directory: &Directory) -> anyhow::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .context("cannot make the start socket")?;
    let address = SocketAddrUnix::new(directory.socket())?;
    rustix::net::bind(&socket, &address).context("cannot bind the start socket")?;
    rustix::net::listen(&socket, 1).context("cannot listen on the start socket")?;
    Ok(socket)
}

/// Makes the container; it waits.
pub(super) fn make(
    global: &Global,
    arguments: &Create,
    is_foreground: bool,
    with_socket: bool,
) -> anyhow::Result<Making> {
    super::need_root()?;
    let preserve_fds = preserved(arguments.preserve_fds)?;
    crate::state::check_id(&arguments.id)?;
    let bundle = fs::canonicalize(&arguments.bundle)
        .with_context(|| format!("cannot find the bundle {}", arguments.bundle.display()))?;
    let path = bundle.join(&arguments.config);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut spec: Spec = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a runtime specification", path.display()))?;
    if let Ok(listen) = std::env::var("LISTEN_FDS")
        && let Some(process) = spec.process_mut()
    {
        let mut env = process.env().clone().unwrap_or_default();
        env.push(format!("LISTEN_FDS={listen}"));
        env.push("LISTEN_PID=1".to_owned());
        process.set_env(Some(env));
    }
    let terminal = spec.process().as_ref().and_then(|p| p.terminal()) == Some(true);
    console::check(terminal, arguments.console_socket.as_deref(), is_foreground)?;
    let mut machine = Asked::of(global, &spec, &bundle, preserve_fds)?;
    let plan = Plan::new(
        machine.as_ref().map_or(&spec, Asked::stand_in),
        Options {
            id: arguments.id.clone(),
            bundle: bundle.clone(),
            keep_keyring: arguments.no_new_keyring,
            no_pivot: arguments.no_pivot,
            preserve_fds,
            seccomp: None,
            is_for_guest: false,
        },
    )?;
    let rootfs = spec
        .root()
        .as_ref()
        .map(|root| bundle.join(root.path()))
        .unwrap_or_default();
    let cgroup_path = match global.cgroup_manager {
        CgroupManager::Disabled => None,
        _ => Some(cgroup_path(&spec, &arguments.id)?),
    };

    let directory = Directory::create(&global.root, &arguments.id)?;
    let state = State::new(&arguments.id, 0, bundle, rootfs.clone());
    let mut making = Making {
        directory: Some(directory),
        cgroup: None,
        spec,
        state,
        created: None,
    };
    if let Some(path) = cgroup_path {
        let layout = Layout::detect().context("cannot find the control groups of the host")?;
        let none = LinuxResources::default();
        let limits = making
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref())
            .unwrap_or(&none);
        let limits = machine.as_ref().map_or(limits, Asked::host_limits);
        let cgroup = Cgroup::create(&layout, &path, limits)
            .with_context(|| format!("cannot make the control group {}", path.display()))?;
        making.cgroup = Some(cgroup);
        making.state.cgroup = Some(path);
    }
    let stdio = if terminal {
        let size = making
            .spec
            .process()
            .as_ref()
            .and_then(|process| process.console_size())
            .and_then(|size| {
                let narrow = |side: u64| u16::try_from(side).ok().filter(|side| *side > 0);
                Some((narrow(size.height())?, narrow(size.width())?))
            });
        Stdio::Terminal {
            size: size.or_else(console::own_size),
        }
    } else {
        own_streams()?
    };
    let directory = making.directory.as_ref().expect("it was just made");
    let listener = with_socket.then(|| listen(directory)).transpose()?;
    let (stdio, streams) = match &mut machine {
        Some(machine) => (machine.stand_in_streams()?, Some(stdio)),
        None => (stdio, None),
    };
    let mut created = plan.create_with(
        Rootfs::Directory(rootfs),
        making.cgroup.as_ref(),
        stdio,
        listener,
    )?;
    if let (Some(machine), Some(streams)) = (machine, streams) {
        let cgroup = making.state.cgroup.as_deref();
        machine.launch(&arguments.id, directory, cgroup, &mut created.init, streams)?;
    }
    making.state.pid = created.init.pid;
    making.state.start_time = crate::state::start_time(created.init.pid).unwrap_or(0);
    directory.save_config(&text)?;
    directory.save(&making.state)?;
    if let (Some(socket), Some(master)) = (&arguments.console_socket, &created.init.terminal) {
        console::send(socket, master)?;
    }
    making.created = Some(created);
    Ok(making)
}

/// Writes a pid whole, or not at all: who waits for the file must not see half of it.
pub(super) fn write_pid(file: Option<&Path>, child: &Child) -> anyhow::Result<()> {
    let Some(path) = file else { return Ok(()) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&temporary, child.pid.to_string())
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| {
            let _ = fs::remove_file(&temporary);
            format!("cannot write the pid file {}", path.display())
        })
}

pub(super) fn run(global: &Global, arguments: &Create) -> anyhow::Result<u8> {
    let mut making = make(global, arguments, false, true)?;
    let created = making.created.take().expect("it was just made");
    write_pid(arguments.pid_file.as_deref(), &created.init)?;
    created.leave()?;
    making.keep();
    Ok(0)
}
