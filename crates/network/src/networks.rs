//! The rows of networks.

use std::collections::BTreeMap;

use ipnet::IpNet;
use isle_database::Database;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::model::{Driver, Network, NewNetwork, Spec, SubnetRequest};
use crate::{NetworkError, address, host, is_name, random};

/// The name of the network that an instance is on that asks for no certain one.
pub const DEFAULT: &str = "bridge";
/// Names that `--network` understands otherwise.
const RESERVED: [&str; 4] = ["host", "none", "default", "container"];
/// The default network's bridge, where that name is free.
const DEFAULT_LINK: &str = "isle0";
/// `IFNAMSIZ` without the final zero.
const LONGEST_LINK: usize = 15;

const COLUMNS: &str = "id, name, created_at, link, spec";

fn read(row: &Row<'_>) -> Result<Network, NetworkError> {
    let id: String = row.get(0)?;
    let broken = |column| NetworkError::BrokenRow {
        id: id.clone(),
        column,
    };
    let spec: String = row.get(4)?;
    let spec: Spec = serde_json::from_str(&spec).map_err(|_| broken("spec"))?;
    let created_at = Timestamp::from_nanosecond(i128::from(row.get::<_, i64>(2)?))
        .map_err(|_| broken("created_at"))?;
    Ok(Network {
        name: row.get(1)?,
        link: row.get(3)?,
        id,
        created_at,
        spec,
    })
}

/// All networks, oldest first. The default one is there once it was used.
///
/// # Errors
/// When the state file cannot be read.
pub fn list(database: &Database) -> Result<Vec<Network>, NetworkError> {
    all(database.connection())
}

fn all(connection: &rusqlite::Connection) -> Result<Vec<Network>, NetworkError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM network ORDER BY created_at, id"
    ))?;
    let mut rows = statement.query([])?;
    let mut networks = Vec::new();
    while let Some(row) = rows.next()? {
        networks.push(read(row)?);
    }
    Ok(networks)
}

fn one(
    connection: &rusqlite::Connection,
    condition: &str,
    value: &str,
) -> Result<Option<Network>, NetworkError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM network WHERE {condition}"))?;
    let mut rows = statement.query([value])?;
    rows.next()?.map(read).transpose()
}

/// The network of a name, an id, or a prefix of an id that fits no other.
///
/// # Errors
/// [`NetworkError::NoSuchNetwork`], [`NetworkError::Ambiguous`].
pub fn find(database: &Database, name_or_id: &str) -> Result<Network, NetworkError> {
    let connection = database.connection();
    if let Some(network) = one(connection, "name = ?1", name_or_id)? {
        return Ok(network);
    }
    if let Some(network) = one(connection, "id = ?1", name_or_id)? {
        return Ok(network);
    }
    let networks = all(connection)?;
    let is_prefix = !name_or_id.is_empty()
        && name_or_id
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut fitting = networks
        .iter()
        .filter(|network| is_prefix && network.id.starts_with(name_or_id));
    match (fitting.next(), fitting.next()) {
        (Some(network), None) => Ok(network.clone()),
        (Some(_), Some(_)) => Err(NetworkError::Ambiguous {
            prefix: name_or_id.to_owned(),
        }),
        (None, _) => {
            let names = networks.iter().map(|network| network.name.as_str());
            Err(NetworkError::NoSuchNetwork {
                name: name_or_id.to_owned(),
                nearest: isle_types::nearest(name_or_id, names).map(str::to_owned),
            })
        }
    }
}

/// The default network; made when it is not there yet.
///
/// # Errors
/// [`NetworkError::NoSubnetLeft`].
pub fn default_network(database: &Database) -> Result<Network, NetworkError> {
    if let Some(network) = one(database.connection(), "name = ?1", DEFAULT)? {
        return Ok(network);
    }
    let is_free = !host::has_link(DEFAULT_LINK);
    let new = NewNetwork {
        name: DEFAULT.to_owned(),
        link: is_free.then(|| DEFAULT_LINK.to_owned()),
        ..NewNetwork::default()
    };
    match insert(database, &new) {
        // Somebody else was faster.
        Err(NetworkError::NameInUse { .. }) => find(database, DEFAULT),
        result => result,
    }
}

