//! Hooks of the runtime specification that run in the runtime's own namespaces.
//!
//! See [config.md, "POSIX-platform Hooks"](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks).

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::LaunchError;
use crate::plan::{HookState, hook_timeout_ms};

/// Runs one hook to its end.
///
/// # Errors
/// When it cannot be run, fails, or takes longer than its timeout.
pub fn run(
    name: &'static str,
    hook: &Hook,
    state: &HookState,
    status: &str,
    pid: i32,
) -> Result<(), LaunchError> {
    run_hook(hook, state, status, pid).map_err(|source| LaunchError::Hook {
        name,
        path: hook.path().display().to_string(),
        source,
    })
}

fn run_hook(hook: &Hook, state: &HookState, status: &str, pid: i32) -> io::Result<()> {
    let timeout = hook_timeout_ms(hook)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?
        .map(|ms| Duration::from_millis(ms.unsigned_abs().into()));
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(first).args(rest);
    }
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(key, value);
    }
    let mut child = command
        .current_dir(&state.bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()?;
    let (before, after) = state.around_pid(status);
    let input = format!("{before}{pid}{after}");
    let process = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))
        .ok_or_else(|| io::Error::other("the hook has no process id"))?;
    let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
    let pipe = child.stdin.take();
    let result = feed_until_exit(&pidfd, pipe, input.as_bytes(), timeout);
    if result.is_err() {
        let _ = child.kill();
    }
    let ended = child.wait()?;
    result?;
    if ended.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("it ended with {ended}")))
    }
}

/// Writes the state into a hook that may not read it, until the hook ends.
fn feed_until_exit(
    pidfd: &OwnedFd,
    mut pipe: Option<std::process::ChildStdin>,
    mut input: &[u8],
    timeout: Option<Duration>,
) -> io::Result<()> {
    if let Some(pipe) = &pipe {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        if input.is_empty() {
            pipe = None;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left
            .map(rustix::time::Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        let mut events = vec![PollFd::new(pidfd, PollFlags::IN)];
        if let Some(pipe) = &pipe {
            events.push(PollFd::new(pipe, PollFlags::OUT));
        }
        match rustix::event::poll(&mut events, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it took longer than its timeout",
                ));
            }
            other => other?,
        };
        let (has_ended, is_writable) = (
            !events[0].revents().is_empty(),
            events
                .get(1)
                .is_some_and(|event| !event.revents().is_empty()),
        );
        if has_ended {
            return Ok(());
        }
        if is_writable && let Some(to) = &mut pipe {
            match to.write(input) {
                Ok(count) => input = &input[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // it does not want to read, which is its right
                Err(_) => input = &[],
            }
        }
    }
}

/// Sends the listener of a seccomp policy to the agent that the specification names, with the state
/// of the process, see config-linux.md, "The Container Process State".
pub(crate) fn send_listener(
    path: &Path,
    metadata: &str,
    listener: &OwnedFd,
    state: &HookState,
    pid: i32,
) -> io::Result<()> {
    let (before, after) = state.around_pid("creating");
    let string = |text: &str| serde_json::Value::from(text).to_string();
    let message = format!(
        "{{\"ociVersion\":{},\"fds\":[\"seccompFd\"],\"pid\":{pid},\"metadata\":{},\"state\":{before}{pid}{after}}}",
        string(&state.version),
        string(metadata),
    );
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    send_descriptor(&socket, message.as_bytes(), listener)
}

/// Sends bytes and one descriptor over a Unix socket, see unix(7), `SCM_RIGHTS`.
///
/// # Errors
/// When the other side does not take them.
pub fn send_descriptor(socket: &OwnedFd, bytes: &[u8], fd: &OwnedFd) -> io::Result<()> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::WriteZero,
            "the socket took a part only",
        ))
    }
}
