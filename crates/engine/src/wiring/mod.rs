//! The networks of one instance while it runs: rows first ([`rows`]), then links and rules made from
//! them.
//!
//! ```text
//!  rows::take ──> Plan ──> Wiring::wire: bridges, published ports, the keeper of names
//!                            │
//!                            ├── Backend::start ──> Wiring::attach (a namespace) or Wiring::taps
//!                            │
//!  rows::give_back <──── Wiring::unwire: links and elements gone
//! ```

pub(crate) mod rows;

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use isle_dataplane::{Bridge, Dataplane, Endpoint, Error};
use isle_netd::{AttachError, Attachment, Home, Notice};
use isle_network::wanted::{self, bridge, endpoint, gateway, guard};
use isle_network::{Driver, Link, Publication};
use isle_sys::tun::Offloads;

use crate::Paths;
use crate::backend::{StartError, chain, failed};
use crate::state::Connected;
use isle_machine::programs;
use rows::{Plan, Port};

/// What taps of virtual machines can do: checksums and segmentation are left to who does them best.
const OFFLOADS: Offloads = Offloads { has_header: true };

/// How a virtual machine came to a tap, see [`Wiring::connect_tap`].
#[derive(Debug)]
pub(crate) enum Parked {
    /// The card has had it.
    Taken,
    /// It is to be plugged in.
    New(OwnedFd),
}

/// The networks of one instance, on the side of the kernel.
#[derive(Debug)]
pub(crate) struct Wiring {
    paths: Paths,
    instance: String,
    /// `--dns`
    servers: Vec<IpAddr>,
    /// There when it is needed first: most of the time it is not.
    dataplane: Option<Dataplane>,
    plan: Plan,
    /// While it is on a network.
    keeper: Option<Attachment>,
    /// Links that are parked and do not go by themselves when their descriptor is closed.
    parked: Vec<String>,
}

impl Wiring {
    /// That of an instance below a root, which is connected to nothing yet.
    pub(crate) fn new(paths: &Paths, instance: &str, servers: &[IpAddr]) -> Wiring {
        Wiring {
            paths: paths.clone(),
            instance: instance.to_owned(),
            servers: servers.to_vec(),
            dataplane: None,
            plan: Plan::default(),
            keeper: None,
            parked: Vec::new(),
        }
    }

    /// Its places on its networks, in the order of the interfaces.
    pub(crate) fn links(&self) -> &[Link] {
        &self.plan.links
    }

    /// For the state: what it is connected to.
    pub(crate) fn connected(&self) -> Vec<Connected> {
        self.plan.links.iter().map(connected).collect()
    }

    /// For the state: the ports that lead to it.
    pub(crate) fn ports(&self) -> Vec<Publication> {
        let ports = self.plan.ports.iter();
        ports.map(|port| port.publication.clone()).collect()
    }

    fn dataplane(&mut self) -> &mut Dataplane {
        let root = &self.paths.root;
        self.dataplane
            .get_or_insert_with(|| Dataplane::new(wanted::realm(root)))
    }

    /// The keeper of names and rules, while there is one to look after the instance.
    pub(crate) fn keeper(&self) -> Option<&Attachment> {
        self.keeper.as_ref()
    }

    /// What it tells; when it has gone, another one is found or started.
    pub(crate) fn tend_keeper(&mut self) -> Vec<Notice> {
        let keeper = self.keeper.as_mut();
        keeper.map(Attachment::tend).unwrap_or_default()
    }

    /// Begins to be looked after; [`Attachment::wait`] tells when it is known everywhere.
    fn begin_keeping(&mut self) -> Result<(), AttachError> {
        let home = Home {
            root: self.paths.root.clone(),
            run: self.paths.run.clone(),
            program: programs::find("isle-netd"),
        };
        let instance = self.instance.clone();
        self.keeper = Some(Attachment::begin(home, instance, self.servers.clone())?);
        Ok(())
    }

    fn wait_for_keeper(&mut self) -> Result<(), AttachError> {
        self.keeper.as_mut().map_or(Ok(()), Attachment::wait)
    }

