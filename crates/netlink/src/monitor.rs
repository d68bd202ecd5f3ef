//! What others change: links, and nf_tables.
//!
//! The socket is readable when something happened; [`Socket::receive`] tells what. For links see
//! [`crate::link::parse`], for tables [`crate::nftables::parse_generation`] and
//! [`crate::nftables::parse_loss`].

use std::io;

use crate::link::{RTM_DELLINK, RTM_NEWLINK};
use crate::{Protocol, Socket};

/// Links: `RTNLGRP_LINK`.
pub const LINK: u32 = 1;
/// Tables and what is in them: `NFNLGRP_NFTABLES`.
pub const NFTABLES: u32 = 7;

/// The type of a message that tells of a new or changed link.
pub const LINK_CHANGED: u16 = RTM_NEWLINK;
/// The type of a message that tells of a link that has gone.
pub const LINK_GONE: u16 = RTM_DELLINK;

/// A socket that hears of links.
///
/// # Errors
/// When the kernel has none to give.
pub fn links() -> io::Result<Socket> {
    listen(Protocol::Route, LINK)
}

/// A socket that hears of nf_tables.
///
/// # Errors
/// When the kernel has no nf_tables, or `CAP_NET_ADMIN` is missing.
pub fn tables() -> io::Result<Socket> {
    listen(Protocol::Netfilter, NFTABLES)
}

fn listen(protocol: Protocol, group: u32) -> io::Result<Socket> {
    let socket = Socket::open(protocol)?;
    socket.bind()?;
    socket.join(group)?;
    Ok(socket)
}
