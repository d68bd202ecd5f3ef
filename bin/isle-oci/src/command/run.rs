//! `run`: create, start, wait, delete, in one process.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use isle_runtime::Child;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{WaitId, WaitIdOptions};

use super::{create, delete, start};
use crate::arguments::{Global, Run};
use crate::{console, vm};

/// Waits for the end of our child; its exit code, or 128 and the signal.
pub(super) fn wait(child: &Child) -> anyhow::Result<u8> {
    let pidfd: &OwnedFd = &child.pidfd;
    loop {
        let mut events = [PollFd::new(pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context("cannot wait for the process")?,
        };
        let status = rustix::process::waitid(
            WaitId::PidFd(pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )
        .context("cannot wait for the process")?;
        let Some(status) = status else { continue };
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        };
        return Ok(u8::try_from(code & 0xff).unwrap_or(255));
    }
}

pub(super) fn run(global: &Global, arguments: &Run) -> anyhow::Result<u8> {
    if let Some(code) = create::in_user_namespace(&arguments.create)? {
        return Ok(code);
    }
    let has_socket = arguments.create.console_socket.is_some();
    let mut making = create::make(
        global,
        &arguments.create,
        !arguments.detach && !has_socket,
        false,
    )?;
    let created = making.created.take().expect("it was just made");
    create::write_pid(arguments.create.pid_file.as_deref(), &created.init)?;
    if let Some(directory) = making.directory.as_ref().filter(|one| vm::is_machine(one)) {
        vm::start(directory, Some(&created.init.pidfd))?;
    }
    let child = created.start()?;
    // a hook that fails takes the container with it
    start::poststart(&making.spec, &making.state, &child.pidfd)?;
    let (directory, cgroup, spec, state) = making.keep();
    if arguments.detach {
        return Ok(0);
    }
    // others may want to change it meanwhile
    rustix::fs::flock(directory.fd(), rustix::fs::FlockOperation::Unlock)?;
    if let (Some(master), false) = (&child.terminal, has_socket) {
        console::relay(&child, master).context("cannot relay the terminal")?;
    }
    let code = wait(&child)?;
    if !arguments.keep {
        // Another process may have deleted it: then there is nothing left to do.
        if rustix::fs::flock(directory.fd(), rustix::fs::FlockOperation::LockExclusive).is_ok()
            && rustix::fs::fstat(directory.fd()).is_ok_and(|stat| stat.st_nlink > 0)
        {
            delete::remove(directory, cgroup.as_ref(), Some(&spec), &state)?;
        }
    }
    Ok(code)
}
