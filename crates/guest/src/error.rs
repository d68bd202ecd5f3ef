//! What can go wrong between host and guest.

use std::io;
use std::time::Duration;

use isle_guest_protocol::{Failure, FailureKind};

/// Why a guest did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The virtual machine has ended, or its port was closed.
    #[error("the virtual machine has closed its channel")]
    Closed,
    /// The agent could not go on, and said why.
    #[error("the agent in the virtual machine has ended: {reason}")]
    Agent {
        /// Its last words.
        reason: String,
    },
    /// The guest broke the rules of the channel.
    #[error("the virtual machine broke the rules of its channel: {what}")]
    Protocol {
        /// Which.
        what: String,
    },
    /// Its agent is of another version.
    #[error(
        "the agent in the virtual machine speaks version {found} of the channel, and not {expected}"
    )]
    Version {
        /// What it speaks.
        found: u16,
        /// What this end speaks.
        expected: u16,
    },
    /// No answer.
    #[error("the virtual machine did not answer within {} s", after.as_secs())]
    NoAnswer {
        /// How long was waited.
        after: Duration,
    },
    /// The agent could not do it.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// What was asked for is nothing that a guest can be asked for.
    #[error("cannot run this configuration in a virtual machine")]
    Configuration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer that is too long to be kept.
    #[error("the virtual machine's answer is longer than {limit} bytes")]
    TooLong {
        /// The most that is kept.
        limit: usize,
    },
    /// No such task, or it was collected before.
    #[error("there is no task {0}, or it has not ended")]
    NoTask(u32),
    /// The host refused.
    #[error("cannot {operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::Io {
            operation,
            source: source.into(),
        }
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "it is what `map_err` is given"
    )]
    pub(crate) fn protocol(what: impl ToString) -> Error {
        Error::Protocol {
            what: what.to_string(),
        }
    }

    /// Whether the connection can still be used.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Error::Closed | Error::Agent { .. } | Error::Protocol { .. } | Error::Version { .. }
        )
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Version { .. } => {
                Some("the instance was started by another version of Isle: restart it")
            }
            Error::NoAnswer { .. } => {
                Some("the host may be overloaded, or the guest hangs: `isle kill` ends it")
            }
            _ => None,
        }
    }

    /// The same once more, for the next caller who meets a connection that has ended.
    pub(crate) fn again(&self) -> Error {
        match self {
            Error::Agent { reason } => Error::Agent {
                reason: reason.clone(),
            },
            Error::Protocol { what } => Error::Protocol { what: what.clone() },
            Error::Version { found, expected } => Error::Version {
                found: *found,
                expected: *expected,
            },
            _ => Error::Closed,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::NoAnswer { .. } => io::ErrorKind::TimedOut,
            Error::Closed | Error::Agent { .. } => io::ErrorKind::BrokenPipe,
            Error::Protocol { .. } | Error::Version { .. } => io::ErrorKind::InvalidData,
            Error::Refused(failure) => match failure.kind {
                FailureKind::NoSuchPath => io::ErrorKind::NotFound,
                FailureKind::NotADirectory => io::ErrorKind::NotADirectory,
                FailureKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
                _ => io::ErrorKind::Other,
            },
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Why a process could not be started, with the exit code that Docker gives for it.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the process in the virtual machine")]
pub struct StartError {
    /// Why.
    #[source]
    pub error: Error,
    /// 127: the program was not found, 126: it cannot be executed, 125: all else.
    pub exit_code: u8,
}

impl From<Error> for StartError {
    fn from(error: Error) -> StartError {
        let exit_code = match &error {
            Error::Refused(failure) => match failure.kind {
                FailureKind::ProgramNotFound => 127,
                FailureKind::ProgramNotExecutable => 126,
                _ => 125,
            },
            _ => 125,
        };
        StartError { error, exit_code }
    }
}
