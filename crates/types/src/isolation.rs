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
    /// A kernel of its own, in a virtual machine.
    Vm,
}

/// What carries out the instructions of a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself, by the host's kernel: a security boundary.
    Kvm,
    /// An emulator (QEMU's TCG): for hosts without a usable KVM. It is there for compatibility and
    /// is no security boundary.
    Tcg,
}

impl Accelerator {
    /// As QEMU names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text names no level of isolation that this version has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// A level of the design that this version cannot run yet.
    #[error("isolation level {0:?} is not available in this version; available: container, vm")]
    NotYet(String),
    /// No level of that name.
    #[error("unknown isolation level {0:?}; available: container, vm")]
    Unknown(String),
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "container" => Ok(Isolation::Container),
            "vm" => Ok(Isolation::Vm),
            "sandbox" | "wasm" | "auto" => Err(IsolationError::NotYet(text.to_owned())),
            _ => Err(IsolationError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::Container => "container",
            Isolation::Vm => "vm",
        })
    }
}
