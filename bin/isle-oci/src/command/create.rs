//! `create`: everything up to the program of the container.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isle_cgroup::Cgroup;
use isle_runtime::{Child, Created, Options, Plan, Rootfs, Stdio};
use oci_spec::runtime::Spec;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::delete;
use crate::arguments::{Create, Global};
use crate::state::{Directory, State};
use crate::vm::Asked;
use crate::{bundle, console, groups, log, rootless};

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
        self.remove_traces();
    }
}

impl Making {
    fn remove_traces(&mut self) {
        // the process ends when its channel closes
        drop(self.created.take());
        let Some(directory) = self.directory.take() else {
            return;
        };
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill_all();
            let _ = groups::remove(Some(cgroup), self.state.scope.as_deref());
        }
        let _ = directory.remove();
    }

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

/// The specification of the bundle: its path, its text, itself.
pub(super) fn load(arguments: &Create) -> anyhow::Result<(PathBuf, Vec<u8>, Spec)> {
    let bundle = fs::canonicalize(&arguments.bundle)
        .with_context(|| format!("cannot find the bundle {}", arguments.bundle.display()))?;
    let path = bundle.join(&arguments.config);
    let mut text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let spec = bundle::parse(&mut text, &path, "a runtime specification")?;
    Ok((bundle, text, spec))
}

/// Makes the container; it waits.
pub(super) fn make(
    global: &Global,
    arguments: &Create,
    is_foreground: bool,
    with_socket: bool,
) -> anyhow::Result<Making> {
    let preserve_fds = preserved(arguments.preserve_fds)?;
    crate::state::check_id(&arguments.id)?;
    let (bundle_path, text, mut spec) = load(arguments)?;
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
    let mut machine = Asked::of(global, &spec, &bundle_path, preserve_fds)?;
    let rest = rootless::rest_of(&spec);
    // a machine has all capabilities of its own
    if let (None, Some(mut process)) = (&machine, spec.process().clone()) {
        bundle::leave_out_ungrantable(&spec, &mut process)?;
        spec.set_process(Some(process));
    }
    let plan = Plan::new(
        machine
            .as_ref()
            .map_or(rest.as_ref().unwrap_or(&spec), Asked::stand_in),
        Options {
            id: arguments.id.clone(),
            bundle: bundle_path.clone(),
            keep_keyring: arguments.no_new_keyring,
            no_pivot: arguments.no_pivot,
            preserve_fds,
            seccomp: None,
            is_for_guest: false,
            confinement: rootless::confinement(),
        },
    )?;
    log::debug(|| plan.to_string());
    let rootfs = spec
        .root()
        .as_ref()
        .map(|root| bundle_path.join(root.path()))
        .unwrap_or_default();
    let directory = Directory::create(&global.root, &arguments.id)?;
    let state = State::new(&arguments.id, 0, bundle_path, rootfs.clone());
    let mut making = Making {
        directory: Some(directory),
        cgroup: None,
        spec,
        state,
        created: None,
    };
    let mut holder = None;
    let limits = machine.as_ref().map(Asked::host_limits);
    if let Some(group) = groups::make(global, &making.spec, &arguments.id, limits)? {
        making.state.cgroup = Some(group.path);
        making.state.scope = group.scope;
        making.cgroup = Some(group.cgroup);
        holder = group.holder;
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
    let made = plan.create_with(
        Rootfs::Directory(rootfs),
        making.cgroup.as_ref(),
        stdio,
        listener,
    );
    let mut created = match made {
        Ok(created) => created,
        Err(error) => {
            // runtime.md, "Lifecycle": a hook that fails ends the container, and so does what comes after a hook
            making.remove_traces();
            delete::poststop(&making.spec, &making.state.id, &making.state.bundle);
            return Err(error.into());
        }
    };
    drop(holder);
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

/// For a user without privileges: all of it in a user namespace; the exit code.
pub(super) fn in_user_namespace(arguments: &Create) -> anyhow::Result<Option<u8>> {
    match rustix::process::geteuid().is_root() {
        true => Ok(None),
        false => rootless::make(&load(arguments)?.2),
    }
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
    if let Some(code) = in_user_namespace(arguments)? {
        return Ok(code);
    }
    let mut making = make(global, arguments, false, true)?;
    let created = making.created.take().expect("it was just made");
    write_pid(arguments.pid_file.as_deref(), &created.init)?;
    created.leave()?;
    making.keep();
    Ok(0)
}
