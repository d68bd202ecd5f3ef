//! What a long operation tells while it works.

/// Receives events of `install` and `build`.
pub trait Progress {
    /// Something has moved on.
    fn event(&self, event: &Event<'_>);
}

/// One step of progress.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something new is being done: `unpacking the source`.
    Step(&'a str),
    /// The compiler has finished so many files of this step.
    Compiled {
        /// Files behind us.
        files: u64,
        /// About how many there are.
        about: u64,
    },
    /// A line for people that stays.
    Message(&'a str),
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
