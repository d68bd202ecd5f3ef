//! Which keys there are, what their values look like, and how two files' values become one.
//!
//! The [Compose specification](https://github.com/compose-spec/compose-spec) as a table of [`Shape`]s. [`read`] checks a tree against
//! it, writes every short form out as its long form, and complains about each key that is not in it.

mod read;
mod service;
mod short;
mod top;

pub use read::Warning;
pub(crate) use read::{Reader, read};
pub(crate) use read::{clean, unique};
pub use service::SERVICE;
pub use top::PROJECT;

use crate::yaml::Node;

/// What a value looks like.
#[derive(Clone, Copy)]
pub enum Shape {
    /// Anything: extensions.
    Any,
    /// A text.
    Text,
    /// A text, a number or a truth value, kept as a text.
    Word,
    /// A whole number.
    Int,
    /// A number.
    Number,
    /// A truth value.
    Bool,
    /// Bytes: a number, or a text like `512m`. Kept as a text of bytes.
    Bytes,
    /// A time like `1m30s`.
    Duration,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A path, relative to the project's folder.
    Path,
    /// Items that files add to. Those that are there already are left out.
    List(&'static Shape),
    /// One or several texts.
    Words,
    /// Items told apart by a key: of two with the same one, the later counts.
    Keyed(&'static Shape, fn(&Node) -> String),
    /// A command: a text in the words of a shell, or a list. The last file counts.
    Command,
    /// `KEY=value`, as a list or as a mapping. A key without a value has none.
    Pairs,
    /// The same; a key without a value is an empty text.
    Labels,
    /// Names that the user chooses.
    Named(&'static Shape),
    /// A certain set of keys.
    Fields(&'static [Field]),
    /// A short form, written out before it is checked as the second.
    Short(
        fn(Node, &Reader<'_>) -> Result<Node, crate::LoadError>,
        &'static Shape,
    ),
}

/// A key of a mapping with a certain set of keys.
#[derive(Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub shape: Shape,
    /// What Isle makes of it.
    pub support: Support,
}

/// What Isle makes of a key.
#[derive(Clone, Copy)]
pub enum Support {
    /// What the specification says.
    Full,
    /// Nothing, which does no harm: said aloud.
    Ignored(&'static str),
    /// It cannot be done, and leaving it out would be something else than what was asked for.
    Refused(&'static str),
}

const fn key(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        support: Support::Full,
    }
}

const fn ignored(name: &'static str, shape: Shape, why: &'static str) -> Field {
    Field {
        name,
        shape,
        support: Support::Ignored(why),
    }
}

const fn refused(name: &'static str, why: &'static str) -> Field {
    Field {
        name,
        shape: Shape::Any,
        support: Support::Refused(why),
    }
}
