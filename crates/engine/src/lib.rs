//! Instances: what they are asked to be, what they are, and who looks after them.
//!
//! ```text
//!  isle (command line) ── Engine ──┬── store   one row an instance in the state file
//!                                  ├── image::Store
//!                                  └── Unix socket ──> supervisor (isle-shim), one an instance
//!                                                        └── Backend: container, vm
//! ```
//!
//! [`Engine`] is what every front door uses. It needs no daemon: it reads the store, and talks to
//! the supervisor of an instance over a socket when something has to change. The supervisor
//! ([`supervisor`]) is the parent of the instance's process; it owns its stdio, log, health,
//! restart policy and exit code, and outlives whoever started it.

#![forbid(unsafe_code)]

pub mod backend;
pub mod config;
mod control;
mod engine;
// The same as the image store's: one text, armed in the tests of either.
#[path = "../../image/src/failpoint.rs"]
mod failpoint;
mod id_range;
mod launch;
mod lock;
pub mod log;
pub mod machines;
mod merge;
mod names;
mod paths;
mod protocol;
mod reconcile;
mod session;
pub mod state;
mod store;
pub mod supervisor;
mod tree;
mod validate;
mod volume;
mod wiring;

pub use backend::Preparation;
pub use engine::*;
pub use id_range::IdRange;
pub use lock::InstanceLock;
pub use paths::Paths;
pub use session::*;
pub use store::{NewEvent, SCHEMA, Store, StoreError};
pub use volume::{Snapshot, Volume, is_name as is_volume_name};
