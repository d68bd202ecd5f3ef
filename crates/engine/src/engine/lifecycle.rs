//! Verbs that ask the supervisor of an instance, or start one.

use std::time::Duration;

use isle_types::{InstanceId, Signal};

use super::{AttachRequest, Engine, EngineError, ExecRequest, Stats, UpdateRequest, WaitCondition};
use crate::backend::chain;
use crate::config::LogDriver;
use crate::control::{Control, ControlError};
use crate::protocol::Cause;
use crate::session::{Attachment, ExecSession, WindowSize};
use crate::state::{Exit, ExitReason, Instance, Status};
use crate::store::NewEvent;
use crate::validate::{self, Host};
use crate::{InstanceLock, Preparation, backend, launch, log};

/// From look to look, where there is nobody to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a verb waits for another one that works on the same instance.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// An instance that was asked to stop, see [`Engine::begin_stop`].
#[derive(Debug)]
pub struct Stopping {
    id: InstanceId,
    /// `None`: there was nothing to ask.
    asked: Option<Result<Control, ControlError>>,
}

impl Engine {
    /// Starts an instance; with `attach`, connected before its first instruction, so that no
    /// output is missed. Returns when its process has been executed. One that runs stays as it is.
    ///
    /// # Errors
    /// When it could not be started; nothing is left running.
    pub fn start(
        &self,
        id: &InstanceId,
        attach: Option<AttachRequest>,
        window: Option<WindowSize>,
    ) -> Result<Option<Attachment>, EngineError> {
        self.start_with(id, attach, window, &mut |_| {})
    }

