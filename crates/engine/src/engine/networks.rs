//! Networks: made, listed, taken away; instances connected to them and ports led to instances.

use std::collections::BTreeSet;
use std::path::PathBuf;

use isle_network::wanted;
use isle_network::{
    Driver, Egress, Endpoint, Network, NetworkError, NewNetwork, Protocol, Publish, Rate,
};
use isle_types::InstanceId;

use super::lifecycle::{PATIENCE, refused, wrong_status};
use super::{Engine, EngineError};
use crate::InstanceLock;
use crate::config::{ConfigError, InstanceConfig, NetworkAttachment, NetworkMode};
use crate::protocol::NetworkChange;
use crate::state::Instance;
use crate::wiring::{self, Wiring, rows};

/// An instance on a network.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its place.
    pub endpoint: Endpoint,
    /// Its name.
    pub name: String,
}

/// A port that is to lead to an instance no more: every host port and address where not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unpublish {
    /// Of both ports.
    pub protocol: Protocol,
    /// The port inside.
    pub port: u16,
    /// The host's port.
    pub host_port: Option<u16>,
    /// The host's address.
    pub host: Option<std::net::IpAddr>,
}

impl Engine {
    /// Makes a network. Its bridge comes to be when the first instance is on it.
    ///
    /// # Errors
    /// When name or addresses are not to be had.
    pub fn create_network(&self, new: &NewNetwork) -> Result<Network, EngineError> {
        if let Driver::Macvlan { parent, .. } = &new.driver
            && !isle_network::host::has_link(parent)
        {
            return Err(EngineError::Network(NetworkError::BadAddress {
                value: format!("parent {parent:?}"),
                reason: "the host has no link of that name".to_owned(),
            }));
        }
        let network = isle_network::create(self.images.database(), new)?;
        self.note_network(&network, "create", None)?;
        Ok(network)
    }

