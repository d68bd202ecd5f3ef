//! The Dockerfile language as BuildKit understands it (syntax 1.x).
//!
//! ```text
//!  text ── lines ──> logical lines with their heredocs ── parse ──> stages of instructions
//!                    (escape, comments, directives)                  (words not expanded yet)
//! ```
//!
//! [`Dockerfile::parse`] is pure and faces strangers; `${…}` is replaced later ([`expand`]), when it is known
//! which variables a stage has. <https://docs.docker.com/reference/dockerfile/>

mod expand;
mod flags;
mod instruction;
mod lines;
mod mount;
mod parse;
mod pattern;
mod split;

pub use expand::{Expansion, Lexer, Variables};

pub use instruction::{
    ArgDefinition, Command, CopyInstruction, CopySource, Inline, Instruction, Item, Pair,
    RunInstruction, Stage,
};
pub use lines::{Directives, Heredoc, Place, SyntaxError};
pub use mount::{Mount, MountKind, Sharing};
pub use parse::Dockerfile;
pub(crate) use parse::parse_trigger;