    /// What is to be cleaned up after somebody else is connected like this.
    pub(crate) fn take_up(&mut self, plan: Plan) {
        self.plan = plan;
    }

    /// What runs already is connected like this.
    ///
    /// # Errors
    /// When there is no keeper to be had: the instance goes on without names.
    pub(crate) fn adopt(&mut self, plan: Plan) -> Result<(), StartError> {
        self.plan = plan;
        if self.plan.links.is_empty() {
            return Ok(());
        }
        self.begin_keeping().map_err(|error| no_keeper(&error))
    }

    /// Makes bridges, and leads ports to where the instance will be.
    ///
    /// # Errors
    /// When the kernel refuses; what was made is to be taken away by [`Wiring::unwire`].
    pub(crate) fn wire(&mut self, plan: Plan) -> Result<(), StartError> {
        self.plan = plan;
        if self.plan.links.is_empty() {
            return Ok(());
        }
        let links = &self.plan.links;
        let bridges: Vec<_> = links.iter().filter_map(|l| bridge(&l.network)).collect();
        let guards: Vec<_> = links.iter().filter_map(guard).collect();
        let published = published(&self.plan.ports, links);
        let dataplane = self.dataplane();
        for bridge in &bridges {
            dataplane
                .ensure_bridge(bridge)
                .map_err(failed("cannot make the network"))?;
        }
        // It binds the bridges' addresses while the rest is done.
        self.begin_keeping().map_err(|error| no_keeper(&error))?;
        let dataplane = self.dataplane();
        for guard in &guards {
            dataplane
                .guard(guard)
                .map_err(failed("cannot enforce --egress"))?;
        }
        if !published.is_empty() {
            dataplane
                .publish(&published)
                .map_err(failed("cannot publish the ports"))?;
        }
        Ok(())
    }

    /// Waits until the instance's names are known. Only then may it start.
    pub(crate) fn wait_until_known(&mut self) -> Result<(), StartError> {
        self.wait_for_keeper().map_err(|error| no_keeper(&error))
    }