    /// The network of a name, an id or the beginning of one.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_network(&self, name_or_id: &str) -> Result<Network, EngineError> {
        let database = self.images.database();
        Ok(match name_or_id {
            isle_network::DEFAULT | "default" => isle_network::default_network(database)?,
            name => isle_network::find(database, name)?,
        })
    }

    /// All networks, oldest first, the default one among them.
    ///
    /// # Errors
    /// When the state file cannot be used.
    pub fn networks(&self) -> Result<Vec<Network>, EngineError> {
        let database = self.images.database();
        isle_network::default_network(database)?;
        Ok(isle_network::list(database)?)
    }

    /// The instances that are connected to a network at this moment.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn network_members(&self, network: &Network) -> Result<Vec<Member>, EngineError> {
        let endpoints = isle_network::endpoints_on(self.images.database(), &network.id)?;
        let mut members = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let Some(instance) = self.owner_of(&endpoint)? else {
                continue;
            };
            members.push(Member {
                endpoint,
                name: instance.name.to_string(),
            });
        }
        Ok(members)
    }

    /// The instance whose place it is. What one that is gone has left is taken away.
    fn owner_of(&self, endpoint: &Endpoint) -> Result<Option<Instance>, EngineError> {
        let Ok(id) = endpoint.instance.parse::<InstanceId>() else {
            return Ok(None);
        };
        if let Some(instance) = self.store().get(&id)?
            && let Some(instance) = self.put_right(instance)?
            && instance.state.status.is_supervised()
        {
            return Ok(Some(instance));
        }
        // Its supervisor may be at it at this moment.
        let lock = InstanceLock::try_acquire(&self.paths, &id)
            .map_err(EngineError::io("lock", self.paths.instance_run(&id)))?;
        if let Some(lock) = lock {
            let is_gone = self.store().get(&id)?.is_none();
            self.unwire(&endpoint.instance, is_gone)?;
            if is_gone {
                let _ = lock.remove();
            }
        }
        Ok(None)
    }

    /// Takes the links and ports of an instance away that nobody looks after.
    pub(crate) fn unwire(&self, id: &str, is_gone: bool) -> Result<(), EngineError> {
        let database = self.images.database();
        let plan = rows::taken(database, id)?;
        if plan.links.is_empty() && plan.ports.is_empty() {
            return Ok(());
        }
        rows::leave(database, id, None)?;
        let mut wiring = Wiring::new(&self.paths, id, &[]);
        wiring.take_up(plan);
        wiring.unwire().map_err(EngineError::io(
            "take away the networks of",
            PathBuf::from(id),
        ))?;
        Ok(rows::give_back(database, id, is_gone)?)
    }

    /// Takes a network away, and its bridge.
    ///
    /// # Errors
    /// [`NetworkError::InUse`] while an instance is connected to it.
    pub fn remove_network(&self, network: &Network) -> Result<(), EngineError> {
        // What instances that are gone have left does not count.
        let members = self.network_members(network)?;
        if !members.is_empty() {
            return Err(EngineError::Network(NetworkError::InUse {
                network: network.name.clone(),
                instances: members.into_iter().map(|member| member.name).collect(),
            }));
        }
        isle_network::remove(self.images.database(), network)?;
        if let Some(bridge) = wanted::bridge(network) {
            wiring::remove_bridge(&self.paths, &bridge)
                .map_err(EngineError::io("remove the bridge", &bridge.link))?;
        }
        self.note_network(network, "destroy", None)
    }

    /// The ids of the networks that an instance, running or not, names in its configuration, and of the default
    /// one.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn used_networks(&self) -> Result<BTreeSet<String>, EngineError> {
        let default = isle_network::default_network(self.images.database())?;
        let mut used = BTreeSet::from([default.id]);
        for instance in self.store().list()? {
            let attachments = instance.config.network.attachments();
            used.extend(attachments.iter().map(|one| one.network.clone()));
        }
        Ok(used)
    }

    fn note_network(
        &self,
        network: &Network,
        action: &str,
        instance: Option<&InstanceId>,
    ) -> Result<(), EngineError> {
        let event = rows::network_event(network, action, instance.map(ToString::to_string));
        Ok(self.store().record_events(&[event])?)
    }

    /// Connects an instance to a network more; one that runs at once.
    ///
    /// # Errors
    /// When it is on the network already, the address is not to be had, or its level cannot.
    pub fn connect_network(
        &self,
        id: &InstanceId,
        mut attachment: NetworkAttachment,
    ) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        self.resolve(&mut attachment)?;
        let config = connected(&instance, &attachment)?;
        self.change_networks(&instance, &config, &NetworkChange::Connect(attachment))
    }

    /// Takes an instance off a network; one that runs at once.
    ///
    /// # Errors
    /// When it is not on it.
    pub fn disconnect_network(
        &self,
        id: &InstanceId,
        network: &Network,
    ) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        let mut config = instance.config.clone();
        let NetworkMode::Networks(attachments) = &mut config.network else {
            return Err(not_connected(&instance, network));
        };
        let before = attachments.len();
        attachments.retain(|attachment| attachment.network != network.id);
        if attachments.len() == before {
            return Err(not_connected(&instance, network));
        }
        let change = NetworkChange::Disconnect(network.id.clone());
        self.change_networks(&instance, &config, &change)
    }

    /// Leads ports of the host to an instance, or leads them there no more; for one that runs at once.
    ///
    /// # Errors
    /// When a port is not to be had, or was not published; nothing is changed then.
    pub fn change_ports(
        &self,
        id: &InstanceId,
        add: &[Publish],
        remove: &[Unpublish],
    ) -> Result<(), EngineError> {
        let instance = self.current(id)?;
        let mut config = instance.config.clone();
        if config.network.attachments().is_empty() {
            return Err(EngineError::InvalidConfig(ConfigError {
                field: "--publish-add",
                value: instance.name.to_string(),
                reason: "the instance is on no network whose ports could be published".to_owned(),
                hint: Some("connect it first: isle network connect NETWORK INSTANCE"),
            }));
        }
        for gone in remove {
            let before = config.publish.len();
            config
                .publish
                .retain(|publish| !rows::is_meant(gone, publish));
            let is_bound = instance
                .state
                .ports
                .iter()
                .any(|port| rows::is_bound(gone, port));
            if config.publish.len() == before && !is_bound {
                return Err(EngineError::InvalidConfig(ConfigError {
                    field: "--publish-rm",
                    value: format!("{}/{}", gone.port, gone.protocol),
                    reason: "the instance does not publish it".to_owned(),
                    hint: Some("isle port INSTANCE lists what it publishes"),
                }));
            }
        }
        config.publish.extend_from_slice(add);
        let change = NetworkChange::Ports {
            add: add.to_vec(),
            remove: remove.to_vec(),
        };
        self.change_networks(&instance, &config, &change)
    }

    /// An instance that is on networks is found by its new name from now on.
    pub(super) fn rename_on_networks(
        &self,
        instance: &Instance,
        old: &str,
    ) -> Result<(), EngineError> {
        if instance.config.network.attachments().is_empty() {
            return Ok(());
        }
        let id = instance.id.to_string();
        self.images.database().write(|transaction| {
            isle_network::rename(transaction, &id, old, instance.name.as_str())
        })?;
        match instance.state.status.is_supervised() {
            true => self.change_networks(instance, &instance.config, &NetworkChange::Names),
            false => Ok(()),
        }
    }

    fn change_networks(
        &self,
        instance: &Instance,
        config: &InstanceConfig,
        change: &NetworkChange,
    ) -> Result<(), EngineError> {
        let operation = match change {
            NetworkChange::Connect(_) => "connect",
            NetworkChange::Disconnect(_) => "disconnect",
            NetworkChange::Ports { .. } => "change the ports of",
            NetworkChange::Names => "rename",
        };
        if instance.state.status.is_supervised() {
            return self
                .connect(operation, instance)?
                .change_networks(config, change)
                .map_err(|error| refused(operation, instance, error));
        }
        let id = &instance.id;
        // Its supervisor may be cleaning up.
        let lock = InstanceLock::acquire(&self.paths, id, PATIENCE)
            .map_err(EngineError::io("lock", self.paths.instance_run(id)))?;
        if lock.is_none() {
            return Err(wrong_status(operation, instance));
        }
        Ok(self.store().set_config(id, config, &[])?)
    }

    /// The networks that an instance asks for, by their ids.
    pub(super) fn resolve_networks(&self, config: &mut InstanceConfig) -> Result<(), EngineError> {
        let limit = match (&config.egress, config.net_rate == Rate::default()) {
            (Egress::Allow, true) => None,
            (Egress::Allow, false) => Some("--net-rate"),
            (_, _) => Some("--egress"),
        };
        let NetworkMode::Networks(attachments) = &mut config.network else {
            return Ok(());
        };
        for number in 0..attachments.len() {
            let driver = self.resolve(&mut attachments[number])?;
            if let (Some(field), Driver::Macvlan { .. }) = (limit, driver) {
                return Err(EngineError::InvalidConfig(ConfigError {
                    field,
                    value: attachments[number].name.clone(),
                    reason: "what goes over a macvlan network does not pass the host's rules"
                        .to_owned(),
                    hint: Some("use a network of driver bridge, or leave the flag out"),
                }));
            }
            let (before, rest) = attachments.split_at(number);
            if before.iter().any(|other| other.network == rest[0].network) {
                return Err(EngineError::InvalidConfig(ConfigError {
                    field: "--network",
                    value: rest[0].name.clone(),
                    reason: "it is given twice".to_owned(),
                    hint: Some("give each network once"),
                }));
            }
        }
        Ok(())
    }

    fn resolve(&self, attachment: &mut NetworkAttachment) -> Result<Driver, EngineError> {
        let network = self.find_network(&attachment.network)?;
        let asked = [
            attachment.ipv4.map(std::net::IpAddr::V4),
            attachment.ipv6.map(std::net::IpAddr::V6),
        ];
        for address in asked.into_iter().flatten() {
            let not_in = |reason: String| {
                EngineError::Network(NetworkError::NotInSubnet {
                    address,
                    network: network.name.clone(),
                    reason,
                })
            };
            let subnet = network.subnet(address.is_ipv6());
            let subnet = subnet.ok_or_else(|| not_in("it has none of that family".to_owned()))?;
            isle_network::address::check(subnet, address).map_err(not_in)?;
        }
        attachment.network = network.id;
        attachment.name = network.name;
        Ok(network.spec.driver)
    }
}

