//! What the kernel is told about networks, over netlink(7): no program is started, and what belongs
//! together goes in one batch.
//!
//! A [`Batch`] is a row of messages. The modules add the messages of their family to it: [`link`],
//! [`address`], [`route`], [`shaper`] and [`redirect`] those of rtnetlink(7), [`nftables`] those of nf_tables,
//! [`conntrack`] those of the connection table. A [`Socket`] carries it to the kernel and brings its
//! answers back: a [`Refused`] says which message was refused, and why in the kernel's own words.
//! [`monitor`] tells what others change, [`packet_log`] what rules log.
//!
//! ```no_run
//! use isle_netlink::{Batch, Socket, link::Link};
//!
//! let socket = Socket::route()?;
//! let mut batch = Batch::default();
//! batch.change_link(&Link { name: Some("lo"), is_up: Some(true), ..Link::default() });
//! socket.send(&batch)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The guest agent uses this crate before anything else runs in a guest, so it is small and depends on nothing
//! but system calls. The numbers are those of the kernel's headers, under their names there.

#![forbid(unsafe_code)]

pub mod address;
pub mod attributes;
mod batch;
pub mod conntrack;
pub mod link;
pub mod monitor;
pub mod nftables;
pub mod packet_log;
pub mod redirect;
pub mod route;
pub mod shaper;
mod socket;

pub use batch::{Batch, Nest};
pub use socket::{Protocol, Refused, Socket};
