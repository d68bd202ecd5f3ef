//! Networks in the kernel: bridges, the cables of instances, and the table that decides what goes where.
//!
//! A [`Dataplane`] carries out what the plain values of [`wanted`] describe: a [`Bridge`] per network, an [`Endpoint`]
//! per instance and network, [`Publication`]s of ports. Nothing here knows a database, and nothing is
//! kept: the kernel holds all of it, and [`Dataplane::repair`] makes it anew from a description of everything.
//!
//! The table ([`table`]) is one of nf_tables, of the families inet and bridge, with the [`Realm`]'s name. Its rules never
//! change: what differs is in sets and maps, so that one more published port is one more element, however many there are.
//!
//! ```no_run
//! use isle_dataplane::{Bridge, Dataplane, Realm};
//!
//! let mut dataplane = Dataplane::new(Realm::new("isle"));
//! dataplane.ensure_bridge(&Bridge {
//!     addresses: vec!["172.30.0.1/24".parse()?],
//!     masquerade: true,
//!     ..Bridge::new("isle0")
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod dataplane;
mod error;
mod inside;
mod settings;
pub mod table;
pub mod wanted;
mod watch;

pub use dataplane::{Dataplane, Repaired};
pub use error::Error;
pub use isle_netlink::link::MacvlanMode;
pub use wanted::{
    Allowed, Bridge, Destination, Endpoint, Guard, Protocol, Publication, Rate, Realm, Route,
    Wanted,
};
pub use watch::{Disturbance, Watch};
