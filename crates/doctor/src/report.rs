//! What an examination found, as data: for people and, by serde, for programs.

use serde::{Deserialize, Serialize};

/// Version of the report's shape in JSON. Grows when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`FORMAT`]
    pub format: u32,
    /// The host in a few words.
    pub host: Host,
    /// One entry for each thing looked at, in the order of [`Section`].
    pub checks: Vec<Check>,
    /// Which levels of isolation this host can give.
    pub levels: Vec<Level>,
}

/// The host in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// `uname -r`
    pub kernel: String,
    /// `uname -m`
    pub architecture: String,
    /// `PRETTY_NAME` of os-release(5).
    pub operating_system: String,
    /// Processors that are online.
    pub processors: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Where it belongs.
    pub section: Section,
    /// What it is: `openat2(2)`, `memory controller`, …
    pub name: String,
    /// How it stands.
    pub state: State,
    /// What was seen: a version, a path, an error.
    pub found: String,
    /// What it is good for, or what cannot be done without it.
    pub meaning: String,
    /// The levels and features that need it.
    pub needed_by: Vec<String>,
    /// What to do, where something is to do: a package, a setting.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
}

/// A part of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Section {
    /// System calls and file systems of the kernel.
    Kernel,
    /// Control groups.
    Cgroups,
    /// What the user who asks may do.
    Privileges,
    /// The file system under the state root.
    Storage,
    /// Interfaces and packet filters.
    Network,
    /// KVM.
    Virtualization,
    /// Programs that Isle drives.
    Programs,
}

/// How a thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// There, and it works.
    Ok,
    /// Not there.
    Missing,
    /// There, but it does not work.
    Unusable,
    /// Not there, and nothing on this host would use it.
    NotNeeded,
}

/// A level of isolation on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Level {
    /// `container`, `sandbox`, `vm`, `wasm`.
    pub isolation: String,
    /// Can an instance be run at it, by this host and this version of Isle?
    pub is_available: bool,
    /// Has the host all that the level needs, whether or not this version can run it?
    pub is_host_ready: bool,
    /// Why not; or with what reservations (`software emulation: no security boundary`).
    pub notes: Vec<String>,
}

impl Section {
    /// For people: `Control groups`.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Section::Kernel => "Kernel",
            Section::Cgroups => "Control groups",
            Section::Privileges => "Privileges",
            Section::Storage => "Storage",
            Section::Network => "Network",
            Section::Virtualization => "Virtualization",
            Section::Programs => "Programs",
        }
    }
}

impl State {
    /// For people: `not needed`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Missing => "missing",
            State::Unusable => "unusable",
            State::NotNeeded => "not needed",
        }
    }
}

impl Report {
    /// The checks of one section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(move |check| check.section == section)
    }
}