/// Makes a network: its row. Subnets that are not given are chosen so that they overlap with nothing
/// that the host has a route to.
///
/// # Errors
/// When the name or the addresses are not to be had.
pub fn create(database: &Database, new: &NewNetwork) -> Result<Network, NetworkError> {
    if new.name == DEFAULT || RESERVED.contains(&new.name.as_str()) {
        return Err(NetworkError::Predefined {
            name: new.name.clone(),
            verb: "created",
        });
    }
    insert(database, new)
}

fn insert(database: &Database, new: &NewNetwork) -> Result<Network, NetworkError> {
    if !is_name(&new.name) {
        return Err(NetworkError::BadName {
            name: new.name.clone(),
            reason: "use letters, digits, _, . and -, and begin with a letter or digit",
        });
    }
    let random = random::bytes()?;
    let id = random::id(&random);
    database.write(|transaction| {
        if let Some(other) = one(transaction, "name = ?1", &new.name)? {
            return Err(NetworkError::NameInUse {
                name: other.name,
                id: other.id,
            });
        }
        let others = all(transaction)?;
        let link = match (&new.driver, &new.link) {
            (Driver::Macvlan { parent, .. }, _) => parent.clone(),
            (Driver::Bridge, Some(link)) => {
                check_link(link, &others)?;
                link.clone()
            }
            (Driver::Bridge, None) => format!("isl-{}", &id[..11]),
        };
        let network = Network {
            spec: Spec {
                driver: new.driver.clone(),
                internal: new.internal,
                ipv6: new.ipv6,
                subnets: subnets(new, &others, &random)?,
                mtu: new.mtu,
                masquerade: !new.no_masquerade,
                inter_instance: !new.no_inter_instance,
                options: new.options.clone(),
                labels: new.labels.clone(),
            },
            id,
            name: new.name.clone(),
            created_at: Timestamp::now(),
            link,
        };
        transaction.execute(
            "INSERT INTO network (id, name, created_at, link, spec) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                network.id,
                network.name,
                i64::try_from(network.created_at.as_nanosecond()).unwrap_or(i64::MAX),
                network.link,
                document(&network.spec),
            ],
        )?;
        Ok(network)
    })
}

fn document(spec: &Spec) -> String {
    serde_json::to_string(spec).expect("a specification has string keys only")
}

/// A name for a bridge that the user has chosen.
fn check_link(link: &str, others: &[Network]) -> Result<(), NetworkError> {
    let bad = |reason: String| {
        Err(NetworkError::BadAddress {
            value: format!("bridge name {link:?}"),
            reason,
        })
    };
    let is_name = (1..=LONGEST_LINK).contains(&link.len())
        && link
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !matches!(link, "." | "..");
    if !is_name {
        return bad(format!(
            "a link's name has 1 to {LONGEST_LINK} letters and digits"
        ));
    }
    if let Some(other) = others.iter().find(|other| other.link == link) {
        return bad(format!("it is that of network {:?}", other.name));
    }
    Ok(())
}

