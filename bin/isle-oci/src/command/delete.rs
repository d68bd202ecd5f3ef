//! `delete`: takes away what a container has on the host.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, bail};
use isle_cgroup::Cgroup;
use isle_runtime::HookState;
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::arguments::Delete;
use crate::container::{Container, Status};
use crate::state::{Directory, State};
use crate::{groups, log, rootless, vm};

/// Everything that is left of a container whose first process has ended. Does all it can and then
/// tells what failed.
pub(super) fn remove(
    directory: Directory,
    cgroup: Option<&Cgroup>,
    spec: Option<&Spec>,
    state: &State,
) -> anyhow::Result<()> {
    let removed = groups::remove(cgroup, state.scope.as_deref());
    if let (Ok(()), Some(spec), true) = (&removed, spec, vm::is_machine(&directory)) {
        vm::clean_up(spec);
    }
    let gone = match &removed {
        Ok(()) => directory.remove(),
        // the state stays, so that it can be tried again
        Err(_) => Ok(()),
    };
    if let Some(spec) = spec {
        poststop(spec, &state.id, &state.bundle);
    }
    removed.with_context(|| {
        format!(
            "cannot remove the control group of container {:?}",
            state.id
        )
    })?;
    gone
}

/// Hooks after the end. One that fails is told, and changes nothing (runtime.md, "Lifecycle", step 13).
pub(super) fn poststop(spec: &Spec, id: &str, bundle: &Path) {
    let hooks = spec
        .hooks()
        .as_ref()
        .and_then(|hooks| hooks.poststop().as_ref());
    let Some(hooks) = hooks else { return };
    let state = HookState::new(id, bundle, spec);
    for hook in hooks {
        if let Err(error) = isle_runtime::run_hook("poststop", hook, &state, "stopped", 0) {
            log::warning(&format!("{:#}", anyhow::Error::from(error)));
        }
    }
}

/// Kills the first process and waits for its end.
pub(super) fn end(process: &OwnedFd) -> anyhow::Result<()> {
    rustix::process::pidfd_send_signal(process, Signal::KILL).context("cannot kill it")?;
    let patience = rustix::time::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let mut events = [PollFd::new(process, PollFlags::IN)];
    match rustix::event::poll(&mut events, Some(&patience)) {
        Ok(0) => bail!("its first process does not end 10 s after SIGKILL"),
        other => other.map(drop).context("cannot wait for its end"),
    }
}

fn one(root: &Path, id: &str, force: bool) -> anyhow::Result<()> {
    let directory = match Directory::open(root, id) {
        Err(_) if force && !root.join(id).exists() => return Ok(()),
        other => other?,
    };
    let state = match directory.load() {
        // what was being made when its maker was killed
        Err(_) if force => return directory.remove(),
        other => other?,
    };
    let container = Container {
        process: state.process(),
        directory,
        state,
    };
    if let Some(process) = &container.process
        && force
        && rootless::is_refused(container.state.pid)
    {
        let process = process.try_clone()?;
        // it takes the lock itself
        drop(container);
        return match rootless::enter(&process)? {
            0 => Ok(()),
            _ => bail!("cannot delete container {id:?} from within its user namespace"),
        };
    }
    let cgroup = container.cgroup();
    match (container.status(), &container.process) {
        (Status::Stopped, _) | (_, None) => {}
        (status @ (Status::Running | Status::Paused), _) if !force => {
            bail!("cannot delete container {id:?}: it is {status}; kill it before, or give --force")
        }
        (status, Some(process)) => {
            if let (Status::Paused, Ok(Some(cgroup))) = (status, &cgroup) {
                let _ = cgroup.kill_all();
                let _ = cgroup.thaw();
            }
            end(process).with_context(|| format!("cannot delete container {id:?}"))?;
        }
    }
    let spec = container.directory.config().ok();
    let cgroup = match cgroup {
        Ok(cgroup) => cgroup,
        Err(_) if force => None,
        Err(error) => return Err(error),
    };
    remove(
        container.directory,
        cgroup.as_ref(),
        spec.as_ref(),
        &container.state,
    )
}

pub(super) fn run(root: &Path, arguments: &Delete) -> anyhow::Result<u8> {
    let mut code = 0;
    for id in &arguments.ids {
        if let Err(error) = one(root, id, arguments.force) {
            if arguments.ids.len() == 1 {
                return Err(error);
            }
            log::error(&error);
            code = 1;
        }
    }
    Ok(code)
}
