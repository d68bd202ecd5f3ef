//! What takes time in the guest.

use std::collections::BTreeMap;

use isle_guest_protocol::{Ended, TaskState};

use crate::streams::{Input, Output};

/// A task, until the host has forgotten it.
pub(crate) struct Task {
    /// Its process; 0 once that has ended.
    pub(crate) pid: i32,
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    pub(crate) has_terminal: bool,
    /// A helper: its standard error is the reason of its failure, and goes nowhere else.
    pub(crate) complaint: Option<std::fs::File>,
    /// Output is sent to this host end.
    pub(crate) is_attached: bool,
    /// How it has ended, once it has.
    pub(crate) ended: Option<Ended>,
    pub(crate) is_end_told: bool,
    /// The host has killed it.
    pub(crate) was_killed: bool,
    /// The instance's processes stand still until it has ended.
    pub(crate) freezes: bool,
}

impl Task {
    pub(crate) fn new(pid: i32) -> Task {
        Task {
            pid,
            stdin: None,
            stdout: None,
            stderr: None,
            has_terminal: false,
            complaint: None,
            is_attached: true,
            ended: None,
            is_end_told: false,
            was_killed: false,
            freezes: false,
        }
    }

    pub(crate) fn state(&self, task: u32) -> TaskState {
        let output = |output: &Option<Output>| output.as_ref().map_or(0, |o| o.outgoing.acked());
        TaskState {
            task,
            stdin: self
                .stdin
                .as_ref()
                .map_or(0, |input| input.incoming.received()),
            stdout: output(&self.stdout),
            stderr: output(&self.stderr),
            has_terminal: self.has_terminal,
        }
    }

    /// Whether the host may be told that it has ended.
    pub(crate) fn is_end_due(&self) -> bool {
        let is_drained = |output: &Option<Output>| output.as_ref().is_none_or(Output::is_drained);
        self.is_attached
            && !self.is_end_told
            && self.ended.is_some()
            && is_drained(&self.stdout)
            && is_drained(&self.stderr)
    }
}

pub(crate) type Tasks = BTreeMap<u32, Task>;
