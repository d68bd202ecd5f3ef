//! Logs, and what happened.

use std::os::fd::OwnedFd;

use isle_types::InstanceId;

use super::{Engine, EngineError, Event, LogEntry, LogRequest};
use crate::config::LogDriver;
use crate::control::Control;
use crate::log::{self, Reader};
use crate::store::NewEvent;

impl Engine {
    /// The log, oldest first; with `follow` the iterator blocks for more.
    ///
    /// # Errors
    /// When the log driver keeps nothing.
    pub fn logs(
        &self,
        id: &InstanceId,
        request: &LogRequest,
    ) -> Result<Box<dyn Iterator<Item = Result<LogEntry, EngineError>>>, EngineError> {
        let instance = self.current(id)?;
        if instance.config.log.driver == LogDriver::None {
            return Err(EngineError::NoLog {
                name: instance.name,
            });
        }
        let path = log::path(&self.paths, id);
        let ended: Option<OwnedFd> = match request.follow && instance.state.status.is_supervised() {
            // Without a supervisor nothing more will come.
            true => Control::connect(&self.paths, id)
                .ok()
                .map(Control::into_watch),
            false => None,
        };
        let fail = {
            let path = path.clone();
            move |error| EngineError::io("read the log", &path)(error)
        };
        let reader = Reader::open(path, request, ended).map_err(&fail)?;
        Ok(Box::new(reader.map(move |entry| entry.map_err(&fail))))
    }

    /// What happened after `sequence`, oldest first; does not block.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn events(&self, after_sequence: u64) -> Result<Vec<Event>, EngineError> {
        Ok(self.store().events(after_sequence)?)
    }

    /// Notes that something happened to an image (`pull`, `tag`, `delete`, …).
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn record_image_event(
        &self,
        action: &str,
        id: &str,
        name: &str,
    ) -> Result<(), EngineError> {
        let event = NewEvent {
            kind: "image",
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: [("name".to_owned(), name.to_owned())].into(),
        };
        Ok(self.store().record_event(&event)?)
    }
}
