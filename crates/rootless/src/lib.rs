//! The house of an ordinary user: a user namespace in which the engine is root.
//!
//! A user who runs `isle` has subordinate ids (subuid(5)) and no rights over the host. In a user namespace of its own the
//! engine has all that it needs: there the same code makes overlays, bridges, taps, rules of nf_tables, control groups. That
//! namespace, a mount namespace and, once somebody needs it, a network namespace make the *house*; one a user, for all roots.
//!
//! ```text
//!  isle ── connect ──> <run>/house/sock ── isle-house: holds the namespaces, in the host's network
//!    │ newuidmap, newgidmap (the first one)   │ bind: sockets of the host's network for published ports
//!    │ setns: user, mount                     └ pasta: the way out of the house's network
//!    v
//!  isle-shim ── network: joins the house's network where the instance is on one
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `place` | lock and socket of a keeper: never more than one |
//! | `client` | find the house or have it built, enter it, ask its keeper for something |
//! | `maps` | which ids the user has, and the programs that may map them |
//! | `keeper` | the process that holds the house while anybody is in it |
//! | `building` | what the house is made of: namespaces and mounts |
//! | `residents` | who is in the house |
//! | `pasta` | its way out |
//! | `ports` | sockets of the host's network |
//! | `words` | what client and keeper say to each other |
//!
//! `docs/decisions/0022-rootless.md` says why it is like this.

#![forbid(unsafe_code)]

mod building;
mod client;
mod error;
mod keeper;
mod maps;
mod pasta;
pub mod place;
mod ports;
mod residents;
mod words;

pub use client::{Claim, PROGRAM, Visit, enter, host_socket, join_network, with_network};
pub use error::HouseError;
pub use keeper::main;
pub use maps::{OwnIds, Subordinate, own_ids, subordinate};

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// By which a program that is started in the house knows where its keeper is.
pub const VARIABLE: &str = "ISLE_HOUSE";

static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// The folder of the house that this process is in; `None`: it is in none.
pub fn house() -> Option<&'static Path> {
    let from_environment = || std::env::var_os(VARIABLE).map(PathBuf::from);
    FOLDER.get_or_init(from_environment).as_deref()
}