fn subnets(
    new: &NewNetwork,
    others: &[Network],
    random: &[u8; 32],
) -> Result<Vec<crate::Subnet>, NetworkError> {
    let needs_gateway = matches!(new.driver, Driver::Bridge);
    // The bridge of a network that is made again may be there still; a macvlan network lies in its
    // parent's subnet on purpose.
    let own: Vec<String> = others
        .iter()
        .map(|other| other.link.clone())
        .chain(new.link.clone())
        .chain(match &new.driver {
            Driver::Macvlan { parent, .. } => Some(parent.clone()),
            Driver::Bridge => None,
        })
        .collect();
    let of_host = host::routes(&own)?;
    let of_others = || {
        others.iter().flat_map(|other| {
            let subnets = other.spec.subnets.iter();
            subnets.map(move |subnet| (&subnet.subnet, other))
        })
    };
    let mut chosen: Vec<crate::Subnet> = Vec::new();
    for request in &new.subnets {
        let subnet = address::complete(request, needs_gateway)?;
        let net = &subnet.subnet;
        let overlap = |other: String| NetworkError::Overlap {
            subnet: *net,
            other,
        };
        if chosen
            .iter()
            .any(|other| other.subnet.addr().is_ipv6() == net.addr().is_ipv6())
        {
            return Err(NetworkError::BadAddress {
                value: net.to_string(),
                reason: "a network has at most one subnet of each family".to_owned(),
            });
        }
        if let Some((other, network)) = of_others().find(|(other, _)| address::overlap(net, other))
        {
            return Err(overlap(format!("{other} of network {:?}", network.name)));
        }
        if let Some(other) = of_host.iter().find(|other| address::overlap(net, other)) {
            return Err(overlap(format!("{other}, which the host has a route to")));
        }
        chosen.push(subnet);
    }
    let has = |chosen: &[crate::Subnet], is_ipv6: bool| {
        chosen
            .iter()
            .any(|subnet| subnet.subnet.addr().is_ipv6() == is_ipv6)
    };
    let automatic = |subnet: IpNet| {
        let request = SubnetRequest {
            subnet,
            gateway: None,
            range: None,
            reserved: BTreeMap::new(),
        };
        address::complete(&request, needs_gateway)
    };
    if !has(&chosen, false) && (new.subnets.is_empty() || new.ipv6 && !has(&chosen, true)) {
        let taken: Vec<IpNet> = of_others()
            .map(|(net, _)| *net)
            .chain(of_host.iter().copied())
            .collect();
        let free = address::free_ipv4(&taken).ok_or(NetworkError::NoSubnetLeft)?;
        chosen.push(automatic(free)?);
    }
    if new.ipv6 && !has(&chosen, true) {
        let [a, b, c, d, e, f, g, ..] = *random;
        chosen.push(automatic(address::ipv6_of([a, b, c, d, e, f, g]))?);
    }
    chosen.sort_by_key(|subnet| subnet.subnet.addr().is_ipv6());
    Ok(chosen)
}

/// Takes a network's row away.
///
/// # Errors
/// [`NetworkError::InUse`] while an instance is on it, [`NetworkError::Predefined`].
pub fn remove(database: &Database, network: &Network) -> Result<(), NetworkError> {
    if network.name == DEFAULT {
        return Err(NetworkError::Predefined {
            name: network.name.clone(),
            verb: "removed",
        });
    }
    database.write(|transaction| {
        let mut statement = transaction
            .prepare("SELECT instance FROM network_endpoint WHERE network = ?1 AND is_up")?;
        let instances: Vec<String> = statement
            .query_map([&network.id], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        if !instances.is_empty() {
            return Err(NetworkError::InUse {
                network: network.name.clone(),
                instances,
            });
        }
        transaction.execute(
            "DELETE FROM network_endpoint WHERE network = ?1",
            [&network.id],
        )?;
        transaction.execute("DELETE FROM network WHERE id = ?1", [&network.id])?;
        Ok(())
    })
}

/// The network of an id, within a transaction.
pub(crate) fn get(transaction: &Transaction<'_>, id: &str) -> Result<Network, NetworkError> {
    one(transaction, "id = ?1", id)?.ok_or_else(|| NetworkError::NoSuchNetwork {
        name: id.to_owned(),
        nearest: None,
    })
}

/// Where the last address was given on a network.
pub(crate) fn last_ipv4(transaction: &Transaction<'_>, id: &str) -> Result<u32, NetworkError> {
    let last = transaction
        .prepare_cached("SELECT last_ipv4 FROM network WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

/// Notes it.
pub(crate) fn set_last_ipv4(
    transaction: &Transaction<'_>,
    id: &str,
    last: u32,
) -> Result<(), NetworkError> {
    transaction
        .prepare_cached("UPDATE network SET last_ipv4 = ?2 WHERE id = ?1")?
        .execute(params![id, last])?;
    Ok(())
}
