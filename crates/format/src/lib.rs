//! What the command line prints: tables, Go templates, human times and sizes.
//!
//! Users of Docker have scripts full of `--format '{{.Names}}\t{{.Status}}'`. [`Listing`] takes the
//! text of a `--format` flag and prints rows in any of the forms that Docker knows: an aligned
//! table, a table of chosen columns (`table {{.ID}}\t{{.Names}}`), one JSON object a line, or a
//! template a row. [`Template`] is the language itself, [`human`] the words and units.
//!
//! ```
//! use isle_format::Template;
//! let data = serde_json::json!({"State": {"ExitCode": 3}});
//! let template = Template::parse("code {{.State.ExitCode}}").unwrap();
//! assert_eq!(template.render(&data).unwrap(), "code 3");
//! ```
//!
//! Nothing in here knows what an instance is. The template language is specified by Go's package
//! `text/template`; `docs/decisions/0006-go-templates.md` says why it is written here.

#![forbid(unsafe_code)]

pub mod human;
mod listing;
mod printable;
mod table;
mod template;

pub use listing::{Column, Listing, Row, column};
pub use printable::printable;
pub use table::Table;
pub use template::{Template, TemplateError, quote};
