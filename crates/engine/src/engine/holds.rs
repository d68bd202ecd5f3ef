//! Instances that stand still while something is copied.

use super::lifecycle::refused;
use super::{Engine, EngineError};
use crate::control::Control;
use crate::protocol::Cause;
use crate::state::{Instance, Status};

/// A running instance that stands still, at the latest until this process ends.
#[derive(Debug)]
pub(super) struct Held {
    control: Control,
    instance: Instance,
}

impl Engine {
    /// Freezes a running instance; `None` for one that does not run, or that somebody else has paused.
    ///
    /// # Errors
    /// When it cannot be frozen.
    pub(super) fn hold(&self, instance: &Instance) -> Result<Option<Held>, EngineError> {
        if !matches!(instance.state.status, Status::Running | Status::Paused) {
            return Ok(None);
        }
        let mut control = self.connect("pause", instance)?;
        match control.hold() {
            Ok(()) => Ok(Some(Held {
                control,
                instance: instance.clone(),
            })),
            Err(error) if matches!(error.cause(), Some(Cause::Paused | Cause::NotRunning)) => {
                Ok(None)
            }
            Err(error) => Err(refused("pause", instance, error)),
        }
    }
}

impl Held {
    /// Lets it go on, and waits until it does.
    ///
    /// # Errors
    /// When it cannot be thawed.
    pub(super) fn release(mut self) -> Result<(), EngineError> {
        match self.control.resume() {
            Err(error) if error.cause() != Some(Cause::NotRunning) => {
                Err(refused("unpause", &self.instance, error))
            }
            _ => Ok(()),
        }
    }
}
