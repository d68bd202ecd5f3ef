//! Carries out what is wanted.

mod bridges;
mod endpoints;
mod repair;
mod tables;

use isle_netlink::{Batch, Protocol, Refused, Socket};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;

use crate::{Error, Realm};

pub use repair::Repaired;

/// Networks in the kernel, in the network namespace of the threads that use it.
///
/// All of its operations can be repeated. Sockets are opened when they are needed first.
#[derive(Debug)]
pub struct Dataplane {
    realm: Realm,
    route: Option<Socket>,
    netfilter: Option<Socket>,
}

impl Dataplane {
    /// The networks of a realm.
    #[must_use]
    pub fn new(realm: Realm) -> Self {
        Self {
            realm,
            route: None,
            netfilter: None,
        }
    }

    /// Whose networks these are.
    #[must_use]
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    fn index(&mut self, link: &str) -> Result<Option<u32>, Error> {
        match name_to_index(self.route("look for a link")?, link) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(Error::System {
                operation: format!("look for link {link:?}"),
                source: error.into(),
            }),
        }
    }

    /// Whether there is a link of that name on the host.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn has_link(&mut self, link: &str) -> Result<bool, Error> {
        Ok(self.index(link)?.is_some())
    }

    fn need(&mut self, link: &str, operation: &str) -> Result<u32, Error> {
        self.index(link)?.ok_or_else(|| Error::NoLink {
            operation: operation.to_owned(),
            link: link.to_owned(),
        })
    }

    fn send(&mut self, operation: &str, batch: &Batch) -> Result<(), Error> {
        let answer = self.send_refusable(batch)?;
        self.checked(operation, answer)
    }

    fn delete_link(&mut self, operation: &str, name: &str) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.delete_link(name);
        match self.send_refusable(&batch)? {
            Err(refused) if errno(&refused) == Some(Errno::NODEV) => Ok(()),
            answer => self.checked(operation, answer),
        }
    }

    fn send_refusable(&mut self, batch: &Batch) -> Result<Result<(), Refused>, Error> {
        Ok(self.route("speak to the kernel")?.send(batch))
    }

    /// A refusal as an error. The sockets are opened anew the next time: answers may be left in them.
    fn refused(&mut self, operation: &str, refused: Refused) -> Error {
        self.route = None;
        self.netfilter = None;
        Error::from_refusal(operation, refused)
    }

    fn checked<T>(&mut self, operation: &str, result: Result<T, Refused>) -> Result<T, Error> {
        result.map_err(|refused| self.refused(operation, refused))
    }

    fn route(&mut self, operation: &str) -> Result<&Socket, Error> {
        open(&mut self.route, Protocol::Route, operation)
    }

    fn netfilter(&mut self, operation: &str) -> Result<&Socket, Error> {
        open(&mut self.netfilter, Protocol::Netfilter, operation)
    }
}

fn open<'a>(
    socket: &'a mut Option<Socket>,
    protocol: Protocol,
    operation: &str,
) -> Result<&'a Socket, Error> {
    if socket.is_none() {
        let opened = Socket::open(protocol).and_then(Socket::explain);
        *socket = Some(opened.map_err(|source| Error::System {
            operation: format!("{operation}: open a netlink socket"),
            source,
        })?);
    }
    Ok(socket.as_ref().expect("it was opened above"))
}

fn errno(refused: &Refused) -> Option<Errno> {
    Errno::from_io_error(&refused.error)
}
