//! What can be wrong with a network.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a network, an address or a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// SQLite failed.
    #[error("cannot use the state file")]
    Sqlite(#[from] rusqlite::Error),
    /// The host did not tell.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A row does not hold what this version wrote.
    #[error("the row of network {id} has a broken {column} column")]
    BrokenRow {
        /// Whose row.
        id: String,
        /// Which column.
        column: &'static str,
    },
    /// There is none of this name or id.
    #[error("no such network: {name}")]
    NoSuchNetwork {
        /// What was asked for.
        name: String,
        /// One that is spelled nearly so.
        nearest: Option<String>,
    },
    /// Several ids begin so.
    #[error("{prefix:?} fits several networks")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
    },
    /// A name that cannot be one.
    #[error("{name:?} is not a name for a network: {reason}")]
    BadName {
        /// What was asked for.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// There is one of this name.
    #[error("network {name} exists already, its id is {id}")]
    NameInUse {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// Addresses that cannot be a network's.
    #[error("{value} cannot be used: {reason}")]
    BadAddress {
        /// What was given.
        value: String,
        /// Why not.
        reason: String,
    },
    /// Addresses that are somebody's.
    #[error("subnet {subnet} overlaps with {other}")]
    Overlap {
        /// What was asked for.
        subnet: IpNet,
        /// Whose they are, like `10.1.0.0/16 of network "db"`.
        other: String,
    },
    /// No subnet is left to choose.
    #[error("no subnet is free: all that are chosen from belong to networks or to the host")]
    NoSubnetLeft,
    /// No address is left.
    #[error("network {network} has no free address left in {range}")]
    Exhausted {
        /// Its name.
        network: String,
        /// Where one was looked for.
        range: IpNet,
    },
    /// The address is another's.
    #[error("address {address} of network {network} belongs to {owner}")]
    AddressInUse {
        /// Which.
        address: IpAddr,
        /// Its name.
        network: String,
        /// An instance's id, or what else it is.
        owner: String,
    },
    /// An address outside of its network.
    #[error("network {network} has no address {address}: {reason}")]
    NotInSubnet {
        /// Which.
        address: IpAddr,
        /// Its name.
        network: String,
        /// Why not.
        reason: String,
    },
    /// Instances are on it.
    #[error("network {network} has active endpoints: {}", instances.join(", "))]
    InUse {
        /// Its name.
        network: String,
        /// The instances' ids.
        instances: Vec<String>,
    },
    /// The instance is on it.
    #[error("instance {instance} is connected to network {network} already")]
    AlreadyConnected {
        /// The instance's id.
        instance: String,
        /// Its name.
        network: String,
    },
    /// A network that is always there.
    #[error("network {name} is one of those that every host has, and cannot be {verb}")]
    Predefined {
        /// Its name.
        name: String,
        /// `created`, `removed`.
        verb: &'static str,
    },
    /// The port is another instance's.
    #[error("port {host_port}/{protocol}{} of the host is published by instance {owner} already", on(*host))]
    PortInUse {
        /// The host's address.
        host: Option<IpAddr>,
        /// The host's port.
        host_port: u16,
        /// Of both.
        protocol: crate::Protocol,
        /// The instance's id.
        owner: String,
    },
    /// The port is that of a program on the host.
    #[error("port {host_port}/{protocol}{} of the host cannot be used", on(*host))]
    PortTaken {
        /// The host's address.
        host: Option<IpAddr>,
        /// The host's port.
        host_port: u16,
        /// Of both.
        protocol: crate::Protocol,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Only the kernel can pass on connections that have several addresses.
    #[error("cannot publish ports of SCTP as an ordinary user")]
    NoSctp,
    /// No port of a range is free.
    #[error("no port from {first} to {last}/{protocol} of the host is free")]
    NoPortLeft {
        /// The first.
        first: u16,
        /// The last.
        last: u16,
        /// Of both.
        protocol: crate::Protocol,
    },
}

fn on(host: Option<IpAddr>) -> String {
    host.map_or_else(String::new, |address| format!(" on {address}"))
}

impl NetworkError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            NetworkError::NoSuchNetwork { nearest, .. } => match nearest {
                Some(nearest) => format!("did you mean {nearest:?}?"),
                None => "`isle network ls` shows those that there are".to_owned(),
            },
            NetworkError::Ambiguous { .. } => "write more digits of the id".to_owned(),
            NetworkError::NameInUse { .. } => {
                "choose another name, or remove that one (`isle network rm`)".to_owned()
            }
            NetworkError::Overlap { .. } => {
                "choose another --subnet, or leave it out to have one chosen".to_owned()
            }
            NetworkError::NoSubnetLeft => {
                "remove networks that are not used (`isle network prune`), or give --subnet"
                    .to_owned()
            }
            NetworkError::Exhausted { .. } => {
                "stop or disconnect an instance, or make a network with a larger --subnet or --ip-range"
                    .to_owned()
            }
            NetworkError::AddressInUse { .. } => "choose another --ip".to_owned(),
            NetworkError::InUse { .. } => {
                "stop the instances, or disconnect them (`isle network disconnect`)".to_owned()
            }
            NetworkError::NoSctp => "publish it as root, or use --network host".to_owned(),
            NetworkError::PortTaken { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                "ordinary users have ports from net.ipv4.ip_unprivileged_port_start on: choose one above it, or lower it \
                 with sysctl"
                    .to_owned()
            }
            NetworkError::PortInUse { .. } | NetworkError::PortTaken { .. } => {
                "choose another port of the host, or leave it out (`-p 80`) to have one chosen"
                    .to_owned()
            }
            _ => return None,
        })
    }
}
