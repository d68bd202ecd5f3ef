//! What the store says, made true again after a supervisor or the host has died.
//!
//! Whoever reads a row that says that somebody owns the instance looks whether its lock is held:
//! one open and one flock a row. If it is free, a new supervisor takes the instance over, or writes
//! how it ended. After a restart of the host nothing can be alive: then all rows are put right at
//! once, and what was to run always is started.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use isle_types::InstanceId;
use jiff::Timestamp;

use crate::config::RestartPolicy;
use crate::state::{Exit, ExitReason, Instance, Status};
use crate::store::NewEvent;
use crate::{Engine, EngineError, InstanceLock, backend, launch, volume};

/// How long a new supervisor may take until it owns the instance.
const TAKE_OVER: Duration = Duration::from_secs(5);

impl Engine {
    /// The row of an instance, put right if nobody looks after it any more.
    pub(crate) fn current(&self, id: &InstanceId) -> Result<Instance, EngineError> {
        let instance = self.get(id)?;
        match self.put_right(instance)? {
            Some(instance) => Ok(instance),
            None => Err(EngineError::gone(id)),
        }
    }

    /// Puts one row right; `None` when it was to go away.
    pub(crate) fn put_right(&self, instance: Instance) -> Result<Option<Instance>, EngineError> {
        let status = instance.state.status;
        if matches!(status, Status::Created | Status::Exited) || self.is_owned(&instance.id)? {
            return Ok(Some(instance));
        }
        // The owner may just have ended: then the row says so now.
        let Some(instance) = self.store().get(&instance.id)? else {
            return Ok(None);
        };
        match instance.state.status {
            Status::Created | Status::Exited => Ok(Some(instance)),
            Status::Removing => self.complete_removal(&instance),
            Status::Running | Status::Paused | Status::Restarting => self.take_over(&instance),
        }
    }

    fn is_owned(&self, id: &InstanceId) -> Result<bool, EngineError> {
        InstanceLock::is_held(&self.paths, id).map_err(EngineError::io(
            "look at the lock in",
            self.paths.instance_run(id),
        ))
    }

    fn complete_removal(&self, instance: &Instance) -> Result<Option<Instance>, EngineError> {
        let lock = InstanceLock::try_acquire(&self.paths, &instance.id).map_err(
            EngineError::io("lock", self.paths.instance_run(&instance.id)),
        )?;
        match lock {
            // Somebody else is at it.
            None => Ok(self.store().get(&instance.id)?),
            Some(lock) => {
                self.remove_owned(instance, lock, false)?;
                Ok(None)
            }
        }
    }

    fn take_over(&self, instance: &Instance) -> Result<Option<Instance>, EngineError> {
        if launch::adopt(&self.paths, &instance.id).is_err() {
            // Without the program there is nobody to take it over; the truth can still be told.
            return self.write_lost(instance, &ExitReason::SupervisorLost);
        }
        let deadline = Instant::now() + TAKE_OVER;
        loop {
            let Some(now) = self.store().get(&instance.id)? else {
                return Ok(None);
            };
            if !now.state.status.is_supervised() || self.is_owned(&now.id)? {
                return Ok(Some(now));
            }
            if Instant::now() >= deadline {
                return self.write_lost(&now, &ExitReason::SupervisorLost);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes that a run has ended while nobody watched, and takes away what it left.
    fn write_lost(
        &self,
        instance: &Instance,
        reason: &ExitReason,
    ) -> Result<Option<Instance>, EngineError> {
        let id = &instance.id;
        let lock = InstanceLock::try_acquire(&self.paths, id)
            .map_err(EngineError::io("lock", self.paths.instance_run(id)))?;
        let Some(lock) = lock else {
            return Ok(self.store().get(id)?);
        };
        backend::clean_up(instance, &self.paths)
            .map_err(EngineError::io("clean up after", self.paths.instance(id)))?;
        self.unwire(&id.to_string(), false)?;
        let mut lost = instance.clone();
        lost.state.status = Status::Exited;
        lost.state.pid = None;
        lost.state.networks = Vec::new();
        lost.state.ports = Vec::new();
        lost.state.finished_at = Some(Timestamp::now());
        lost.state.exit = Some(Exit {
            code: 255,
            reason: reason.clone(),
        });
        let event = NewEvent::of_instance(instance, "die").with("exitCode", 255);
        let mut events = volume::events_of_use(instance, "die");
        events.insert(0, event);
        self.store().set_state(id, &lost.state, &events)?;
        if lost.config.auto_remove {
            self.remove_owned(&lost, lock, true)?;
            return Ok(None);
        }
        Ok(Some(lost))
    }

    /// After a restart of the host: all rows are put right, and what is to run always is started.
    /// One small file and one row are read to find out that there is nothing to do.
    pub(crate) fn reconcile_boot(&self) -> Result<(), EngineError> {
        let path = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(path).map_err(EngineError::io("read", path))?;
        let boot = boot.trim();
        let known = self.store().boot_id()?;
        if known.as_deref() == Some(boot) {
            return Ok(());
        }
        // First the note, lest two do it.
        self.store().set_boot_id(boot)?;
        if known.is_none() {
            return Ok(());
        }
        let mut again = Vec::new();
        for instance in self.store().alive()? {
            if instance.state.status == Status::Removing {
                self.complete_removal(&instance)?;
                continue;
            }
            let starts = match instance.config.restart {
                RestartPolicy::Always => true,
                RestartPolicy::UnlessStopped => !instance.state.is_stopped_by_user,
                RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
            };
            let lost = self.write_lost(&instance, &ExitReason::HostRebooted)?;
            if starts && let Some(lost) = lost {
                again.push(lost.id);
            }
        }
        self.collect_leftovers()?;
        volume::reconcile(self.images().database(), &self.paths)?;
        for id in again {
            // One that cannot be started says so in its own row, and hinders no other.
            let _ = self.start(&id, None, None);
        }
        Ok(())
    }

    /// Takes away folders whose instance is no more: left by one that was killed at the wrong
    /// moment. Returns how many.
    ///
    /// # Errors
    /// When the folders cannot be read.
    pub fn collect_leftovers(&self) -> Result<usize, EngineError> {
        let mut count = 0;
        for folder in [
            self.paths.root.join("instances"),
            self.paths.run.join("instances"),
        ] {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(EngineError::io("read", &folder))?,
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(id) = name
                    .to_str()
                    .and_then(|name| name.parse::<InstanceId>().ok())
                else {
                    continue;
                };
                if self.store().get(&id)?.is_some() || self.is_owned(&id)? {
                    continue;
                }
                if fs::remove_dir_all(entry.path()).is_ok() {
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}
