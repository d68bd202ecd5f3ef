//! The isolation levels that tests run at.

/// One isolation level, as `--isolation` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The host's kernel, namespaces, control groups.
    Container,
}

impl Level {
    /// Every level there is.
    pub const ALL: [Level; 1] = [Level::Container];

    /// The word on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::Container => "container",
        }
    }
}