/// Its configuration with a network more.
fn connected(
    instance: &Instance,
    attachment: &NetworkAttachment,
) -> Result<InstanceConfig, EngineError> {
    let mut config = instance.config.clone();
    let cannot = |reason: &str| {
        EngineError::InvalidConfig(ConfigError {
            field: "network",
            value: attachment.name.clone(),
            reason: reason.to_owned(),
            hint: Some("make the instance anew with --network"),
        })
    };
    match &mut config.network {
        NetworkMode::Networks(attachments) => {
            if attachments.iter().any(|a| a.network == attachment.network) {
                return Err(EngineError::Network(NetworkError::AlreadyConnected {
                    instance: instance.name.to_string(),
                    network: attachment.name.clone(),
                }));
            }
            attachments.push(attachment.clone());
        }
        NetworkMode::None => return Err(cannot("the instance was made with --network none")),
        NetworkMode::Host => return Err(cannot("the instance uses the host's network")),
        NetworkMode::Instance(_) => {
            return Err(cannot("the instance shares the network of another one"));
        }
    }
    Ok(config)
}

fn not_connected(instance: &Instance, network: &Network) -> EngineError {
    EngineError::InvalidConfig(ConfigError {
        field: "network",
        value: network.name.clone(),
        reason: format!("instance {} is not connected to it", instance.name),
        hint: Some("isle inspect shows which networks an instance is on"),
    })
}
