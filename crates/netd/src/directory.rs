//! Who is on which network, as the rows say: what names are answered from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isle_dataplane::Wanted;
use isle_network::{Egress, Endpoint, Link, Network, Publication, wanted};

use crate::loopback::{self, Port, Targets};

/// A network, as long as this process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NetworkKey(u32);

/// The rows, by what is asked.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    keys: BTreeMap<String, NetworkKey>,
    networks: BTreeMap<NetworkKey, OnNetwork>,
    /// The networks of an instance, in the order of its interfaces.
    instances: BTreeMap<String, Vec<NetworkKey>>,
    /// The published ports of an instance, if there are any.
    publications: BTreeMap<String, Vec<Publication>>,
    next: u32,
}

/// A network and who is on it.
#[derive(Debug)]
struct OnNetwork {
    network: Network,
    /// By instance.
    endpoints: BTreeMap<String, Endpoint>,
    by_address: BTreeMap<IpAddr, String>,
    /// Names are in lower case.
    by_name: BTreeMap<String, BTreeSet<String>>,
}

impl OnNetwork {
    fn new(network: Network) -> OnNetwork {
        OnNetwork {
            network,
            endpoints: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_name: BTreeMap::new(),
        }
    }

    fn insert(&mut self, endpoint: Endpoint) {
        for address in endpoint.addresses() {
            self.by_address
                .insert(address.addr(), endpoint.instance.clone());
        }
        for name in &endpoint.names {
            let instances = self.by_name.entry(name.to_ascii_lowercase()).or_default();
            instances.insert(endpoint.instance.clone());
        }
        self.endpoints.insert(endpoint.instance.clone(), endpoint);
    }

    fn remove(&mut self, instance: &str) {
        let Some(endpoint) = self.endpoints.remove(instance) else {
            return;
        };
        for address in endpoint.addresses() {
            // Somebody else may have it already.
            if self
                .by_address
                .get(&address.addr())
                .is_some_and(|owner| owner == instance)
            {
                self.by_address.remove(&address.addr());
            }
        }
        for name in &endpoint.names {
            let name = name.to_ascii_lowercase();
            if let Some(instances) = self.by_name.get_mut(&name) {
                instances.remove(instance);
                if instances.is_empty() {
                    self.by_name.remove(&name);
                }
            }
        }
    }

    fn at(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.get(self.by_address.get(&address)?)
    }
}

impl Directory {
    /// Begins anew with all rows.
    pub(crate) fn replace(
        &mut self,
        networks: Vec<Network>,
        endpoints: Vec<Endpoint>,
        publications: Vec<(String, Publication)>,
    ) {
        let known: BTreeSet<String> = networks.iter().map(|network| network.id.clone()).collect();
        let gone: Vec<NetworkKey> = self
            .keys
            .iter()
            .filter(|(id, _)| !known.contains(*id))
            .map(|(_, key)| *key)
            .collect();
        self.keys.retain(|id, _| known.contains(id));
        for key in gone {
            self.networks.remove(&key);
        }
        self.instances.clear();
        for network in networks {
            self.put_network(network);
        }
        for on in self.networks.values_mut() {
            *on = OnNetwork::new(on.network.clone());
        }
        for endpoint in endpoints {
            self.insert(endpoint);
        }
        self.publications.clear();
        for (instance, publication) in publications {
            self.publications
                .entry(instance)
                .or_default()
                .push(publication);
        }
    }

    /// Notes a network, new or changed.
    pub(crate) fn put_network(&mut self, network: Network) -> NetworkKey {
        let next = NetworkKey(self.next);
        let key = *self.keys.entry(network.id.clone()).or_insert(next);
        if key == next {
            self.next += 1;
        }
        match self.networks.get_mut(&key) {
            Some(on) => on.network = network,
            None => {
                self.networks.insert(key, OnNetwork::new(network));
            }
        }
        key
    }

