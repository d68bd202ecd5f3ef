//! The wall around an instance.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How an instance is kept apart from the host and from its neighbours.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Shares the host's kernel; kept apart by namespaces, cgroups, capabilities and seccomp.
    #[default]
    Container,
}

/// Why a text names no level of isolation that this version has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// A level of the design that this version cannot run yet.
    #[error("isolation level {0:?} is not available in this version; available: container")]
    NotYet(String),
    /// No level of that name.
    #[error("unknown isolation level {0:?}; available: container")]
    Unknown(String),
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "container" => Ok(Isolation::Container),
            "sandbox" | "vm" | "wasm" | "auto" => Err(IsolationError::NotYet(text.to_owned())),
            _ => Err(IsolationError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::Container => "container",
        })
    }
}
