//! What a build tells while it works.

use std::time::Duration;

use crate::language::Place;

/// Is told what happens, by several threads.
pub trait Progress: Sync {
    /// Something has happened.
    fn event(&self, event: &Event<'_>);
}

/// What has happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'e> {
    /// A step begins. Steps are numbered from 1 in the order in which they begin.
    Started {
        /// Its number.
        step: usize,
        /// What it is, like `[build 2/4] RUN make`.
        name: &'e str,
    },
    /// A step's program has written something.
    Output {
        /// Its number.
        step: usize,
        /// To standard error.
        is_stderr: bool,
        /// What.
        bytes: &'e [u8],
    },
    /// A step has something to say.
    Status {
        /// Its number.
        step: usize,
        /// What.
        text: &'e str,
    },
    /// A step has ended.
    Ended {
        /// Its number.
        step: usize,
        /// How.
        end: End<'e>,
    },
    /// Something is odd about the Dockerfile.
    Warning {
        /// BuildKit's name of the rule.
        rule: &'static str,
        /// What is odd.
        text: &'e str,
        /// Where.
        place: Place,
    },
}

/// How a step has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'e> {
    /// Done, after so long.
    Done(Duration),
    /// It had been done before.
    Cached,
    /// It failed.
    Failed(&'e str),
    /// The build was stopped.
    Cancelled,
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
