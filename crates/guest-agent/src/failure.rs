//! Failures on their way to the host.

use std::error::Error;
use std::fmt;
use std::io;

use isle_guest_protocol::{Failure, FailureKind};
use isle_runtime::LaunchError;

/// The whole chain of an error, outermost first.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// `map_err` for anything that is not special.
pub(crate) fn failed<E: fmt::Display>(what: &str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(FailureKind::Failed, format!("{what}: {error}"))
}

/// Why a process could not be executed.
pub(crate) fn launch(error: &LaunchError) -> Failure {
    let kind = match error.exit_code() {
        127 => FailureKind::ProgramNotFound,
        126 => FailureKind::ProgramNotExecutable,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, chain(error))
}

/// Why a path cannot be used.
pub(crate) fn path(path: &[u8], error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NoSuchPath,
        io::ErrorKind::NotADirectory => FailureKind::NotADirectory,
        io::ErrorKind::ReadOnlyFilesystem => FailureKind::ReadOnly,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, format!("{}: {error}", path.escape_ascii()))
}

/// Nothing to act upon.
pub(crate) fn not_running(what: &str) -> Failure {
    Failure::new(FailureKind::NotRunning, what.to_owned())
}
