//! A socket of the family netlink, see netlink(7).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, sendto,
    socket_with,
};

use crate::Batch;
use crate::attributes::{Attributes, Messages};

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// Whom a socket speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes: rtnetlink(7).
    Route,
    /// nf_tables, the connection table, logged packets.
    Netfilter,
}

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
}

/// The kernel refused a message of a batch; [`std::error::Error::source`] says what it answered.
#[derive(Debug)]
pub struct Refused {
    /// Which message, from 0; `None`: the batch as a whole, or no answer came.
    pub message: Option<usize>,
    /// What the kernel answered.
    pub error: io::Error,
    /// Why, in the kernel's own words, where it has some.
    pub reason: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the kernel refused")?;
        if let Some(message) = self.message {
            write!(formatter, " message {message}")?;
        }
        if let Some(reason) = &self.reason {
            write!(formatter, " ({reason})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self {
            message: None,
            error,
            reason: None,
        }
    }
}

impl Socket {
    /// Opens a socket for links, addresses and routes.
    ///
    /// # Errors
    /// When the kernel has none to give.
    pub fn route() -> io::Result<Self> {
        Self::open(Protocol::Route)
    }

    /// Opens a socket.
    ///
    /// # Errors
    /// When the kernel lacks the protocol, or has no socket to give.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let protocol = match protocol {
            // The protocol's number is 0, which is what no protocol means.
            Protocol::Route => None,
            Protocol::Netfilter => Some(netlink::NETFILTER),
        };
        let descriptor = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self { descriptor })
    }

    /// The kernel says from now on why it refuses something, in words.
    ///
    /// # Errors
    /// Never in practice.
    pub fn explain(self) -> io::Result<Self> {
        isle_sys::netlink::explain(&self.descriptor)?;
        Ok(self)
    }

    /// Whoever reads gets what happens to one of the protocol's groups (`RTNLGRP_…`, `NFNLGRP_…`).
    ///
    /// # Errors
    /// When the kernel does not let the process.
    pub fn join(&self, group: u32) -> io::Result<()> {
        isle_sys::netlink::join(&self.descriptor, group)
    }

    /// Sends a batch and waits for the kernel's word on each message that wants one.
    ///
    /// # Errors
    /// The first refusal. rtnetlink carries out the messages after it all the same.
    pub fn send(&self, batch: &Batch) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write(batch)?;
        let mut first = None;
        let mut buffer = [0; 8192];
        loop {
            let (count, _) = recv(&self.descriptor, &mut buffer[..], RecvFlags::empty())
                .map_err(io::Error::from)?;
            for (kind, sequence, payload) in Messages(&buffer[..count]) {
                if kind != NLMSG_ERROR {
                    continue;
                }
                let refused = refusal(sequence, payload);
                // The batch as a whole: no more answers come.
                let is_last = sequence == batch.messages || sequence == 0;
                first = first.or(refused);
                if is_last {
                    return first.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends a request that is answered by many messages, and calls `told` with the type of each
    /// and what comes after its header.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self, batch: &Batch, mut told: impl FnMut(u16, &[u8])) -> Result<(), Refused> {
        self.write(batch)?;
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let (count, _) = recv(&self.descriptor, &mut buffer[..], RecvFlags::empty())
                .map_err(io::Error::from)?;
            for (kind, sequence, payload) in Messages(&buffer[..count]) {
                match kind {
                    // Both begin with the kernel's answer; 0: all is well.
                    NLMSG_DONE | NLMSG_ERROR => {
                        return refusal(sequence, payload).map_or(Ok(()), Err);
                    }
                    _ => told(kind, payload),
                }
            }
        }
    }

    /// Reads one datagram of what has come, and calls `told` with the type of each message in it and what comes after its
    /// header. It does not wait: `false` when nothing has come.
    ///
    /// # Errors
    /// `ENOBUFS` when more came than there was room for: what happened has to be looked up.
    pub fn receive(&self, mut told: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; 64 * 1024];
        let count = match recv(&self.descriptor, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        for (kind, _, payload) in Messages(&buffer[..count]) {
            told(kind, payload);
        }
        Ok(true)
    }

    /// Gets an address of its own, so that groups can be joined.
    ///
    /// # Errors
    /// Never in practice.
    pub(crate) fn bind(&self) -> io::Result<()> {
        Ok(bind(&self.descriptor, &SocketAddrNetlink::new(0, 0))?)
    }

    fn write(&self, batch: &Batch) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.descriptor, &batch.bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What an answer (`struct nlmsgerr`, or the number at the end of a dump) says.
fn refusal(sequence: u32, payload: &[u8]) -> Option<Refused> {
    let code = payload.first_chunk().copied().map(i32::from_ne_bytes)?;
    if code >= 0 {
        return None;
    }
    // After the number comes the header of the message that is meant; see NETLINK_CAP_ACK.
    let attributes = Attributes(payload.get(20..).unwrap_or_default());
    let mut reason = attributes.text(NLMSGERR_ATTR_MSG).map(str::to_owned);
    if let (Some(reason), Some(offset)) = (&mut reason, attributes.number(NLMSGERR_ATTR_OFFS)) {
        reason.push_str(&format!(", byte {offset}"));
    }
    Some(Refused {
        message: sequence.checked_sub(1).map(|index| index as usize),
        error: io::Error::from_raw_os_error(-code),
        reason,
    })
}
