//! Which networks and ports an instance has, by the rows.

use std::os::fd::OwnedFd;

use isle_database::Database;
use isle_network::{HostPort, Join, Link, Network, NetworkError, Publication, Publish, host};

use crate::Unpublish;
use crate::config::NetworkAttachment;
use crate::state::Instance;
use crate::store::NewEvent;

/// A published port, and what keeps others from it.
#[derive(Debug)]
pub(crate) struct Port {
    /// Which.
    pub(crate) publication: Publication,
    /// As [`host::hold`], as long as this lives.
    _held: Vec<OwnedFd>,
}

/// The networks and ports of a run.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In the order of the interfaces.
    pub(crate) links: Vec<Link>,
    /// In the order they were asked for.
    pub(crate) ports: Vec<Port>,
}

/// What an instance asks for on its `number`th network.
pub(crate) fn join(instance: &Instance, attachment: &NetworkAttachment, number: usize) -> Join {
    let own = [instance.name.to_string(), instance.id.short()];
    let mut names: Vec<String> = Vec::new();
    for name in own.into_iter().chain(attachment.aliases.iter().cloned()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Join {
        network: attachment.network.clone(),
        interface: format!("eth{number}"),
        ipv4: attachment.ipv4,
        ipv6: attachment.ipv6,
        mac: attachment.mac,
        names,
        egress: instance.config.egress.clone(),
        rate: instance.config.net_rate,
    }
}

/// The ports that an instance asks for: `--publish`, and with `--publish-all` what is exposed and not
/// published otherwise.
fn wanted(instance: &Instance) -> Vec<Publish> {
    let config = &instance.config;
    let mut wanted = config.publish.clone();
    if config.publish_all {
        for exposed in &config.exposed_ports {
            let (port, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
            let (Ok(port), Ok(protocol)) = (port.parse(), protocol.parse()) else {
                continue;
            };
            if !config
                .publish
                .iter()
                .any(|publish| (publish.port, publish.protocol) == (port, protocol))
            {
                wanted.push(Publish {
                    protocol,
                    port,
                    host: None,
                    host_port: HostPort::Any,
                });
            }
        }
    }
    wanted
}

/// Takes addresses and ports for a run. What an earlier run has left of them is given back first.
///
/// # Errors
/// When one of them is not to be had; then none is taken.
pub(crate) fn take(database: &Database, instance: &Instance) -> Result<Plan, NetworkError> {
    let attachments = instance.config.network.attachments();
    if attachments.is_empty() {
        return Ok(Plan::default());
    }
    let id = instance.id.to_string();
    database.write(|transaction| {
        isle_network::release(transaction, &id)?;
        isle_network::unpublish(transaction, &id, None)?;
        let links = attachments
            .iter()
            .enumerate()
            .map(|(number, attachment)| {
                let wanted = join(instance, attachment, number);
                let (network, endpoint) = isle_network::join(transaction, &id, &wanted)?;
                Ok(Link { network, endpoint })
            })
            .collect::<Result<_, NetworkError>>()?;
        let published = isle_network::publish(transaction, &id, &wanted(instance))?;
        let ports = published
            .into_iter()
            .map(|(publication, _held)| Port { publication, _held })
            .collect();
        Ok(Plan { links, ports })
    })
}

/// What an instance has that runs already. A port that somebody else has got hold of meanwhile stays
/// published.
///
/// # Errors
/// When the state file cannot be read.
pub(crate) fn taken(database: &Database, id: &str) -> Result<Plan, NetworkError> {
    let networks = isle_network::list(database)?;
    let links = isle_network::held_endpoints(database, id)?
        .into_iter()
        .filter_map(|endpoint| {
            let network = networks.iter().find(|n| n.id == endpoint.network)?;
            Some(Link {
                network: network.clone(),
                endpoint,
            })
        })
        .collect();
    let ports = isle_network::held_publications(database, id)?
        .into_iter()
        .map(|publication| Port {
            _held: host::hold(&publication).unwrap_or_default(),
            publication,
        })
        .collect();
    Ok(Plan { links, ports })
}

/// Takes an address on one network more for what runs.
///
/// # Errors
/// When none is to be had.
pub(crate) fn take_one(
    database: &Database,
    instance: &Instance,
    attachment: &NetworkAttachment,
    interface: String,
) -> Result<Link, NetworkError> {
    let wanted = Join {
        interface,
        ..join(instance, attachment, 0)
    };
    database.write(|transaction| {
        let id = instance.id.to_string();
        let (network, endpoint) = isle_network::join(transaction, &id, &wanted)?;
        Ok(Link { network, endpoint })
    })
}

/// Takes ports of the host for what runs.
///
/// # Errors
/// When one of them is not to be had; then none is taken.
pub(crate) fn take_ports(
    database: &Database,
    id: &str,
    wanted: &[Publish],
) -> Result<Vec<Port>, NetworkError> {
    let published = database.write(|transaction| isle_network::publish(transaction, id, wanted))?;
    Ok(published
        .into_iter()
        .map(|(publication, _held)| Port { publication, _held })
        .collect())
}

/// Says that what a run has taken is being taken away: nobody is to make it again.
///
/// # Errors
/// When the state file cannot be written.
pub(crate) fn leave(
    database: &Database,
    id: &str,
    network: Option<&str>,
) -> Result<(), NetworkError> {
    database.write(|transaction| isle_network::leave(transaction, id, network))
}

/// Gives back what a run has taken, after its links are gone. One that `is_gone` never comes back for its
/// addresses.
///
/// # Errors
/// When the state file cannot be written.
pub(crate) fn give_back(database: &Database, id: &str, is_gone: bool) -> Result<(), NetworkError> {
    database.write(|transaction| {
        isle_network::unpublish(transaction, id, None)?;
        match is_gone {
            true => isle_network::forget(transaction, id, None),
            false => isle_network::release(transaction, id),
        }
    })
}

/// What happened to a network, with the instance that it happened by.
pub(crate) fn network_event(network: &Network, action: &str, instance: Option<String>) -> NewEvent {
    let event = NewEvent {
        kind: "network",
        action: action.to_owned(),
        id: network.id.clone(),
        attributes: Default::default(),
    };
    let event = event
        .with("name", &network.name)
        .with("type", network.spec.driver.name());
    match instance {
        Some(instance) => event.with("container", instance),
        None => event,
    }
}

/// Whether a wish is one that is to be given up.
pub(crate) fn is_meant(gone: &Unpublish, publish: &Publish) -> bool {
    let is_port = match (gone.host_port, publish.host_port) {
        (None, _) => true,
        (Some(port), HostPort::Within(first, last)) => (first..=last).contains(&port),
        (Some(_), HostPort::Any) => false,
    };
    is_port
        && (gone.protocol, gone.port) == (publish.protocol, publish.port)
        && (gone.host.is_none() || gone.host == publish.host)
}

/// Whether a port is one that is to be given up.
pub(crate) fn is_bound(gone: &Unpublish, bound: &Publication) -> bool {
    (gone.protocol, gone.port) == (bound.protocol, bound.port)
        && gone.host_port.is_none_or(|port| port == bound.host_port)
        && (gone.host.is_none() || gone.host == bound.host)
}
