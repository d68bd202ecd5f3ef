//! `start`: lets the program of a created container be executed.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, bail};
use isle_runtime::{HookState, Options, Plan};
use oci_spec::runtime::Spec;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::container::{Container, Status};
use crate::state::State;
use crate::vm;

/// Hooks after the start. When one fails the container is stopped, and the start has failed (runtime.md,
/// "Lifecycle", step 9).
pub(super) fn poststart(spec: &Spec, state: &State, process: &OwnedFd) -> anyhow::Result<()> {
    let hooks = spec
        .hooks()
        .as_ref()
        .and_then(|hooks| hooks.poststart().as_ref());
    let Some(hooks) = hooks else { return Ok(()) };
    let hook_state = HookState::new(&state.id, &state.bundle, spec);
    for hook in hooks {
        let run = isle_runtime::run_hook("poststart", hook, &hook_state, "running", state.pid);
        if let Err(error) = run {
            super::delete::end(process)?;
            return Err(error.into());
        }
    }
    Ok(())
}

pub(super) fn run(root: &Path, id: &str) -> anyhow::Result<u8> {
    let container = Container::open(root, id)?;
    match container.status() {
        Status::Created => {}
        Status::Stopped => bail!("cannot start container {id:?}: it has stopped"),
        status => bail!("cannot start container {id:?}: it is {status} already"),
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .context("cannot make a socket")?;
    let address = SocketAddrUnix::new(container.directory.socket())?;
    rustix::net::connect(&socket, &address)
        .with_context(|| format!("cannot reach the first process of container {id:?}"))?;
    if vm::is_machine(&container.directory) {
        vm::start(&container.directory, container.process.as_ref())?;
    }
    let spec = container.directory.config();
    let result = isle_runtime::start(&socket, || {
        let options = Options {
            id: id.to_owned(),
            bundle: container.state.bundle.clone(),
            ..Options::default()
        };
        Plan::new(spec.as_ref().ok()?, options).ok()
    });
    container.directory.remove_socket();
    result?;
    if let Some(process) = &container.process {
        poststart(&spec?, &container.state, process)?;
    }
    Ok(0)
}
