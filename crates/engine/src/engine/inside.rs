//! Files and processes of instances that the host cannot look into: whoever runs inside is asked. Of an instance that
//! does not run, the level brings up as much as is needed for that, and nothing of the image is executed.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::lifecycle::refused;
use super::{Engine, EngineError};
use crate::InstanceLock;
use crate::backend::inside::{Answer, Carry, Question};
use crate::backend::{self, Backend, Ended, Process};
use crate::control::ControlError;
use crate::protocol::Cause;
use crate::state::{ExitReason, Instance, Status};

/// How long a verb waits for another one that works on the same files.
const PATIENCE: Duration = Duration::from_secs(30);

/// An instance that does not run, with its files in reach.
struct AtRest {
    backend: Box<dyn Backend>,
    /// Nobody starts or removes it meanwhile.
    _lock: InstanceLock,
}

impl Drop for AtRest {
    fn drop(&mut self) {
        // What is left the next start takes away.
        let _ = self.backend.clean_up();
    }
}

impl Engine {
    /// Asks inside, when the host cannot see it by itself; `None` when it can.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) fn ask_inside(
        &self,
        instance: &Instance,
        path: &str,
        question: &Question,
    ) -> Result<Option<Answer>, EngineError> {
        if backend::host_sees_files(instance) {
            return Ok(None);
        }
        if is_running(instance) {
            let asked = self
                .connect("look into", instance)?
                .ask_inside(question)
                .map_err(|error| not_inside(instance, path, error))?;
            return Ok(Some(asked));
        }
        let mut at_rest = self.at_rest(instance)?;
        let inside = at_rest.backend.inside();
        let mut inside = inside.expect("a level that hides its files can be asked for them");
        let answer = inside.ask(question);
        answer
            .map(Some)
            .map_err(|error| path_error(instance, path, error))
    }

    /// Writes an archive of something inside.
    ///
    /// # Errors
    /// When it cannot be read, or the writer fails.
    pub(super) fn carry_out(
        &self,
        instance: &Instance,
        path: &str,
        what: &Carry,
        writer: &mut dyn Write,
    ) -> Result<(), EngineError> {
        let written = |error| EngineError::io("write an archive of", path)(error);
        if is_running(instance) {
            let control = self.connect("look into", instance)?;
            let mut session = control
                .carry(what)
                .map_err(|error| not_inside(instance, path, error))?;
            let stdout = session.stdout.take();
            let copied = match stdout {
                Some(stdout) => io::copy(&mut std::fs::File::from(stdout), writer),
                None => Err(io::ErrorKind::InvalidData.into()),
            };
            let exit = session.wait();
            copied.map_err(written)?;
            return exit.map_err(written).and_then(|exit| match exit.reason {
                ExitReason::Crashed { message } => Err(written(io::Error::other(message))),
                _ => Ok(()),
            });
        }
        let mut at_rest = self.at_rest(instance)?;
        let (ours, theirs) = pipe().map_err(written)?;
        let process = at_rest.carry(what, theirs);
        let process = process.map_err(|error| path_error(instance, path, error))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| written(errno.into()))?;
        let mut ours = std::fs::File::from(ours);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let has_ended = at_rest
                .wait(&process, &ours, PollFlags::IN)
                .map_err(written)?;
            loop {
                match ours.read(&mut buffer) {
                    Ok(0) => return at_rest.finish(&process).map_err(written),
                    Ok(count) => writer.write_all(&buffer[..count]).map_err(written)?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(written(error)),
                }
            }
            if has_ended {
                return at_rest.finish(&process).map_err(written);
            }
        }
    }

    /// Unpacks an archive inside.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn carry_in(
        &self,
        instance: &Instance,
        path: &str,
        what: &Carry,
        reader: &mut dyn Read,
    ) -> Result<(), EngineError> {
        let failed = |error: io::Error| EngineError::Archive {
            name: instance.name.clone(),
            path: path.to_owned(),
            reason: error.to_string(),
        };
        if is_running(instance) {
            let control = self.connect("write into", instance)?;
            let mut session = control
                .carry(what)
                .map_err(|error| not_inside(instance, path, error))?;
            let stdin = session.stdin.take();
            let copied = match stdin {
                Some(stdin) => io::copy(reader, &mut std::fs::File::from(stdin)),
                None => Err(io::ErrorKind::InvalidData.into()),
            };
            // What the other end says is the cause of a broken pipe.
            return match session.wait().map_err(failed)?.reason {
                ExitReason::Crashed { message } => Err(failed(io::Error::other(message))),
                _ => copied.map(drop).map_err(failed),
            };
        }
        let mut at_rest = self.at_rest(instance)?;
        let (theirs, ours) = pipe().map_err(failed)?;
        let process = at_rest.carry(what, theirs);
        let process = process.map_err(|error| path_error(instance, path, error))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| failed(errno.into()))?;
        let mut ours = Some(std::fs::File::from(ours));
        let mut buffer = vec![0; 64 << 10];
        let (mut from, mut until) = (0, 0);
        while let Some(pipe) = &mut ours {
            if from == until {
                (from, until) = (0, reader.read(&mut buffer).map_err(failed)?);
                if until == 0 {
                    ours = None;
                    continue;
                }
            }
            match pipe.write(&buffer[from..until]) {
                Ok(count) => from += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    at_rest
                        .wait(&process, pipe, PollFlags::OUT)
                        .map_err(failed)?;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ours = None,
                Err(error) => return Err(failed(error)),
            }
        }
        while !at_rest.wait_for_end(&process).map_err(failed)? {}
        at_rest.finish(&process).map_err(failed)
    }

    fn at_rest(&self, instance: &Instance) -> Result<AtRest, EngineError> {
        let lock = InstanceLock::acquire(&self.paths, &instance.id, PATIENCE)
            .map_err(EngineError::io("lock", instance.name.as_str()))?;
        let lock = lock.ok_or_else(|| EngineError::Supervisor {
            operation: "look into",
            name: instance.name.clone(),
            reason: "it is just being started or removed".to_owned(),
        })?;
        let layers = self.store().layers(&instance.id)?;
        let backend = backend::open_at_rest(instance, &self.paths, &layers).map_err(|error| {
            EngineError::Supervisor {
                operation: "look into",
                name: instance.name.clone(),
                reason: error.message,
            }
        })?;
        Ok(AtRest {
            backend,
            _lock: lock,
        })
    }
}

