//! `start`: lets the program of a created container be executed.

use std::path::Path;

use anyhow::{Context, bail};
use isle_runtime::{HookState, Options, Plan};
use oci_spec::runtime::Spec;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::container::{Container, Status};
use crate::state::State;
use crate::vm;

/// Hooks after the start. One that fails is told, and changes nothing (runtime.md, "Lifecycle").
pub(super) fn poststart(spec: &Spec, state: &State) {
    let hooks = spec
        .hooks()
        .as_ref()
        .and_then(|hooks| hooks.poststart().as_ref());
    let hook_state = HookState::new(&state.id, &state.bundle, spec);
    for hook in hooks.into_iter().flatten() {
        if let Err(error) =
            isle_runtime::run_hook("poststart", hook, &hook_state, "running", state.pid)
        {
            eprintln!("isle-oci: {:#}", anyhow::Error::from(error));
        }
    }
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
    poststart(&spec?, &container.state);
    Ok(0)
}
