//! Carries out what is wanted.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use isle_netlink::link::{Kind, Link, MacvlanMode};
use isle_netlink::nftables::{Element, Transaction};
use isle_netlink::{Batch, Protocol, Refused, Socket, conntrack};
use isle_sys::tun::Offloads;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;

use crate::{Bridge, Endpoint, Error, Publication, Realm, inside, settings, table};

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

    /// Makes a bridge with its addresses, and lets its packets through; what is there stays.
    ///
    /// # Errors
    /// When the kernel refuses a link, an address or the table.
    pub fn ensure_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        let operation = format!("make bridge {:?}", bridge.link);
        let index = match self.index(&bridge.link)? {
            Some(index) => index,
            None => self.create_bridge(bridge, &operation)?,
        };
        let mut batch = Batch::default();
        batch.change_link(&Link {
            index,
            is_up: Some(true),
            mtu: bridge.mtu,
            ..Link::default()
        });
        for net in &bridge.addresses {
            batch.add_address(index, net.addr(), net.prefix_len());
        }
        self.send(&operation, &batch)?;
        for is_ipv6 in [false, true] {
            if bridge
                .addresses
                .iter()
                .any(|net| net.addr().is_ipv6() == is_ipv6)
            {
                settings::forward(is_ipv6)?;
            }
        }
        // What is published on 127.0.0.1 comes from there, see `table`.
        settings::ensure(&format!("ipv4/conf/{}/route_localnet", bridge.link), "1")?;
        self.change_table(&operation, |transaction| {
            table::add_bridge(transaction, bridge);
        })
    }

    /// Deletes a bridge and what the table has of it; harmless when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        let operation = format!("delete bridge {:?}", bridge.link);
        self.delete_link(&operation, &bridge.link)?;
        let mut elements = Vec::new();
        for (set, of_set) in table::bridge_elements(bridge) {
            elements.extend(of_set.into_iter().map(|element| (set, element)));
        }
        self.delete_elements(&operation, elements)
    }

    /// Connects an instance's network namespace: a cable from the bridge to a link inside, with
    /// addresses and routes, up. A link of the same name on the host, left behind, is replaced.
    ///
    /// # Errors
    /// When the bridge is not there or full, or the kernel refuses a link, an address or a route.
    pub fn attach_namespace(
        &mut self,
        endpoint: &Endpoint,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let operation = format!(
            "connect {:?} to bridge {:?}",
            endpoint.link, endpoint.bridge
        );
        let master = self.need(&endpoint.bridge, &operation)?;
        let peer = Link {
            name: Some(&endpoint.interface),
            mac: Some(endpoint.mac),
            mtu: endpoint.mtu,
            namespace: Some(namespace),
            ..Link::default()
        };
        let link = Link {
            name: Some(&endpoint.link),
            mtu: endpoint.mtu,
            ..Link::default()
        };
        let mut batch = Batch::default();
        batch.create_link(&link, Kind::Veth(&peer));
        port(&mut batch, endpoint, master);
        match self.send_refusable(&batch)? {
            Err(refused) if errno(&refused) == Some(Errno::EXIST) => {
                self.delete_link(&operation, &endpoint.link)?;
                self.connect(&operation, endpoint, &batch)?;
            }
            answer => self.connected(&operation, endpoint, answer)?,
        }
        let result = self
            .treat_port(&operation, endpoint)
            .and_then(|()| inside::configure(endpoint, namespace));
        if result.is_err() {
            // The first error says more than one while cleaning up.
            let _ = self.detach(&endpoint.link);
        }
        result
    }

    /// Connects a virtual machine: the descriptor is the network card's other side, a tap, which goes
    /// when it is closed.
    ///
    /// # Errors
    /// When the bridge is not there or full, or there can be no tap.
    pub fn attach_tap(
        &mut self,
        endpoint: &Endpoint,
        offloads: Offloads,
    ) -> Result<OwnedFd, Error> {
        let operation = format!(
            "connect {:?} to bridge {:?}",
            endpoint.link, endpoint.bridge
        );
        let master = self.need(&endpoint.bridge, &operation)?;
        let tap = isle_sys::tun::tap(&endpoint.link, offloads).map_err(|source| Error::System {
            operation: format!("make the tap {:?}", endpoint.link),
            source,
        })?;
        let mut batch = Batch::default();
        port(&mut batch, endpoint, master);
        self.connect(&operation, endpoint, &batch)?;
        self.treat_port(&operation, endpoint)?;
        Ok(tap)
    }

    /// Connects an instance's network namespace to a link of the host's (`parent`) by a macvlan, which no bridge
    /// and no table of ours sees; the endpoint's bridge and link are not looked at.
    ///
    /// # Errors
    /// When the parent is not there or cannot carry it, or the kernel refuses an address or a route.
    pub fn attach_macvlan(
        &mut self,
        parent: &str,
        mode: MacvlanMode,
        endpoint: &Endpoint,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let operation = format!("connect an instance to {parent:?} by a macvlan");
        let parent = self.need(parent, &operation)?;
        let mut batch = Batch::default();
        let link = Link {
            name: Some(&endpoint.interface),
            mac: Some(endpoint.mac),
            mtu: endpoint.mtu,
            parent: Some(parent),
            namespace: Some(namespace),
            ..Link::default()
        };
        batch.create_link(&link, Kind::Macvlan(mode));
        self.send(&operation, &batch)?;
        inside::configure(endpoint, namespace)
    }

    /// Takes an endpoint's link on the host away, and with it the one inside; harmless when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self, link: &str) -> Result<(), Error> {
        self.delete_link(&format!("disconnect {link:?}"), link)
    }

    /// Publishes ports, all or none.
    ///
    /// # Errors
    /// [`Error::Published`] when one is published already, [`Error::Families`] when one goes from IPv4 to IPv6
    /// or the other way round.
    pub fn publish(&mut self, publications: &[Publication]) -> Result<(), Error> {
        if let Some(wrong) = publications
            .iter()
            .find(|publication| table::publication_element(publication).is_none())
        {
            return Err(Error::Families {
                operation: format!("publish {wrong}"),
                to: wrong.to,
            });
        }
        let operation = published(publications, "publish");
        let result = self.change_table(&operation, |transaction| {
            for (map, elements) in by_map(publications) {
                transaction.add_new_elements(map, elements);
            }
        });
        match result {
            Err(Error::Refused { operation, source }) if errno(&source) == Some(Errno::EXIST) => {
                Err(Error::Published { operation })
            }
            result => result,
        }
    }

    /// Takes ports back, and ends what goes on over those that have no connections of their own
    /// (UDP): it would go on to the instance's address, whoever has that next. Harmless for those that are not published.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unpublish(&mut self, publications: &[Publication]) -> Result<(), Error> {
        let operation = published(publications, "unpublish");
        let mut elements = Vec::new();
        for (map, of_map) in by_map(publications) {
            elements.extend(of_map.into_iter().map(|element| (map, element)));
        }
        self.delete_elements(&operation, elements)?;
        let datagrams: Vec<_> = publications
            .iter()
            .filter(|publication| publication.protocol == crate::Protocol::Udp)
            .collect();
        if datagrams.is_empty() {
            return Ok(());
        }
        let result = conntrack::delete(self.netfilter(&operation)?, |sent, expected| {
            datagrams.iter().any(|publication| {
                sent.protocol == publication.protocol as u8
                    && sent.destination_port == publication.host_port
                    && expected.source == publication.to
                    && expected.source_port == publication.to_port
            })
        });
        self.checked(&operation, result).map(|_| ())
    }

    /// Takes the table away: nothing of the realm is left to let through.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self) -> Result<(), Error> {
        let operation = format!("delete table {:?}", self.realm.name());
        let name = self.realm.name().to_owned();
        let mut transaction = Transaction::new(table::FAMILY, &name);
        // Made first, so that it is no error when it is not there.
        transaction.add_table();
        transaction.delete_table();
        let result = transaction.commit(self.netfilter(&operation)?);
        self.checked(&operation, result)
    }

    /// Changes what is in the table; makes it when it is not there.
    fn change_table(
        &mut self,
        operation: &str,
        change: impl Fn(&mut Transaction<'_>),
    ) -> Result<(), Error> {
        let name = self.realm.name().to_owned();
        let mut transaction = Transaction::new(table::FAMILY, &name);
        change(&mut transaction);
        if transaction.is_empty() {
            return Ok(());
        }
        let mut result = transaction.commit(self.netfilter(operation)?);
        if let Err(refused) = &result
            && errno(refused) == Some(Errno::NOENT)
        {
            let mut transaction = Transaction::new(table::FAMILY, &name);
            table::make(&mut transaction);
            change(&mut transaction);
            result = transaction.commit(self.netfilter(operation)?);
        }
        self.checked(operation, result)
    }

    /// Deletes elements that may be gone: all at once, and one by one when one of them is.
    fn delete_elements(
        &mut self,
        operation: &str,
        elements: Vec<(&'static str, Element)>,
    ) -> Result<(), Error> {
        let name = self.realm.name().to_owned();
        let mut transaction = Transaction::new(table::FAMILY, &name);
        for (set, element) in &elements {
            transaction.delete_elements(set, [element.clone()]);
        }
        if transaction.is_empty() {
            return Ok(());
        }
        let result = transaction.commit(self.netfilter(operation)?);
        match result {
            Err(refused) if errno(&refused) == Some(Errno::NOENT) => {}
            result => return self.checked(operation, result),
        }
        for (set, element) in elements {
            let mut transaction = Transaction::new(table::FAMILY, &name);
            transaction.delete_elements(set, [element]);
            match transaction.commit(self.netfilter(operation)?) {
                Err(refused) if errno(&refused) == Some(Errno::NOENT) => {}
                result => self.checked(operation, result)?,
            }
        }
        Ok(())
    }

    fn create_bridge(&mut self, bridge: &Bridge, operation: &str) -> Result<u32, Error> {
        let mut batch = Batch::default();
        let link = Link {
            name: Some(&bridge.link),
            // Without one of its own it would have that of a port, and change it with the ports.
            mac: Some(bridge_mac(bridge)),
            mtu: bridge.mtu,
            ..Link::default()
        };
        batch.create_link(&link, Kind::Bridge);
        match self.send_refusable(&batch)? {
            // Another process was faster.
            Err(refused) if errno(&refused) == Some(Errno::EXIST) => {}
            Err(refused) => return Err(self.refused(operation, refused)),
            Ok(()) => {}
        }
        self.need(&bridge.link, operation)
    }

    fn connect(
        &mut self,
        operation: &str,
        endpoint: &Endpoint,
        batch: &Batch,
    ) -> Result<(), Error> {
        let answer = self.send_refusable(batch)?;
        self.connected(operation, endpoint, answer)
    }

    /// What became of a port: a link that could not be connected is taken away.
    fn connected(
        &mut self,
        operation: &str,
        endpoint: &Endpoint,
        answer: Result<(), Refused>,
    ) -> Result<(), Error> {
        let Err(refused) = answer else {
            return Ok(());
        };
        let is_full = errno(&refused) == Some(Errno::XFULL);
        let error = self.refused(operation, refused);
        // The first error says more than one while cleaning up.
        let _ = self.detach(&endpoint.link);
        Err(match is_full {
            true => Error::BridgeFull {
                operation: operation.to_owned(),
                bridge: endpoint.bridge.clone(),
            },
            false => error,
        })
    }

    /// What a port needs only on some bridges, and on some hosts.
    ///
    /// Where frames in bridges pass the host's IP rules, what an instance sends to a port of its own by way of the
    /// host's address is turned round within the bridge, and has to go back to where it came from.
    fn treat_port(&mut self, operation: &str, endpoint: &Endpoint) -> Result<(), Error> {
        let is_hairpin = settings::bridges_are_filtered();
        if !is_hairpin && !endpoint.is_isolated {
            return Ok(());
        }
        let index = self.need(&endpoint.link, operation)?;
        let mut batch = Batch::default();
        batch.change_bridge_port(index, is_hairpin, endpoint.is_isolated);
        self.send(operation, &batch)
    }

    fn delete_link(&mut self, operation: &str, name: &str) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.delete_link(name);
        match self.send_refusable(&batch)? {
            Err(refused) if errno(&refused) == Some(Errno::NODEV) => Ok(()),
            Err(refused) => Err(self.refused(operation, refused)),
            Ok(()) => Ok(()),
        }
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

/// A link becomes a port of a bridge, and goes up. It has no address of its own.
fn port(batch: &mut Batch, endpoint: &Endpoint, master: u32) {
    batch.change_link(&Link {
        name: Some(&endpoint.link),
        is_up: Some(true),
        mtu: endpoint.mtu,
        master: Some(master),
        is_without_link_local: true,
        ..Link::default()
    });
}

fn errno(refused: &Refused) -> Option<Errno> {
    Errno::from_io_error(&refused.error)
}

/// Publications by the map that they belong to.
fn by_map(publications: &[Publication]) -> Vec<(&'static str, Vec<Element>)> {
    let mut maps: Vec<(&'static str, Vec<Element>)> = Vec::new();
    for publication in publications {
        let Some((map, element)) = table::publication_element(publication) else {
            continue;
        };
        match maps.iter_mut().find(|(name, _)| *name == map) {
            Some((_, elements)) => elements.push(element),
            None => maps.push((map, vec![element])),
        }
    }
    maps
}

fn published(publications: &[Publication], verb: &str) -> String {
    match publications {
        [one] => format!("{verb} {one}"),
        [first, .., last] => format!("{verb} {} ports, {first} to {last}", publications.len()),
        [] => format!("{verb} no port"),
    }
}

/// A locally administered address that stays the same: made of the first IPv4 address, which no one else on that network has,
/// or else of the name.
fn bridge_mac(bridge: &Bridge) -> [u8; 6] {
    let first = bridge.addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let [a, b, c, d] = first.unwrap_or_else(|| {
        // FNV-1a
        let hash = bridge.link.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        hash.to_be_bytes()
    });
    [0x02, 0x42, a, b, c, d]
}
