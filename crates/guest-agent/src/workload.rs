//! The instance's own process, and further ones.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use isle_guest_protocol::{Exec, Failure, Start, Stdio, Stream, UserRequest, WORKLOAD, decode};
use isle_runtime::users::{self, User};
use isle_runtime::{Child, ExecPlan, Plan, Rootfs};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::agent::token;
use crate::failure::{chain, failed, launch, not_running};
use crate::streams::{Input, Output};
use crate::task::Task;
use crate::{Agent, control_group, prepare};

/// The instance's first process.
pub(crate) struct Workload {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Our ends of the streams of a process to be.
#[derive(Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

fn null(flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(CWD, "/dev/null", flags | OFlags::CLOEXEC, Mode::empty())
}

fn streams(stdio: Stdio) -> rustix::io::Result<(isle_runtime::Stdio, Ends)> {
    let mut ends = Ends::default();
    let (has_stdin, has_stdout, has_stderr) = match stdio {
        Stdio::Terminal { size } => {
            let size = size.map(|size| (size.rows, size.columns));
            return Ok((isle_runtime::Stdio::Terminal { size }, ends));
        }
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => (stdin, stdout, stderr),
    };
    let stdin = match has_stdin {
        true => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            ends.stdin = Some(writer);
            reader
        }
        false => null(OFlags::RDONLY)?,
    };
    let output = |is_wanted: bool, end: &mut Option<OwnedFd>| match is_wanted {
        true => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            *end = Some(reader);
            Ok(writer)
        }
        false => null(OFlags::WRONLY),
    };
    let stdout = output(has_stdout, &mut ends.stdout)?;
    let stderr = output(has_stderr, &mut ends.stderr)?;
    let streams = isle_runtime::Stdio::Streams {
        stdin,
        stdout,
        stderr,
    };
    Ok((streams, ends))
}

/// Reads a plan, if it is of the form that this agent knows: in another one the same bytes may mean something else.
fn plan<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    match bytes.split_first_chunk() {
        Some((format, plan)) if u64::from_le_bytes(*format) == isle_runtime::PLAN_FORMAT => {
            decode(plan).map_err(failed("cannot read the plan"))
        }
        _ => Err(failed("cannot read the plan")(
            "this virtual machine was started by another version of Isle: restart the instance",
        )),
    }
}

fn user(root: impl AsFd, asked: Option<&UserRequest>) -> Result<Option<User>, Failure> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    users::resolve(root.as_fd(), &asked.user, &asked.groups)
        .map(Some)
        .map_err(|error| failed("cannot find the user")(chain(&error)))
}

impl Agent {
    pub(crate) fn start(&mut self, start: &Start) -> Result<i32, Failure> {
        if self.workload.is_some() || self.tasks.contains_key(&WORKLOAD) {
            return Err(not_running("the instance was started before"));
        }
        let mut plan: Plan = plan(&start.plan)?;
        let root = match start.root_share {
            Some(number) => prepare::share(&self.place, number)?,
            None => self.files.root()?,
        };
        if let Some(user) = user(&root, start.user.as_ref())? {
            plan.run_as(&user);
        }
        let cgroup = self.place.cgroup.as_ref();
        control_group::set(cgroup, &start.limits, false)?;
        let (stdio, ends) = streams(start.stdio).map_err(failed("cannot make the streams"))?;
        let child = plan
            .create_with(Rootfs::Detached(root), cgroup, stdio, None)
            .and_then(isle_runtime::Created::start)
            .map_err(|error| launch(&error))?;
        let pidfd = child
            .pidfd
            .try_clone()
            .map_err(failed("cannot hold the process"))?;
        self.workload = Some(Workload {
            pid: child.pid,
            pidfd,
        });
        self.run_task(WORKLOAD, child, ends)
    }

    pub(crate) fn exec(&mut self, exec: &Exec) -> Result<i32, Failure> {
        let workload = self.workload.as_ref();
        let workload = workload.ok_or_else(|| not_running("the instance does not run"))?;
        let mut plan: ExecPlan = plan(&exec.plan)?;
        if exec.user.is_some() {
            let root = self.inside()?;
            if let Some(user) = user(&root, exec.user.as_ref())? {
                plan.run_as(&user);
            }
        }
        let (stdio, ends) = streams(exec.stdio).map_err(failed("cannot make the streams"))?;
        let child = plan
            .launch(workload.pidfd.as_fd(), self.place.cgroup.as_ref(), stdio)
            .map_err(|error| launch(&error))?;
        self.run_task(exec.task, child, ends)
    }

    /// The root as the instance's processes see it; that of the files when none runs.
    pub(crate) fn inside(&self) -> Result<OwnedFd, Failure> {
        self.check_prepared()?;
        let Some(workload) = &self.workload else {
            return self.files.root();
        };
        // Nobody else collects it: the pid is its own even when it has ended.
        let path = format!("/proc/{}/root", workload.pid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, Path::new(&path), flags, Mode::empty())
            .map_err(failed("cannot look into the instance"))
    }

    fn run_task(&mut self, id: u32, child: Child, ends: Ends) -> Result<i32, Failure> {
        let pid = child.pid;
        let mut task = Task::new(pid);
        let connect = || -> std::io::Result<()> {
            let ends = match child.terminal {
                Some(master) => {
                    task.has_terminal = true;
                    Ends {
                        stdin: Some(master.try_clone()?),
                        stdout: Some(master),
                        stderr: None,
                    }
                }
                None => ends,
            };
            if let Some(end) = ends.stdin {
                task.stdin = Some(Input::new(end, token(id, Stream::Stdin))?);
            }
            if let Some(end) = ends.stdout {
                task.stdout = Some(Output::new(end, token(id, Stream::Stdout))?);
            }
            if let Some(end) = ends.stderr {
                task.stderr = Some(Output::new(end, token(id, Stream::Stderr))?);
            }
            Ok(())
        };
        let connected = connect();
        for output in [&mut task.stdout, &mut task.stderr].into_iter().flatten() {
            output.fill(&self.epoll, &mut self.buffer);
        }
        self.tasks.insert(id, task);
        connected.map_err(failed("cannot hold the streams"))?;
        Ok(pid)
    }
}
