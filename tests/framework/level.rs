//! The isolation levels that tests run at.

/// One isolation level, as `--isolation` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The host's kernel, namespaces, control groups.
    Container,
    /// A kernel of its own.
    Vm,
}

impl Level {
    /// Every level there is.
    pub const ALL: [Level; 2] = [Level::Container, Level::Vm];

    /// The word on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::Container => "container",
            Level::Vm => "vm",
        }
    }
}
