//! What the name server of a network answers.
//!
//! Instances find each other by name. The server that tells them lives in the keeper of the networks
//! (`crates/netd`); what it says is decided here, without a socket: a packet, who sent it and a [`Directory`] go
//! into [`respond`], and a [`Reply`] comes out: an answer, or the order to ask a server of the host's
//! ([`Forward`], whose answer goes through [`Forward::accept`]).
//!
//! What it promises, beyond RFC 1035:
//! - Only instances of a network are answered, and only about networks that they are in. Other names are asked of
//!   the host's servers, or do not exist where the asker may not look outside ([`Directory::may_ask_outside`]).
//! - Names are compared without regard to case and echoed as they came (RFC 1035 section 2.3.3).
//! - A name that exists but has no record of the kind asked for is an empty success, not "no such name"
//!   (RFC 2308): else the question for IPv6 would spoil the answer for IPv4.
//! - Several addresses of one name come in turns.
//! - An address of such a network has a name or none; nobody outside is asked (RFC 6303). So has `localhost`
//!   (RFC 6761).
//! - What does not fit into a datagram is cut and says so; the asker comes again by TCP (RFC 7766, RFC 6891).
//! - A packet that is no question gets no answer: two servers cannot be set upon each other.
//!
//! There is nothing about search lists: the asker's library goes through them, one question each.
//!
//! ```
//! use isle_resolver::{Directory, Reply, Transport, respond};
//! use std::net::{IpAddr, Ipv4Addr};
//!
//! struct OneNetwork;
//! impl Directory for OneNetwork {
//!     type Network = u32;
//!     fn networks_of(&self, network: u32, source: IpAddr) -> Option<Vec<u32>> {
//!         (source == IpAddr::from([10, 0, 0, 2])).then(|| vec![network])
//!     }
//!     fn may_ask_outside(&self, _: u32, _: IpAddr, _: Option<&str>) -> bool { true }
//!     fn network_name(&self, _: u32) -> &str { "front" }
//!     fn addresses(&self, _: u32, name: &str) -> Option<Vec<IpAddr>> {
//!         (name == "web").then(|| vec![Ipv4Addr::new(10, 0, 0, 3).into()])
//!     }
//!     fn name_of(&self, _: u32, _: IpAddr) -> Option<&str> { None }
//!     fn covers(&self, _: u32, address: IpAddr) -> bool {
//!         matches!(address, IpAddr::V4(address) if address.octets()[0] == 10)
//!     }
//! }
//!
//! let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WEB\x00\x00\x01\x00\x01";
//! let source = IpAddr::from([10, 0, 0, 2]);
//! let Reply::Answer(answer) = respond(&OneNetwork, 1, source, question, Transport::Datagram, 0) else {
//!     panic!("the name is known");
//! };
//! assert!(answer.ends_with(&[0, 4, 10, 0, 0, 3]));
//! ```
//!
//! Next: [`respond`], then `crates/netd`.

#![forbid(unsafe_code)]

mod answer;
mod directory;
mod forward;
mod query;
mod respond;
mod reverse;

pub use answer::LARGEST_DATAGRAM;
pub use directory::Directory;
pub use forward::{Forward, Unfit, addresses};
pub use query::kind;
pub use respond::{Reply, Transport, respond};
