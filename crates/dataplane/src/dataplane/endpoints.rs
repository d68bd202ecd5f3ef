//! Endpoints: a cable to a network namespace, a tap for a virtual machine, a macvlan of either.

use std::os::fd::{BorrowedFd, OwnedFd};

use isle_netlink::link::{Kind, Link, MacvlanMode};
use isle_netlink::{Batch, Refused};
use isle_sys::tun::Offloads;
use rustix::io::Errno;

use super::{Dataplane, errno};
use crate::{Endpoint, Error, inside, settings, table};

/// How long what comes to an instance waits at most, when its rate is less than what comes.
const SHAPER_DELAY_MS: u32 = 100;

impl Dataplane {
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
        let operation = connecting(endpoint);
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
                let answer = self.send_refusable(&batch)?;
                self.connected(&operation, endpoint, answer)?;
            }
            answer => self.connected(&operation, endpoint, answer)?,
        }
        let result = self
            .treat_port(&operation, endpoint)
            .and_then(|()| inside::configure(endpoint, namespace))
            .and_then(|()| self.settle(&operation, endpoint, master));
        self.or_detach(endpoint, result)
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
        let operation = connecting(endpoint);
        let master = self.need(&endpoint.bridge, &operation)?;
        let tap = isle_sys::tun::tap(&endpoint.link, offloads).map_err(|source| Error::System {
            operation: format!("make the tap {:?}", endpoint.link),
            source,
        })?;
        let mut batch = Batch::default();
        port(&mut batch, endpoint, master);
        let answer = self.send_refusable(&batch)?;
        self.connected(&operation, endpoint, answer)?;
        let result = self
            .treat_port(&operation, endpoint)
            .and_then(|()| self.settle(&operation, endpoint, master));
        self.or_detach(endpoint, result)?;
        Ok(tap)
    }

    /// Takes a tap whose descriptor is kept off its bridge, and gives it another name, under which
    /// [`Dataplane::attach_parked`] finds it. (Were it deleted, who has the descriptor would find it readable for ever.)
    ///
    /// # Errors
    /// When it is not there, or the kernel refuses.
    pub fn park(&mut self, link: &str, parked: &str) -> Result<(), Error> {
        let operation = format!("disconnect {link:?}");
        let index = self.need(link, &operation)?;
        let mut batch = Batch::default();
        batch.change_link(&Link {
            index,
            is_up: Some(false),
            master: Some(0),
            ..Link::default()
        });
        batch.change_link(&Link {
            index,
            name: Some(parked),
            ..Link::default()
        });
        self.send(&operation, &batch)?;
        let mut batch = Batch::default();
        batch.unshape(index);
        match self.send_refusable(&batch)? {
            // It had no rate.
            Err(refused) if matches!(errno(&refused), Some(Errno::NOENT | Errno::INVAL)) => Ok(()),
            answer => self.checked(&operation, answer),
        }
    }

    /// Connects a tap again that was parked under that name; `false` when there is none.
    ///
    /// # Errors
    /// When the bridge is not there or full, or the kernel refuses.
    pub fn attach_parked(&mut self, parked: &str, endpoint: &Endpoint) -> Result<bool, Error> {
        let operation = connecting(endpoint);
        let Some(index) = self.index(parked)? else {
            return Ok(false);
        };
        let master = self.need(&endpoint.bridge, &operation)?;
        let mut batch = Batch::default();
        batch.change_link(&Link {
            index,
            name: Some(&endpoint.link),
            ..Link::default()
        });
        port(&mut batch, endpoint, master);
        let result = self
            .send(&operation, &batch)
            .and_then(|()| self.treat_port(&operation, endpoint))
            .and_then(|()| self.settle(&operation, endpoint, master));
        if result.is_err() {
            // The first error says more than one while cleaning up.
            let _ = self.park(&endpoint.link, parked);
        }
        result.map(|()| true)
    }

    /// Connects an instance's network namespace to a link of the host's (`parent`) by a macvlan, which no bridge
    /// and no table of ours sees: the endpoint's bridge, link and rate are not looked at, and no guard watches it.
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
        let result = inside::configure(endpoint, namespace);
        if result.is_err() {
            // The first error says more than one while cleaning up.
            let _ = inside::delete(&endpoint.interface, namespace);
        }
        result
    }

    /// Connects a virtual machine to a link of the host's (`parent`) by a macvtap: the descriptor is the network card's
    /// other side. The link, of the endpoint's name, stays until [`Dataplane::detach`]. What is not looked at is as in
    /// [`Dataplane::attach_macvlan`].
    ///
    /// # Errors
    /// When the parent is not there or cannot carry it, or the kernel refuses.
    pub fn attach_macvtap(
        &mut self,
        parent: &str,
        mode: MacvlanMode,
        endpoint: &Endpoint,
    ) -> Result<OwnedFd, Error> {
        let operation = format!("connect a virtual machine to {parent:?} by a macvtap");
        let parent = self.need(parent, &operation)?;
        let mut batch = Batch::default();
        let link = Link {
            name: Some(&endpoint.link),
            mac: Some(endpoint.mac),
            mtu: endpoint.mtu,
            parent: Some(parent),
            is_up: Some(true),
            // The host has no business on it.
            is_without_link_local: true,
            ..Link::default()
        };
        batch.create_link(&link, Kind::Macvtap(mode));
        // Somebody who was killed may have left it.
        self.delete_link(&operation, &endpoint.link)?;
        self.send(&operation, &batch)?;
        let opened = isle_sys::tun::macvtap(&endpoint.link).map_err(|source| Error::System {
            operation: format!("open the device of the macvtap {:?}", endpoint.link),
            source,
        });
        self.or_detach(endpoint, opened)
    }

    /// Takes an endpoint's link on the host away, and with it the one inside; harmless when it is gone.
    ///
    /// The kernel takes some 20 ms for it. A cable goes by itself, a little later, when the namespace at its other end
    /// does: who has ended an instance need not do it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self, link: &str) -> Result<(), Error> {
        self.delete_link(&format!("disconnect {link:?}"), link)
    }

    /// Leads what is in a network namespace out by the gateways of one of its endpoints, in place of what led out
    /// before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lead_out(
        &mut self,
        endpoint: &Endpoint,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        inside::lead_out(endpoint, namespace)
    }

    /// Takes a link away that is inside alone, a macvlan; harmless when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach_macvlan(
        &mut self,
        interface: &str,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        inside::delete(interface, namespace)
    }

    /// Changes the rate of an endpoint that is connected.
    ///
    /// # Errors
    /// When its link is not there, or the kernel refuses.
    pub fn change_rate(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let operation = format!("change the rate of {:?}", endpoint.link);
        let index = self.need(&endpoint.link, &operation)?;
        let mut batch = Batch::default();
        match endpoint.rate.into {
            Some(rate) => batch.shape(index, rate, table::burst(rate), SHAPER_DELAY_MS),
            None => batch.unshape(index),
        }
        match self.send_refusable(&batch)? {
            // It had none.
            Err(refused)
                if endpoint.rate.into.is_none()
                    && matches!(errno(&refused), Some(Errno::NOENT | Errno::INVAL)) => {}
            answer => self.checked(&operation, answer)?,
        }
        self.limit(&operation, endpoint)
    }

    /// Forgets what an endpoint might send at most, which is not kept with its link; harmless when it has no limit.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unlimit(&mut self, link: &str) -> Result<(), Error> {
        let operation = format!("limit {link:?} no more");
        self.delete_elements(&operation, table::FRAMES, vec![table::rate_key(link)])
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
        self.or_detach(
            endpoint,
            Err(match is_full {
                true => Error::BridgeFull {
                    operation: operation.to_owned(),
                    bridge: endpoint.bridge.clone(),
                },
                false => error,
            }),
        )
    }

    fn or_detach<T>(&mut self, endpoint: &Endpoint, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            // The first error says more than one while cleaning up.
            let _ = self.detach(&endpoint.link);
        }
        result
    }

    /// The first port of a bridge is its carrier. The kernel may take a second to notice, and the host has no IPv6 on
    /// the bridge till then: the first thing that an instance says to its gateway would be lost.
    fn settle(&mut self, operation: &str, endpoint: &Endpoint, bridge: u32) -> Result<(), Error> {
        if !endpoint.addresses.iter().any(|net| net.addr().is_ipv6()) {
            return Ok(());
        }
        let port = self.need(&endpoint.link, operation)?;
        let mut batch = Batch::default();
        batch.settle_link(port);
        batch.settle_link(bridge);
        self.send(operation, &batch)
    }

    /// What a port needs only on some bridges, on some hosts, and for some endpoints.
    ///
    /// Where frames in bridges pass the host's IP rules, what an instance sends to a port of its own by way of the
    /// host's address is turned round within the bridge, and has to go back to where it came from.
    pub(super) fn treat_port(&mut self, operation: &str, endpoint: &Endpoint) -> Result<(), Error> {
        let is_hairpin = settings::bridges_are_filtered();
        let mut batch = Batch::default();
        if is_hairpin || endpoint.is_isolated || endpoint.rate.into.is_some() {
            let index = self.need(&endpoint.link, operation)?;
            batch.change_bridge_port(index, is_hairpin, endpoint.is_isolated);
            if let Some(rate) = endpoint.rate.into {
                batch.shape(index, rate, table::burst(rate), SHAPER_DELAY_MS);
            }
        }
        self.send(operation, &batch)?;
        match endpoint.rate.out_of {
            Some(_) => self.limit(operation, endpoint),
            None => Ok(()),
        }
    }
}

fn connecting(endpoint: &Endpoint) -> String {
    format!(
        "connect {:?} to bridge {:?}",
        endpoint.link, endpoint.bridge
    )
}

/// A link becomes a port of a bridge, and goes up. It has no address of its own.
pub(super) fn port(batch: &mut Batch, endpoint: &Endpoint, master: u32) {
    batch.change_link(&Link {
        name: Some(&endpoint.link),
        is_up: Some(true),
        mtu: endpoint.mtu,
        master: Some(master),
        is_without_link_local: true,
        ..Link::default()
    });
}
