//! Compose projects: files to a model, and the plan that brings it about.
//!
//! ```text
//!  compose.yaml ── yaml ── interpolate ── schema ── merge ── normal ──> Project ── plan ──> steps
//!  (positions)             (variables)    (long      (files,  (names,              ^          │
//!                                          forms)     extends) networks)           │          v
//!                                                                               Existing    words of `isle create`
//! ```
//!
//! [`Project::load`] reads files as the [Compose specification](https://github.com/compose-spec/compose-spec) has them: what it
//! returns has every variable filled in, every short form written out and every reference found. [`plan`] compares it with what
//! [`Existing`] says is there. [`words::instance`] says a service in the flags of `isle create`. Nothing in here talks to the
//! engine; reading files is all that it does to the host.
//!
//! What the specification has and Isle has not is an error or a [`Warning`], never silence (`schema`).

#![forbid(unsafe_code)]

mod check;
mod dotenv;
mod error;
mod interpolate;
mod load;
mod merge;
mod model;
mod normal;
mod plan;
mod print;
mod schema;
pub mod words;
mod yaml;

pub use error::{At, LoadError};
pub use load::Request;
pub use model::*;
pub use plan::*;
pub use print::{sorted, yaml};
pub use schema::Warning;