    /// The same for who can show what is made before the first start, when that takes long.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_with(
        &self,
        id: &InstanceId,
        attach: Option<AttachRequest>,
        window: Option<WindowSize>,
        progress: &mut (dyn FnMut(Preparation) + Send),
    ) -> Result<Option<Attachment>, EngineError> {
        let fresh = self.fresh.take().filter(|fresh| fresh.id == *id);
        let is_fresh = fresh.is_some();
        let instance = match fresh {
            Some(instance) => instance,
            None => self.current(id)?,
        };
        if !is_fresh {
            match instance.state.status {
                Status::Running => return self.attach_to_running(&instance, attach),
                Status::Paused | Status::Removing => return Err(wrong_status("start", &instance)),
                Status::Created | Status::Exited | Status::Restarting => {}
            }
            self.refresh_layers(&instance)?;
        }
        backend::make_ready(&instance, &self.paths, &self.images, progress).map_err(|error| {
            EngineError::CouldNotStart {
                message: error.message,
                exit_code: error.exit_code,
            }
        })?;
        match launch::start(&self.paths, id, attach, window) {
            Ok(attachment) => Ok(attachment),
            Err(error) => {
                if matches!(error, ControlError::HungUp { .. }) {
                    self.end_what_nobody_knows(id);
                }
                let instance = self.get(id);
                match (error.cause(), instance) {
                    // Somebody else was faster.
                    (Some(Cause::AlreadyRunning), Ok(instance))
                        if instance.state.status == Status::Running =>
                    {
                        self.attach_to_running(&instance, attach)
                    }
                    (_, Ok(instance)) => Err(refused("start", &instance, error)),
                    // `--rm` has taken it away already.
                    (_, Err(EngineError::NoSuchInstance { .. })) => Err(could_not_start(error)),
                    (_, Err(other)) => Err(other),
                }
            }
        }
    }

    /// A supervisor that was killed between the start of the process and the row that tells of it
    /// leaves processes that no row knows. The start has failed, so they must not run.
    fn end_what_nobody_knows(&self, id: &InstanceId) {
        // Whoever holds the lock meanwhile cleans up by itself, as the next start does if this
        // fails.
        let Ok(Some(_lock)) = InstanceLock::try_acquire(&self.paths, id) else {
            return;
        };
        if let Ok(instance) = self.get(id)
            && !instance.state.status.is_supervised()
        {
            let _ = backend::clean_up(&instance, &self.paths);
            let _ = self.unwire(&id.to_string(), false);
        }
    }

    fn attach_to_running(
        &self,
        instance: &Instance,
        attach: Option<AttachRequest>,
    ) -> Result<Option<Attachment>, EngineError> {
        match attach {
            None => Ok(None),
            Some(request) => self.attach(&instance.id, request).map(Some),
        }
    }

    /// After a restart of the host the image store may have had to unpack a layer again.
    fn refresh_layers(&self, instance: &Instance) -> Result<(), EngineError> {
        let image = self.images.find(&instance.image_id)?;
        let layers = self.layers_of(&image)?;
        if layers != self.store().layers(&instance.id)? {
            self.store().set_layers(&instance.id, &layers)?;
        }
        Ok(())
    }

    /// Connects to a running instance.
    ///
    /// # Errors
    /// When it does not run.
    pub fn attach(
        &self,
        id: &InstanceId,
        request: AttachRequest,
    ) -> Result<Attachment, EngineError> {
        let instance = self.current(id)?;
        let path = match instance.config.log.driver {
            LogDriver::JsonFile => Some(log::path(&self.paths, id)),
            LogDriver::None => None,
        };
        self.connect("attach to", &instance)?
            .attach(request, path)
            .map_err(|error| refused("attach to", &instance, error))
    }

    /// Runs a further process in a running instance.
    ///
    /// # Errors
    /// When it does not run, or the process could not be started (exit code 126 or 127).
    pub fn exec(
        &self,
        id: &InstanceId,
        request: &ExecRequest,
        window: Option<WindowSize>,
    ) -> Result<ExecSession, EngineError> {
        let instance = self.current(id)?;
        if request.args.first().is_none_or(String::is_empty) {
            return Err(EngineError::CouldNotStart {
                message: "no command to run was given".to_owned(),
                exit_code: 126,
            });
        }
        self.connect("exec in", &instance)?
            .exec(request, window)
            .map_err(|error| refused("exec in", &instance, error))
    }

    /// Sends the stop signal, waits, then kills. Harmless when it does not run.
    ///
    /// # Errors
    /// When the supervisor cannot be reached.
    pub fn stop(
        &self,
        id: &InstanceId,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<(), EngineError> {
        self.finish_stop(self.begin_stop(id, signal, timeout)?)
    }

    /// The first half of [`Engine::stop`]: asks and does not wait, so that many instances stop at
    /// the same time.
    ///
    /// # Errors
    /// When the instance is not there.
    pub fn begin_stop(
        &self,
        id: &InstanceId,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<Stopping, EngineError> {
        let instance = self.current(id)?;
        let asked = match instance.state.status.is_supervised() {
            false => None,
            true => Some(
                Control::connect(&self.paths, id)
                    .and_then(|control| control.begin_stop(signal, timeout)),
            ),
        };
        Ok(Stopping { id: *id, asked })
    }

    /// The second half of [`Engine::stop`]: waits until it has stopped.
    ///
    /// # Errors
    /// When the supervisor could not be reached.
    pub fn finish_stop(&self, stopping: Stopping) -> Result<(), EngineError> {
        let Some(asked) = stopping.asked else {
            return Ok(());
        };
        match asked.and_then(|mut control| control.finish_stop()) {
            Ok(()) => Ok(()),
            Err(error) => match self.store().get(&stopping.id)? {
                // It ended meanwhile, and may have been removed with `--rm`.
                None => Ok(()),
                Some(now) if !now.state.status.is_supervised() => Ok(()),
                Some(now) => Err(refused("stop", &now, error)),
            },
        }
    }

    /// `stop`, then `start`.
    ///
    /// # Errors
    /// As these.
    pub fn restart(
        &self,
        id: &InstanceId,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        if instance.state.status.is_supervised() {
            let asked =
                Control::connect(&self.paths, id).and_then(|mut c| c.restart(signal, timeout));
            match asked {
                Ok(()) => return Ok(()),
                Err(ControlError::NoSupervisor | ControlError::HungUp { .. }) => {}
                Err(error) => return Err(refused("restart", &instance, error)),
            }
        }
        self.start(id, None, None).map(drop)
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, id: &InstanceId, signal: Signal) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        self.connect("kill", &instance)?
            .signal(signal)
            .map_err(|error| refused("kill", &instance, error))
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// When it does not run, or is paused already.
    pub fn pause(&self, id: &InstanceId) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        self.connect("pause", &instance)?
            .pause()
            .map_err(|error| refused("pause", &instance, error))
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it is not paused.
    pub fn resume(&self, id: &InstanceId) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        self.connect("unpause", &instance)?
            .resume()
            .map_err(|error| refused("unpause", &instance, error))
    }

    /// Waits for the condition and returns how the run ended.
    ///
    /// # Errors
    /// When the instance is not there.
    pub fn wait(&self, id: &InstanceId, condition: WaitCondition) -> Result<Exit, EngineError> {
        let mut instance = self.current(id)?;
        let first_start = instance.state.started_at;
        loop {
            let last = instance.state.exit.clone().unwrap_or(Exit {
                code: 0,
                reason: ExitReason::Exited,
            });
            if instance.state.status.is_supervised() {
                match Control::connect(&self.paths, id).and_then(|mut c| c.wait(condition)) {
                    Ok(exit) => return Ok(exit),
                    // It is just ending or beginning; the row will tell.
                    Err(ControlError::NoSupervisor | ControlError::HungUp { .. }) => {}
                    Err(error) => return Err(refused("wait for", &instance, error)),
                }
            } else {
                match condition {
                    WaitCondition::NotRunning => return Ok(last),
                    // It ran and ended between two looks.
                    WaitCondition::NextExit if instance.state.started_at != first_start => {
                        return Ok(last);
                    }
                    WaitCondition::NextExit | WaitCondition::Removed => {}
                }
            }
            std::thread::sleep(LOOK_AGAIN);
            instance = match self.current(id) {
                Err(EngineError::NoSuchInstance { .. }) => return Ok(last),
                instance => instance?,
            };
        }
    }

    /// Changes limits and restart policy, of a running instance at once.
    ///
    /// # Errors
    /// When the kernel refuses a value; nothing is changed then.
    pub fn update(&self, id: &InstanceId, request: &UpdateRequest) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        let mut config = instance.config.clone();
        config.resources.merge(&request.resources);
        if let Some(restart) = request.restart {
            config.restart = restart;
        }
        let host = Host::probe(config.isolation)
            .map_err(EngineError::io("read", "/sys/devices/system/cpu"))?;
        validate::validate(&config, &host)?;
        if instance.state.status.is_supervised() {
            return self
                .connect("update", &instance)?
                .update(request)
                .map_err(|error| refused("update", &instance, error));
        }
        let lock = InstanceLock::acquire(&self.paths, id, PATIENCE)
            .map_err(EngineError::io("lock", self.paths.instance_run(id)))?;
        if lock.is_none() {
            return Err(EngineError::Supervisor {
                operation: "update",
                name: instance.name,
                reason: "it is just being started or removed".to_owned(),
            });
        }
        let event = NewEvent::of_instance(&instance, "update");
        Ok(self.store().set_config(id, &config, &[event])?)
    }

    /// One reading.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stats(&self, id: &InstanceId) -> Result<Stats, EngineError> {
        let instance = self.current(id)?;
        self.connect("read the use of", &instance)?
            .stats()
            .map_err(|error| refused("read the use of", &instance, error))
    }

    /// The supervisor of an instance that must run.
    pub(crate) fn connect(
        &self,
        operation: &'static str,
        instance: &Instance,
    ) -> Result<Control, EngineError> {
        if !instance.state.status.is_supervised() {
            return Err(wrong_status(operation, instance));
        }
        Control::connect(&self.paths, &instance.id)
            .map_err(|error| refused(operation, instance, error))
    }
}

