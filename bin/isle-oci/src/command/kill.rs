//! `kill`: a signal to the first process, or to all.

use std::path::Path;

use anyhow::{Context, bail};
use isle_types::Signal;

use crate::arguments::Kill;
use crate::container::{Container, Status};
use crate::rootless;
use crate::vm;

pub(super) fn run(root: &Path, arguments: &Kill) -> anyhow::Result<u8> {
    let signal: Signal = arguments.signal.parse()?;
    let Some(number) = rustix::process::Signal::from_named_raw(signal.number()) else {
        bail!("cannot send {signal}: only signals that signal(7) names can be sent");
    };
    let container = Container::open(root, &arguments.id)?;
    if let Some(process) = &container.process
        && rootless::is_refused(container.state.pid)
    {
        let process = process.try_clone()?;
        // it takes the lock itself
        drop(container);
        return rootless::enter(&process);
    }
    let id = &arguments.id;
    // One that waits to be started, or stands still, cannot pass it on.
    if vm::is_machine(&container.directory) && container.status() == Status::Running {
        return vm::kill(&container.directory, signal.number(), arguments.all)
            .with_context(|| format!("cannot send {signal} to container {id:?}"))
            .map(|()| 0);
    }
    if arguments.all {
        let Some(cgroup) = container.cgroup()? else {
            bail!("container {id:?} has no control group that names its processes");
        };
        if signal == Signal::KILL {
            cgroup
                .kill_all()
                .with_context(|| format!("cannot kill the processes of container {id:?}"))?;
            return Ok(0);
        }
        for pid in cgroup.processes()? {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                match rustix::process::kill_process(pid, number) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(errno) => {
                        return Err(errno)
                            .with_context(|| format!("cannot signal process {pid:?}"));
                    }
                }
            }
        }
        return Ok(0);
    }
    let Some(process) = &container.process else {
        bail!("cannot signal container {id:?}: container not running");
    };
    rustix::process::pidfd_send_signal(process, number)
        .with_context(|| format!("cannot send {signal} to container {id:?}"))?;
    // A created or paused container must die of SIGKILL at once.
    if signal == Signal::KILL
        && let Ok(Some(cgroup)) = container.cgroup()
        && cgroup.is_frozen().unwrap_or(false)
    {
        let _ = cgroup.thaw();
    }
    Ok(0)
}
