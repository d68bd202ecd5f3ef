//! Verbs that are not written yet.

use std::io::{Read, Write};
use std::time::Duration;

use isle_types::{InstanceId, Signal};

use super::*;
use crate::session::{Attachment, ExecSession, WindowSize};
use crate::state::Exit;

impl Engine {
    /// Starts an instance; with `attach`, connected before its first instruction, so that no
    /// output is missed. Returns when its process has been executed.
    ///
    /// # Errors
    /// When it could not be started; nothing is left running.
    pub fn start(
        &self,
        _id: &InstanceId,
        _attach: Option<AttachRequest>,
        _window: Option<WindowSize>,
    ) -> Result<Option<Attachment>, EngineError> {
        todo!()
    }

    /// Connects to a running instance.
    ///
    /// # Errors
    /// When it does not run.
    pub fn attach(
        &self,
        _id: &InstanceId,
        _request: AttachRequest,
    ) -> Result<Attachment, EngineError> {
        todo!()
    }

    /// Runs a further process in a running instance.
    ///
    /// # Errors
    /// When it does not run, or the process could not be started (exit code 126 or 127).
    pub fn exec(
        &self,
        _id: &InstanceId,
        _request: &ExecRequest,
        _window: Option<WindowSize>,
    ) -> Result<ExecSession, EngineError> {
        todo!()
    }

    /// Sends the stop signal, waits, then kills. Harmless when it does not run.
    ///
    /// # Errors
    /// When the supervisor cannot be reached.
    pub fn stop(
        &self,
        _id: &InstanceId,
        _signal: Option<Signal>,
        _timeout: Option<Duration>,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// `stop`, then `start`.
    ///
    /// # Errors
    /// As these.
    pub fn restart(
        &self,
        _id: &InstanceId,
        _signal: Option<Signal>,
        _timeout: Option<Duration>,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, _id: &InstanceId, _signal: Signal) -> Result<(), EngineError> {
        todo!()
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// When it does not run, or is paused already.
    pub fn pause(&self, _id: &InstanceId) -> Result<(), EngineError> {
        todo!()
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it is not paused.
    pub fn resume(&self, _id: &InstanceId) -> Result<(), EngineError> {
        todo!()
    }

    /// Waits for the condition and returns how the run ended.
    ///
    /// # Errors
    /// When the instance is not there.
    pub fn wait(&self, _id: &InstanceId, _condition: WaitCondition) -> Result<Exit, EngineError> {
        todo!()
    }

    /// Takes an instance away; `force` kills it first; `volumes` takes its anonymous volumes too.
    ///
    /// # Errors
    /// When it runs and `force` is not given.
    pub fn remove(
        &self,
        _id: &InstanceId,
        _force: bool,
        _volumes: bool,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// Changes limits and restart policy, of a running instance at once.
    ///
    /// # Errors
    /// When the kernel refuses a value; nothing is changed then.
    pub fn update(&self, _id: &InstanceId, _request: &UpdateRequest) -> Result<(), EngineError> {
        todo!()
    }

    /// The log, oldest first; with `follow` the iterator blocks for more.
    ///
    /// # Errors
    /// When the log driver keeps nothing.
    pub fn logs(
        &self,
        _id: &InstanceId,
        _request: &LogRequest,
    ) -> Result<Box<dyn Iterator<Item = Result<LogEntry, EngineError>>>, EngineError> {
        todo!()
    }

    /// One reading.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stats(&self, _id: &InstanceId) -> Result<Stats, EngineError> {
        todo!()
    }

    /// Its processes, as ps(1) with the given options shows them (default `-ef`).
    ///
    /// # Errors
    /// When it does not run, or ps(1) refuses the options.
    pub fn top(
        &self,
        _id: &InstanceId,
        _ps_options: &[String],
    ) -> Result<ProcessTable, EngineError> {
        todo!()
    }

    /// Makes an image of its root file system; returns the image's id.
    ///
    /// # Errors
    /// When the layer cannot be read or stored.
    pub fn commit(
        &self,
        _id: &InstanceId,
        _request: &CommitRequest,
    ) -> Result<String, EngineError> {
        todo!()
    }

    /// What happened after `sequence`, oldest first; does not block.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn events(&self, _after_sequence: u64) -> Result<Vec<Event>, EngineError> {
        todo!()
    }

    /// Notes that something happened to an image (`pull`, `tag`, `delete`, …).
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn record_image_event(
        &self,
        _action: &str,
        _id: &str,
        _name: &str,
    ) -> Result<(), EngineError> {
        todo!()
    }
}
