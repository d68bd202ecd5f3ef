//! Taking instances away.

use std::time::Duration;

use isle_types::{InstanceId, Signal};

use super::lifecycle::{Stopping, wrong_status};
use super::{Engine, EngineError};
use crate::config::MountSource;
use crate::state::{Instance, Status, StatusEvent};
use crate::store::{NewEvent, StoreError};
use crate::{InstanceLock, backend, volume};

/// How long a removal waits for a supervisor that is cleaning up.
const PATIENCE: Duration = Duration::from_secs(30);

/// An instance that is to be taken away, see [`Engine::begin_removal`].
#[derive(Debug)]
pub struct Removal {
    id: InstanceId,
    stopping: Stopping,
}

impl Engine {
    /// Takes an instance away; `force` kills it first; `volumes` takes its anonymous volumes too.
    ///
    /// # Errors
    /// When it runs and `force` is not given.
    pub fn remove(&self, id: &InstanceId, force: bool, volumes: bool) -> Result<(), EngineError> {
        self.finish_removal(self.begin_removal(id, force)?, volumes)
    }

    /// The first half of [`Engine::remove`]: kills it, if that is to be, and does not wait, so that
    /// many instances end at the same time.
    ///
    /// # Errors
    /// When it runs and `force` is not given.
    pub fn begin_removal(&self, id: &InstanceId, force: bool) -> Result<Removal, EngineError> {
        let instance = self.current(id)?;
        if instance.state.status.is_supervised() && !force {
            return Err(wrong_status("remove", &instance));
        }
        let stopping = self.begin_stop(id, Some(Signal::KILL), Some(Duration::ZERO))?;
        Ok(Removal { id: *id, stopping })
    }

    /// The second half of [`Engine::remove`]: waits for its end, and takes it away.
    ///
    /// # Errors
    /// When it could not be killed, or something of it cannot be removed.
    pub fn finish_removal(&self, removal: Removal, volumes: bool) -> Result<(), EngineError> {
        let id = &removal.id;
        self.finish_stop(removal.stopping)?;
        let lock = InstanceLock::acquire(&self.paths, id, PATIENCE)
            .map_err(EngineError::io("lock", self.paths.instance_run(id)))?;
        let Some(lock) = lock else {
            return match self.store().get(id)? {
                None => Ok(()),
                Some(now) => Err(wrong_status("remove", &now)),
            };
        };
        match self.store().get(id)? {
            // Its supervisor has removed it, as `--rm` wanted.
            None => {
                let _ = lock.remove();
                Ok(())
            }
            Some(now) => self.remove_owned(&now, lock, volumes),
        }
    }

    /// Takes away an instance that we own: first the files, at last the row, so that what is left
    /// after a crash is found and finished.
    pub(crate) fn remove_owned(
        &self,
        instance: &Instance,
        lock: InstanceLock,
        volumes: bool,
    ) -> Result<(), EngineError> {
        let id = &instance.id;
        let mut state = instance.state.clone();
        state.status = match state.status.next(StatusEvent::Remove) {
            Ok(status) => status,
            Err(_) => return Err(wrong_status("remove", instance)),
        };
        if instance.state.status != Status::Removing {
            self.store().set_state(id, &state, &[])?;
        }
        let directory = self.paths.instance(id);
        backend::clean_up(instance, &self.paths)
            .map_err(EngineError::io("clean up after", &directory))?;
        self.unwire(&id.to_string(), true)?;
        backend::remove_storage(instance, &self.paths)
            .map_err(EngineError::io("remove", &directory))?;
        if volumes || instance.config.auto_remove {
            for name in volume_names(instance) {
                volume::remove_anonymous(self.images.database(), &self.paths, name, id)?;
            }
        }
        match self
            .store()
            .remove(id, &[NewEvent::of_instance(instance, "destroy")])
        {
            Err(StoreError::Gone(_)) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        lock.remove()
            .map_err(EngineError::io("remove", self.paths.instance_run(id)))
    }
}

/// The volumes that an instance mounts.
pub(crate) fn volume_names(instance: &Instance) -> impl Iterator<Item = &str> {
    let mounts = instance.config.mounts.iter();
    mounts.filter_map(|mount| match &mount.source {
        MountSource::Volume(volume) => volume.name.as_deref(),
        MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
    })
}
