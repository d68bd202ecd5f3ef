//! Starts the supervisor of an instance.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use isle_sys::mount;
use isle_types::InstanceId;

use crate::control::{Control, ControlError};
use crate::protocol::{Request, Start, kind};
use crate::session::{Attachment, WindowSize};
use crate::{AttachRequest, Paths};

/// The program's name.
const PROGRAM: &str = "isle-shim";

/// Starts an instance: a supervisor for it, which starts the process. Returns when the process
/// has been executed, with a connection that misses no output when it attaches.
///
/// The supervisor is a child of the caller, who may end before it or not; one that lives long has
/// to collect it.
pub(crate) fn start(
    paths: &Paths,
    id: &InstanceId,
    attach: Option<AttachRequest>,
    window: Option<WindowSize>,
) -> Result<Option<Attachment>, ControlError> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut control = Control::over(ours, &paths.instance_run(id));
    // It waits in the socket until the supervisor is there.
    control.send(&Request::Start(Start { attach, window }))?;
    spawn(&[], paths, &id.to_string(), OwnedFd::from(theirs).into())?;
    control.answer(kind::STARTED)?;
    Ok(attach.map(|_| control.into_attachment(None)))
}

/// Has an instance taken over whose supervisor was killed (its row says that it runs, and its
/// lock is free). Returns when its row tells the truth again: it runs and has a supervisor, or it
/// has ended, or its restart policy starts it again.
///
/// Harmless when somebody else does the same at this moment.
pub(crate) fn adopt(paths: &Paths, id: &InstanceId) -> Result<(), ControlError> {
    let (ours, theirs) = UnixStream::pair()?;
    spawn(
        &["--adopt"],
        paths,
        &id.to_string(),
        OwnedFd::from(theirs).into(),
    )?;
    match Control::over(ours, &paths.instance_run(id)).answer(kind::DONE) {
        // It had nothing to do.
        Ok(_) | Err(ControlError::HungUp { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Has the pool of a template filled by a process that is nobody's child, and does not wait for it.
pub(crate) fn fill_pool(paths: &Paths, template: &str) -> Result<(), ControlError> {
    let mut first = spawn(&["--fill-pool"], paths, template, Stdio::null())?;
    // It starts another and ends.
    first.wait()?;
    Ok(())
}

/// The second of the two processes.
pub(crate) fn fill_pool_alone(paths: &Paths, template: &str) -> Result<(), ControlError> {
    spawn(&["--fill-pool-alone"], paths, template, Stdio::null()).map(drop)
}

fn spawn(
    options: &[&str],
    paths: &Paths,
    subject: &str,
    stdin: Stdio,
) -> Result<Child, ControlError> {
    let path = program().ok_or(ControlError::NoProgram)?;
    // Held until the program has been executed.
    // Where the host does not allow it, the supervisor has no right to write the program either.
    let protected = mount::read_only_clone(&path).ok();
    let executable = match &protected {
        Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        None => path.clone(),
    };
    let mut command = Command::new(executable);
    command
        // Else it would be called by the number of the descriptor.
        .arg0(PROGRAM)
        .args(options)
        .arg(&paths.root)
        .arg(&paths.run)
        .arg(subject)
        .env_clear()
        // Where it finds the programs that come with it.
        .env("ISLE_SHIM", &path)
        .envs(isle_rootless::house().map(|house| (isle_rootless::VARIABLE, house)))
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => Ok(child),
        Err(source) => Err(ControlError::CannotRun { path, source }),
    }
}

/// `$ISLE_SHIM`, else beside this program, else where packages put it.
fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ISLE_SHIM").filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let this = std::env::current_exe().ok()?;
    let beside = this.parent()?;
    let candidates = [
        beside.join(PROGRAM),
        // Tests lie one folder deeper.
        beside.join("..").join(PROGRAM),
        beside.join("../libexec/isle").join(PROGRAM),
        Path::new("/usr/libexec/isle").join(PROGRAM),
    ];
    candidates.into_iter().find(|path| path.is_file())
}