    /// Gives a network namespace, in which nothing runs yet, its interfaces.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn attach(&mut self, namespace: BorrowedFd<'_>) -> Result<(), StartError> {
        for number in 0..self.plan.links.len() {
            self.attach_one(number, namespace)
                .map_err(failed("cannot connect to the network"))?;
        }
        self.wait_until_known()
    }

    fn attach_one(&mut self, number: usize, namespace: BorrowedFd<'_>) -> Result<(), Error> {
        let link = &self.plan.links[number];
        let endpoint = endpoint(link, &self.plan.links);
        match link.network.spec.driver.clone() {
            Driver::Bridge => self.dataplane().attach_namespace(&endpoint, namespace),
            Driver::Macvlan { parent, mode } => {
                self.dataplane()
                    .attach_macvlan(&parent, mode.into(), &endpoint, namespace)
            }
        }
    }

    /// One tap a network, in order, for the cards of a virtual machine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn taps(&mut self) -> Result<Vec<OwnedFd>, StartError> {
        (0..self.plan.links.len())
            .map(|number| self.tap(number))
            .collect::<Result<_, _>>()
            .map_err(failed("cannot connect to the network"))
    }

    fn tap(&mut self, number: usize) -> Result<OwnedFd, Error> {
        let link = &self.plan.links[number];
        let endpoint = endpoint(link, &self.plan.links);
        match link.network.spec.driver.clone() {
            Driver::Bridge => self.dataplane().attach_tap(&endpoint, OFFLOADS),
            Driver::Macvlan { parent, mode } => {
                self.dataplane()
                    .attach_macvtap(&parent, mode.into(), &endpoint)
            }
        }
    }

    /// Connects a virtual machine that runs to one network more: by the tap of that name that one of its cards has and that is
    /// parked, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn connect_tap(
        &mut self,
        link: Link,
        parked: &str,
    ) -> Result<(Endpoint, Parked), StartError> {
        let cannot = || failed("cannot connect to the network");
        let (bridge, guard) = (bridge(&link.network), guard(&link));
        self.plan.links.push(link);
        let number = self.plan.links.len() - 1;
        let links = &self.plan.links;
        let endpoint = endpoint(&links[number], links);
        let result = (|| {
            let dataplane = self.dataplane();
            if let Some(bridge) = &bridge {
                dataplane.ensure_bridge(bridge).map_err(cannot())?;
                if let Some(guard) = &guard {
                    dataplane.guard(guard).map_err(cannot())?;
                }
                let is_parked = dataplane.attach_parked(parked, &endpoint);
                if is_parked.map_err(cannot())? {
                    return Ok(Parked::Taken);
                }
            } else if dataplane.has_link(parked).map_err(cannot())? {
                return Err(StartError {
                    message: format!(
                        "cannot connect {} to a macvlan network while the machine runs: it began on a bridge, and has \
                         that network card until it ends; stop the instance, connect it, start it",
                        endpoint.interface
                    ),
                    exit_code: 125,
                });
            }
            self.tap(number).map(Parked::New).map_err(cannot())
        })();
        match result {
            Ok(found) => Ok((endpoint, found)),
            Err(error) => {
                let link = self.plan.links.pop().expect("pushed above");
                let _ = self.detach(&link);
                Err(error)
            }
        }
    }

    /// Takes a tap that QEMU keeps off a network, and gives it that name until it is needed again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn park(&mut self, network: &str, parked: &str) -> io::Result<()> {
        let mut links = self.plan.links.iter();
        let Some(position) = links.position(|link| link.network.id == network) else {
            return Ok(());
        };
        let name = self.plan.links[position].endpoint.link();
        let dataplane = self.dataplane();
        dataplane.park(&name, parked).map_err(io::Error::other)?;
        let link = self.plan.links.remove(position);
        if let Driver::Macvlan { .. } = link.network.spec.driver {
            self.parked.push(parked.to_owned());
        }
        // The link has gone: what else there is of it goes too.
        self.detach(&link).map_err(io::Error::other)
    }

    /// Connects what runs to one network more. What it runs in is asked for its namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn connect(
        &mut self,
        link: Link,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), StartError> {
        let (bridge, guard) = (bridge(&link.network), guard(&link));
        self.plan.links.push(link);
        let number = self.plan.links.len() - 1;
        let result = (|| {
            let dataplane = self.dataplane();
            if let Some(bridge) = &bridge {
                dataplane.ensure_bridge(bridge)?;
            }
            if let Some(guard) = &guard {
                dataplane.guard(guard)?;
            }
            self.attach_one(number, namespace)
        })();
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                let link = self.plan.links.pop().expect("pushed above");
                let _ = self.detach(&link);
                Err(failed("cannot connect to the network")(error))
            }
        }
    }

    /// Takes the link to one network away; `None` when there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn disconnect(&mut self, network: &str) -> io::Result<Option<Link>> {
        let position = self
            .plan
            .links
            .iter()
            .position(|link| link.network.id == network);
        let Some(position) = position else {
            return Ok(None);
        };
        let link = self.plan.links.remove(position);
        self.detach(&link).map_err(io::Error::other)?;
        Ok(Some(link))
    }

    /// Takes the link to one network away, and what is left of it inside; leads what runs there out by another one if
    /// that was its way out.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn disconnect_from(
        &mut self,
        network: &str,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let Some(gone) = self.disconnect(network)? else {
            return Ok(());
        };
        if let Driver::Macvlan { .. } = gone.network.spec.driver {
            let interface = &gone.endpoint.interface;
            let done = self.dataplane().detach_macvlan(interface, namespace);
            done.map_err(io::Error::other)?;
        }
        let links = &self.plan.links;
        let endpoints: Vec<_> = links.iter().map(|link| endpoint(link, links)).collect();
        for endpoint in endpoints.iter().filter(|e| !e.gateways.is_empty()) {
            let done = self.dataplane().lead_out(endpoint, namespace);
            done.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// The place on a network whose link on the host, of this name, is gone: to be connected again.
    pub(crate) fn take_lost(&mut self, name: &str) -> Option<Link> {
        let mut links = self.plan.links.iter();
        let position = links.position(|link| link.endpoint.link() == name)?;
        Some(self.plan.links.remove(position))
    }

    /// It could not be.
    pub(crate) fn put_back(&mut self, link: Link) {
        self.plan.links.push(link);
    }

    /// Whether there is anything that [`Wiring::unwire`] would take away.
    pub(crate) fn is_anything(&self) -> bool {
        let plan = &self.plan;
        let is_wired = !plan.links.is_empty() || !plan.ports.is_empty();
        is_wired || self.keeper.is_some() || !self.parked.is_empty()
    }

    fn detach(&mut self, link: &Link) -> Result<(), Error> {
        let name = link.endpoint.link();
        let guard = guard(link);
        let dataplane = self.dataplane();
        dataplane.detach(&name)?;
        match guard {
            Some(guard) => dataplane.unguard(&guard),
            None => Ok(()),
        }
    }

    /// The rows are others now: whoever answers names is told. A keeper that cannot be told finds out later.
    pub(crate) fn changed(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            let _ = keeper.changed();
        }
    }

    /// Leads further ports to it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn publish(&mut self, ports: Vec<Port>) -> Result<(), Error> {
        let published = published(&ports, &self.plan.links);
        self.dataplane().publish(&published)?;
        self.plan.ports.extend(ports);
        Ok(())
    }

    /// Leads ports to it no more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn unpublish(&mut self, ports: &[Publication]) -> Result<(), Error> {
        let (gone, kept) = std::mem::take(&mut self.plan.ports)
            .into_iter()
            .partition(|port| ports.contains(&port.publication));
        self.plan.ports = kept;
        let gone: Vec<Port> = gone;
        let published = published(&gone, &self.plan.links);
        self.dataplane().unpublish(&published)
    }

    /// Takes everything away. Harmless when it is gone already.
    ///
    /// # Errors
    /// The first thing that could not be taken away; the others are tried all the same.
    pub(crate) fn unwire(&mut self) -> io::Result<()> {
        let plan = std::mem::take(&mut self.plan);
        let mut first = Ok(());
        let published = published(&plan.ports, &plan.links);
        if !published.is_empty() {
            first = first.and(self.dataplane().unpublish(&published));
        }
        for link in &plan.links {
            first = first.and(self.detach(link));
        }
        for link in std::mem::take(&mut self.parked) {
            first = first.and(self.dataplane().detach(&link));
        }
        first.map_err(io::Error::other)
    }

    /// Nobody needs to look after it any more. The rows are given back before, so that its ports are let go of at
    /// once.
    pub(crate) fn part(&mut self) {
        self.changed();
        self.keeper = None;
    }

    /// What can be had again need not be kept in memory.
    pub(crate) fn rest(&mut self) {
        self.dataplane = None;
    }
}