    /// Whether a network is known by its id.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.keys.contains_key(id)
    }

    /// Notes what the rows of one instance say now. Their networks are known.
    pub(crate) fn put_instance(
        &mut self,
        instance: &str,
        endpoints: Vec<Endpoint>,
        publications: Vec<Publication>,
    ) {
        match publications.is_empty() {
            true => self.publications.remove(instance),
            false => self.publications.insert(instance.to_owned(), publications),
        };
        for key in self.instances.remove(instance).unwrap_or_default() {
            if let Some(on) = self.networks.get_mut(&key) {
                on.remove(instance);
            }
        }
        for endpoint in endpoints {
            self.insert(endpoint);
        }
    }

    fn insert(&mut self, endpoint: Endpoint) {
        let Some(&key) = self.keys.get(&endpoint.network) else {
            return;
        };
        let of_instance = self.instances.entry(endpoint.instance.clone()).or_default();
        of_instance.push(key);
        if let Some(on) = self.networks.get_mut(&key) {
            on.insert(endpoint);
        }
    }

    /// The networks of an instance.
    pub(crate) fn networks_of_instance(&self, instance: &str) -> &[NetworkKey] {
        self.instances.get(instance).map_or(&[], Vec::as_slice)
    }

    /// Whether somebody is on a network.
    pub(crate) fn is_used(&self, key: NetworkKey) -> bool {
        self.networks
            .get(&key)
            .is_some_and(|on| !on.endpoints.is_empty())
    }

    /// The networks that somebody is on.
    pub(crate) fn used(&self) -> Vec<NetworkKey> {
        self.networks
            .keys()
            .copied()
            .filter(|key| self.is_used(*key))
            .collect()
    }

    /// A network.
    pub(crate) fn network(&self, key: NetworkKey) -> Option<&Network> {
        self.networks.get(&key).map(|on| &on.network)
    }

    /// The places of an instance on its networks, in the order of its interfaces.
    fn links(&self, instance: &str) -> Vec<Link> {
        let networks = self.networks_of_instance(instance).iter();
        let link = |key| {
            let on: &OnNetwork = self.networks.get(key)?;
            Some(Link {
                network: on.network.clone(),
                endpoint: on.endpoints.get(instance)?.clone(),
            })
        };
        networks.filter_map(link).collect()
    }

    /// The instances that have published ports.
    pub(crate) fn publishing(&self) -> Vec<String> {
        self.publications.keys().cloned().collect()
    }

    /// The ports of an instance that are published on `::1` or outside the house, and where they lead.
    pub(crate) fn ports_on_loopback(&self, instance: &str) -> BTreeMap<Port, Targets> {
        match self.publications.get(instance) {
            Some(publications) => {
                let is_in_house = isle_rootless::house().is_some();
                loopback::ports(&self.links(instance), publications, is_in_house)
            }
            None => BTreeMap::new(),
        }
    }

    /// Whether an instance is on some network.
    pub(crate) fn has(&self, instance: &str) -> bool {
        self.instances.contains_key(instance)
    }

    /// All addresses of an instance.
    pub(crate) fn addresses_of(&self, instance: &str) -> Vec<IpAddr> {
        let networks = self.networks_of_instance(instance).iter();
        let endpoints = networks.filter_map(|key| self.networks.get(key)?.endpoints.get(instance));
        let addresses = endpoints.flat_map(Endpoint::addresses);
        addresses.map(|net| net.addr()).collect()
    }

    /// The instance that has an address on some network.
    pub(crate) fn instance_at(&self, address: IpAddr) -> Option<&str> {
        let mut networks = self.networks.values();
        networks
            .find_map(|on| on.by_address.get(&address))
            .map(String::as_str)
    }

    /// The instance that has a link of this name on the host.
    pub(crate) fn instance_with_link(&self, link: &str) -> Option<&str> {
        let endpoints = self.networks.values().flat_map(|on| on.endpoints.values());
        let mut found = endpoints.filter(|endpoint| endpoint.link() == link);
        found.next().map(|endpoint| endpoint.instance.as_str())
    }

    /// Whether a link of the host should be there: the bridge of a network that somebody is on, or the link of one who
    /// is on it.
    pub(crate) fn has_link(&self, link: &str) -> bool {
        let mut used = self.networks.values().filter(|on| !on.endpoints.is_empty());
        used.any(|on| on.network.link == link) || self.instance_with_link(link).is_some()
    }

    /// What the kernel should have.
    pub(crate) fn wanted(&self) -> Wanted {
        let used = self.networks.values().filter(|on| !on.endpoints.is_empty());
        let mut wanted = Wanted {
            bridges: used.filter_map(|on| wanted::bridge(&on.network)).collect(),
            ..Wanted::default()
        };
        for instance in self.instances.keys() {
            let links = self.links(instance);
            for link in &links {
                if wanted::bridge(&link.network).is_some() {
                    wanted.endpoints.push(wanted::endpoint(link, &links));
                    wanted.guards.extend(wanted::guard(link));
                }
            }
            let publications = self.publications.get(instance).into_iter().flatten();
            wanted
                .publications
                .extend(wanted::published(publications, &links));
        }
        wanted
    }

    /// Who has an address in a network.
    pub(crate) fn endpoint(&self, key: NetworkKey, address: IpAddr) -> Option<&Endpoint> {
        self.networks.get(&key)?.at(address)
    }
}

impl isle_resolver::Directory for Directory {
    type Network = NetworkKey;

    fn networks_of(&self, network: NetworkKey, source: IpAddr) -> Option<Vec<NetworkKey>> {
        let endpoint = self.endpoint(network, source)?;
        Some(self.networks_of_instance(&endpoint.instance).to_vec())
    }

    /// A policy that lists destinations lets those of its names be asked for, and no other: a name that is asked for
    /// is a message to whoever answers it.
    fn may_ask_outside(&self, network: NetworkKey, source: IpAddr, name: Option<&str>) -> bool {
        let Some(endpoint) = self.endpoint(network, source) else {
            return false;
        };
        let is_listed = match &endpoint.egress {
            Egress::Allow => true,
            Egress::Deny => false,
            Egress::List(list) => {
                name.is_some_and(|name| list.iter().any(|allowed| allowed.to.is_name(name)))
            }
        };
        let networks = self.networks_of_instance(&endpoint.instance);
        let is_open = |key: &NetworkKey| {
            self.network(*key)
                .is_some_and(|network| !network.spec.internal)
        };
        is_listed && networks.iter().any(is_open)
    }

    fn network_name(&self, network: NetworkKey) -> &str {
        self.network(network).map_or("", |network| &network.name)
    }

    fn addresses(&self, network: NetworkKey, name: &str) -> Option<Vec<IpAddr>> {
        let on = self.networks.get(&network)?;
        let instances = on.by_name.get(name)?;
        let endpoints = instances
            .iter()
            .filter_map(|instance| on.endpoints.get(instance));
        Some(
            endpoints
                .flat_map(|endpoint| endpoint.addresses().map(|net| net.addr()))
                .collect(),
        )
    }

    fn name_of(&self, network: NetworkKey, address: IpAddr) -> Option<&str> {
        self.endpoint(network, address)?
            .names
            .first()
            .map(String::as_str)
    }

    fn covers(&self, network: NetworkKey, address: IpAddr) -> bool {
        let subnets = self
            .network(network)
            .into_iter()
            .flat_map(|network| &network.spec.subnets);
        subnets
            .into_iter()
            .any(|subnet| subnet.subnet.contains(&address))
    }
}
