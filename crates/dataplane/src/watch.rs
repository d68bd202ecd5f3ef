//! Hears when something that we made has gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use isle_netlink::monitor::{self, LINK_CHANGED, LINK_GONE};
use isle_netlink::{Socket, link, nftables};

use crate::{Error, Realm};

/// Two descriptors that are readable when links or tables have changed, whoever did it.
#[derive(Debug)]
pub struct Watch {
    realm: Realm,
    links: Socket,
    tables: Socket,
}

/// Something that may have to be repaired, see [`crate::Dataplane::repair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// One of the realm's tables has lost something; that it is made anew looks the same.
    /// [`crate::Dataplane::is_whole`] says whether something is missing.
    Tables,
    /// The link of that name has gone.
    LinkGone(String),
    /// The link of that name is no port, or is down.
    LinkLoose(String),
    /// The link of that name is up, and a port or a bridge: whatever was told of it before is past.
    LinkWhole(String),
    /// More happened than could be told.
    Unknown,
}

impl Watch {
    /// Begins to listen, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel lacks nf_tables, or `CAP_NET_ADMIN` is missing.
    pub fn open(realm: &Realm) -> Result<Self, Error> {
        let error = |source| Error::System {
            operation: "listen to changes of networks".to_owned(),
            source,
        };
        Ok(Self {
            realm: realm.clone(),
            links: monitor::links().map_err(error)?,
            tables: monitor::tables().map_err(error)?,
        })
    }

    /// What to wait for with poll(2).
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.links.as_fd(), self.tables.as_fd()]
    }

    /// What has happened, without waiting.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn read(&self) -> io::Result<Vec<Disturbance>> {
        let mut found = Vec::new();
        drain(&self.links, &mut found, |kind, payload| {
            let told = link::parse(payload)?;
            let is_loose = !told.is_up || told.master == 0 && told.kind != "bridge";
            match kind {
                // A bridge tells of a port that it has lost as of a link that is gone.
                LINK_GONE if told.is_of_bridge => Some(Disturbance::LinkLoose(told.name)),
                LINK_GONE => Some(Disturbance::LinkGone(told.name)),
                LINK_CHANGED if is_loose => Some(Disturbance::LinkLoose(told.name)),
                LINK_CHANGED => Some(Disturbance::LinkWhole(told.name)),
                _ => None,
            }
        })?;
        drain(&self.tables, &mut found, |kind, payload| {
            let table = nftables::parse_loss(kind, payload)?;
            (table == self.realm.name()).then_some(Disturbance::Tables)
        })?;
        Ok(found)
    }
}

impl Disturbance {
    /// The link that it is about.
    fn link(&self) -> Option<&str> {
        match self {
            Self::LinkGone(link) | Self::LinkLoose(link) | Self::LinkWhole(link) => Some(link),
            Self::Tables | Self::Unknown => None,
        }
    }
}

/// Reads all that is there; of each link, and of the tables, what was last.
fn drain(
    socket: &Socket,
    found: &mut Vec<Disturbance>,
    mut disturbance: impl FnMut(u16, &[u8]) -> Option<Disturbance>,
) -> io::Result<()> {
    loop {
        let result = socket.receive(|kind, payload| {
            if let Some(new) = disturbance(kind, payload) {
                found.retain(|old| match new.link() {
                    Some(link) => old.link() != Some(link),
                    None => *old != new,
                });
                found.push(new);
            }
        });
        match result {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if isle_netlink::packet_log::is_overrun(&error) => {
                found.push(Disturbance::Unknown);
            }
            Err(error) => return Err(error),
        }
    }
}