/// Takes the bridge of a network away that nobody is on.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn remove_bridge(paths: &Paths, bridge: &Bridge) -> io::Result<()> {
    let remove = || {
        Dataplane::new(wanted::realm(&paths.root))
            .remove_bridge(bridge)
            .map_err(io::Error::other)
    };
    // Where there is no network yet, there is no bridge.
    isle_rootless::with_network(remove)?.unwrap_or(Ok(()))
}

fn published(ports: &[Port], links: &[Link]) -> Vec<isle_dataplane::Publication> {
    wanted::published(ports.iter().map(|port| &port.publication), links)
}

fn no_keeper(error: &AttachError) -> StartError {
    let mut message = format!("cannot connect to the network: {}", chain(error));
    if let Some(hint) = error.hint() {
        message.push_str("; ");
        message.push_str(hint);
    }
    StartError {
        message,
        exit_code: 125,
    }
}

pub(crate) fn connected(link: &Link) -> Connected {
    let Link { network, endpoint } = link;
    Connected {
        network_id: network.id.clone(),
        network: network.name.clone(),
        endpoint_id: endpoint.id.clone(),
        interface: endpoint.interface.clone(),
        mac: endpoint.mac,
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        gateway: gateway(network, false),
        ipv6_gateway: gateway(network, true),
        names: endpoint.names.clone(),
    }
}