impl AtRest {
    fn carry(&mut self, what: &Carry, stream: OwnedFd) -> io::Result<Process> {
        let inside = self.backend.inside();
        let mut inside = inside.expect("a level that hides its files can be asked for them");
        inside.carry(what, stream)
    }

    /// Waits until a stream is ready or the process has ended; whether it has.
    fn wait(
        &mut self,
        process: &Process,
        stream: impl AsFd,
        for_what: PollFlags,
    ) -> io::Result<bool> {
        self.poll(
            process,
            Some(PollFd::from_borrowed_fd(stream.as_fd(), for_what)),
        )
    }

    fn wait_for_end(&mut self, process: &Process) -> io::Result<bool> {
        self.poll(process, None)
    }

    fn poll(&mut self, process: &Process, stream: Option<PollFd<'_>>) -> io::Result<bool> {
        let watch = self.backend.watch().map(|fd| fd.try_clone_to_owned());
        let watch = watch.transpose()?;
        let mut fds = vec![PollFd::new(&process.ended, PollFlags::IN)];
        fds.extend(watch.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(stream);
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            result => {
                result?;
            }
        }
        let has_ended = !fds[0].revents().is_empty();
        self.backend.tend();
        Ok(has_ended)
    }

    fn finish(&mut self, process: &Process) -> io::Result<()> {
        while !self.wait_for_end(process)? {}
        match self.backend.reap(process)? {
            Ended::Crashed(message) => Err(io::Error::other(message)),
            _ => Ok(()),
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

fn is_running(instance: &Instance) -> bool {
    matches!(instance.state.status, Status::Running | Status::Paused)
}

fn not_inside(instance: &Instance, path: &str, error: ControlError) -> EngineError {
    match error.cause() {
        Some(Cause::NoSuchPath) => path_error(instance, path, io::ErrorKind::NotFound.into()),
        Some(Cause::NotADirectory) => {
            path_error(instance, path, io::ErrorKind::NotADirectory.into())
        }
        _ => refused("look into", instance, error),
    }
}

fn path_error(instance: &Instance, path: &str, error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::NotFound => EngineError::NoSuchPath {
            name: instance.name.clone(),
            path: path.to_owned(),
        },
        io::ErrorKind::NotADirectory => EngineError::UnusablePath {
            name: instance.name.clone(),
            path: path.to_owned(),
            reason: "it is not a directory",
        },
        _ => EngineError::io("use", path)(error),
    }
}