pub(crate) fn wrong_status(operation: &'static str, instance: &Instance) -> EngineError {
    EngineError::WrongStatus {
        operation,
        name: instance.name.clone(),
        status: instance.state.status,
    }
}

fn could_not_start(error: ControlError) -> EngineError {
    match error {
        ControlError::Refused(failed) => EngineError::CouldNotStart {
            message: failed.message,
            exit_code: failed.exit_code,
        },
        ControlError::NoProgram => EngineError::NoSupervisorProgram,
        error => EngineError::CouldNotStart {
            message: format!("cannot start the instance: {}", chain(&error)),
            exit_code: 125,
        },
    }
}

/// What a front door hears of a supervisor that did not do what it was asked.
pub(crate) fn refused(
    operation: &'static str,
    instance: &Instance,
    error: ControlError,
) -> EngineError {
    let with_status = |status| EngineError::WrongStatus {
        operation,
        name: instance.name.clone(),
        status,
    };
    match error.cause() {
        Some(Cause::NotRunning) => {
            return with_status(match instance.state.status {
                Status::Running | Status::Paused => Status::Exited,
                status => status,
            });
        }
        Some(Cause::Paused) => return with_status(Status::Paused),
        Some(Cause::NotPaused) => return with_status(Status::Running),
        Some(Cause::AlreadyRunning) => return with_status(Status::Running),
        Some(Cause::Failed | Cause::Unsupported | Cause::NoSuchPath | Cause::NotADirectory)
        | None => {}
    }
    match error {
        ControlError::NoSupervisor => with_status(Status::Exited),
        error if matches!(operation, "start" | "exec in") => could_not_start(error),
        ControlError::NoProgram => EngineError::NoSupervisorProgram,
        error => EngineError::Supervisor {
            operation,
            name: instance.name.clone(),
            reason: chain(&error),
        },
    }
}
