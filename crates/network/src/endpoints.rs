//! The rows of endpoints: which instance is on which network, with which addresses.
//!
//! An endpoint is up from before its instance is started until its link is gone. While its link is being taken
//! away it is leaving: nobody else has its addresses yet, and nobody makes its link again. Afterwards its row
//! stays as long as the instance: it gets its old addresses again if nobody had to be given them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use isle_database::Database;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::Serialize;

use crate::model::{Endpoint, Network, Subnet, mac_of};
use crate::networks::{get, last_ipv4, set_last_ipv4};
use crate::{Egress, NetworkError, Rate, address, random};

/// What an instance asks for on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    /// The network's id.
    pub network: String,
    /// `eth0`
    pub interface: String,
    /// `--ip`
    pub ipv4: Option<Ipv4Addr>,
    /// `--ip6`
    pub ipv6: Option<Ipv6Addr>,
    /// `--mac-address`
    pub mac: Option<[u8; 6]>,
    /// What others can call it.
    pub names: Vec<String>,
    /// `--egress`
    pub egress: Egress,
    /// `--net-rate`
    pub rate: Rate,
}

const COLUMNS: &str = "id, network, instance, interface, mac, ipv4, ipv6, names, egress, rate";

/// A row, its addresses without the lengths of their prefixes yet.
struct Raw {
    endpoint: Endpoint,
    ipv4: Option<u32>,
    ipv6: Option<[u8; 16]>,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    let names: String = row.get(7)?;
    let egress: String = row.get(8)?;
    let rate: String = row.get(9)?;
    Ok(Raw {
        ipv4: row.get(5)?,
        ipv6: row.get(6)?,
        endpoint: Endpoint {
            id: row.get(0)?,
            network: row.get(1)?,
            instance: row.get(2)?,
            interface: row.get(3)?,
            mac: row.get(4)?,
            ipv4: None,
            ipv6: None,
            names: serde_json::from_str(&names).unwrap_or_default(),
            // Never more than was asked for.
            egress: egress.parse().unwrap_or(Egress::Deny),
            rate: serde_json::from_str(&rate).unwrap_or_default(),
        },
    })
}

impl Raw {
    fn on(self, network: &Network) -> Endpoint {
        let prefix = |is_ipv6| {
            let subnet = network.subnet(is_ipv6);
            subnet.map_or(if is_ipv6 { 128 } else { 32 }, |s| s.subnet.prefix_len())
        };
        let v4 = self.ipv4.map(Ipv4Addr::from);
        let v6 = self.ipv6.map(Ipv6Addr::from);
        Endpoint {
            ipv4: v4.and_then(|address| Ipv4Net::new(address, prefix(false)).ok()),
            ipv6: v6.and_then(|address| Ipv6Net::new(address, prefix(true)).ok()),
            ..self.endpoint
        }
    }
}

fn query(
    database: &Database,
    condition: &str,
    value: Option<&str>,
) -> Result<Vec<Endpoint>, NetworkError> {
    let networks = crate::list(database)?;
    let mut statement = database.connection().prepare_cached(&format!(
        "SELECT {COLUMNS} FROM network_endpoint WHERE {condition} ORDER BY interface, id"
    ))?;
    let mut rows = match value {
        Some(value) => statement.query([value])?,
        None => statement.query([])?,
    };
    let mut endpoints = Vec::new();
    while let Some(row) = rows.next()? {
        let raw = raw(row)?;
        let network = networks.iter().find(|n| n.id == raw.endpoint.network);
        endpoints.extend(network.map(|network| raw.on(network)));
    }
    Ok(endpoints)
}

/// All endpoints that are up.
///
/// # Errors
/// When the state file cannot be read.
pub fn all_endpoints(database: &Database) -> Result<Vec<Endpoint>, NetworkError> {
    query(database, "is_up AND NOT is_leaving", None)
}

/// Those of an instance, by the names of their interfaces.
///
/// # Errors
/// When the state file cannot be read.
pub fn endpoints_of(database: &Database, instance: &str) -> Result<Vec<Endpoint>, NetworkError> {
    let condition = "is_up AND NOT is_leaving AND instance = ?1";
    query(database, condition, Some(instance))
}

/// The same, with those that are leaving: what is to be taken away after somebody was killed.
///
/// # Errors
/// When the state file cannot be read.
pub fn held_endpoints(database: &Database, instance: &str) -> Result<Vec<Endpoint>, NetworkError> {
    query(database, "is_up AND instance = ?1", Some(instance))
}

/// Those on a network.
///
/// # Errors
/// When the state file cannot be read.
pub fn endpoints_on(database: &Database, network: &str) -> Result<Vec<Endpoint>, NetworkError> {
    query(database, "is_up AND network = ?1", Some(network))
}

/// Puts an instance on a network: from now on the addresses are its own.
///
/// # Errors
/// When an address is not to be had, or the instance is on the network already.
pub fn join(
    transaction: &Transaction<'_>,
    instance: &str,
    join: &Join,
) -> Result<(Network, Endpoint), NetworkError> {
    let network = get(transaction, &join.network)?;
    let mut old: Option<(bool, Raw)> = transaction
        .prepare_cached(&format!(
            "SELECT {COLUMNS}, is_up FROM network_endpoint WHERE network = ?1 AND instance = ?2"
        ))?
        .query_row([&network.id, instance], |row| Ok((row.get(10)?, raw(row)?)))
        .optional()?;
    if let Some((true, _)) = old {
        return Err(NetworkError::AlreadyConnected {
            instance: instance.to_owned(),
            network: network.name,
        });
    }
    if let Some((_, old)) = &old {
        // Its addresses are looked for anew, the old ones first.
        transaction
            .prepare_cached("DELETE FROM network_endpoint WHERE id = ?1")?
            .execute([&old.endpoint.id])?;
    }
    let preferred = old
        .as_mut()
        .map(|(_, raw)| (raw.ipv4.take(), raw.ipv6.take()));
    let (old_v4, old_v6) = preferred.unwrap_or_default();

    let v4 = match (network.subnet(false), join.ipv4) {
        (Some(subnet), asked) => Some(ipv4(transaction, &network, subnet, asked, old_v4)?),
        (None, Some(asked)) => return Err(not_in(&network, asked.into(), "it has no IPv4")),
        (None, None) => None,
    };
    let v6 = match (network.subnet(true), join.ipv6) {
        (Some(subnet), asked) => Some(ipv6(transaction, &network, subnet, asked, old_v6)?),
        (None, Some(asked)) => return Err(not_in(&network, asked.into(), "it has no IPv6")),
        (None, None) => None,
    };
    let raw = Raw {
        ipv4: v4.map(u32::from),
        ipv6: v6.map(|address| address.octets()),
        endpoint: Endpoint {
            id: random::id(&random::bytes()?),
            network: network.id.clone(),
            instance: instance.to_owned(),
            interface: join.interface.clone(),
            mac: join.mac.unwrap_or_else(|| mac_of(v4, v6)),
            ipv4: None,
            ipv6: None,
            names: join.names.clone(),
            egress: join.egress.clone(),
            rate: join.rate,
        },
    };
    transaction
        .prepare_cached(&format!(
            "INSERT INTO network_endpoint
                ({COLUMNS}, is_up)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 1)"
        ))?
        .execute(params![
            raw.endpoint.id,
            raw.endpoint.network,
            raw.endpoint.instance,
            raw.endpoint.interface,
            raw.endpoint.mac,
            raw.ipv4,
            raw.ipv6,
            document(&raw.endpoint.names),
            raw.endpoint.egress.to_string(),
            document(&raw.endpoint.rate),
        ])?;
    let endpoint = raw.on(&network);
    Ok((network, endpoint))
}

fn document<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("it has string keys only")
}

fn not_in(network: &Network, address: IpAddr, reason: &str) -> NetworkError {
    NetworkError::NotInSubnet {
        address,
        network: network.name.clone(),
        reason: reason.to_owned(),
    }
}

/// Whose an address is: `None` for nobody's. One that belongs to an instance that does not run is taken
/// from it.
fn owner(
    transaction: &Transaction<'_>,
    network: &Network,
    column: &str,
    address: &dyn rusqlite::ToSql,
    may_take: bool,
) -> Result<Option<String>, NetworkError> {
    let found: Option<(String, bool)> = transaction
        .prepare_cached(&format!(
            "SELECT instance, is_up FROM network_endpoint WHERE network = ?1 AND {column} = ?2"
        ))?
        .query_row(params![network.id, address], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((instance, is_up)) = found else {
        return Ok(None);
    };
    if is_up || !may_take {
        return Ok(Some(instance));
    }
    transaction
        .prepare_cached(&format!(
            "UPDATE network_endpoint SET {column} = NULL WHERE network = ?1 AND {column} = ?2"
        ))?
        .execute(params![network.id, address])?;
    Ok(None)
}

/// The addresses of one family, as the rows have them.
fn choose(
    network: &Network,
    subnet: &Subnet,
    asked: Option<IpAddr>,
    preferred: Option<IpAddr>,
    last: Option<IpAddr>,
    mut owner: impl FnMut(IpAddr, bool) -> Result<Option<String>, NetworkError>,
) -> Result<IpAddr, NetworkError> {
    if let Some(asked) = asked {
        address::check(subnet, asked).map_err(|reason| not_in(network, asked, &reason))?;
        return match owner(asked, true)? {
            None => Ok(asked),
            Some(instance) => Err(NetworkError::AddressInUse {
                address: asked,
                network: network.name.clone(),
                owner: format!("instance {}", instance.get(..12).unwrap_or(&instance)),
            }),
        };
    }
    if let Some(preferred) = preferred
        && address::check(subnet, preferred).is_ok()
        && owner(preferred, false)?.is_none()
    {
        return Ok(preferred);
    }
    // First those that are nobody's, then those that an instance might come back to.
    for may_take in [false, true] {
        let found = address::next(subnet, last, |address| {
            Ok(owner(address, may_take)?.is_some())
        })?;
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(NetworkError::Exhausted {
        network: network.name.clone(),
        range: subnet.range.unwrap_or(subnet.subnet),
    })
}

fn ipv4(
    transaction: &Transaction<'_>,
    network: &Network,
    subnet: &Subnet,
    asked: Option<Ipv4Addr>,
    preferred: Option<u32>,
) -> Result<Ipv4Addr, NetworkError> {
    let last = Ipv4Addr::from(last_ipv4(transaction, &network.id)?);
    let preferred = preferred.map(|number| Ipv4Addr::from(number).into());
    let chosen = choose(
        network,
        subnet,
        asked.map(IpAddr::V4),
        preferred,
        Some(last.into()),
        |address, may_take| match address {
            IpAddr::V4(v4) => owner(transaction, network, "ipv4", &u32::from(v4), may_take),
            IpAddr::V6(_) => Ok(None),
        },
    )?;
    let IpAddr::V4(chosen) = chosen else {
        return Err(not_in(network, chosen, "it is of the other family"));
    };
    if asked.is_none() {
        set_last_ipv4(transaction, &network.id, chosen.into())?;
    }
    Ok(chosen)
}

fn ipv6(
    transaction: &Transaction<'_>,
    network: &Network,
    subnet: &Subnet,
    asked: Option<Ipv6Addr>,
    preferred: Option<[u8; 16]>,
) -> Result<Ipv6Addr, NetworkError> {
    // Where nothing was freed the one after the largest is free.
    let largest: Option<[u8; 16]> = transaction
        .prepare_cached("SELECT max(ipv6) FROM network_endpoint WHERE network = ?1")?
        .query_row([&network.id], |row| row.get(0))?;
    let chosen = choose(
        network,
        subnet,
        asked.map(IpAddr::V6),
        preferred.map(|octets| Ipv6Addr::from(octets).into()),
        largest.map(|octets| Ipv6Addr::from(octets).into()),
        |address, may_take| match address {
            IpAddr::V6(v6) => owner(transaction, network, "ipv6", &v6.octets(), may_take),
            IpAddr::V4(_) => Ok(None),
        },
    )?;
    match chosen {
        IpAddr::V6(chosen) => Ok(chosen),
        IpAddr::V4(_) => Err(not_in(network, chosen, "it is of the other family")),
    }
}

/// The links of an instance, and with all of them its ports, are being taken away.
///
/// # Errors
/// When the state file cannot be written.
pub fn leave(
    transaction: &Transaction<'_>,
    instance: &str,
    network: Option<&str>,
) -> Result<(), NetworkError> {
    transaction
        .prepare_cached(
            "UPDATE network_endpoint SET is_leaving = 1
             WHERE instance = ?1 AND (?2 IS NULL OR network = ?2)",
        )?
        .execute(params![instance, network])?;
    if network.is_none() {
        transaction
            .prepare_cached("UPDATE network_publication SET is_leaving = 1 WHERE instance = ?1")?
            .execute([instance])?;
    }
    Ok(())
}

/// The links of an instance are gone: others may have the addresses if they need them.
///
/// # Errors
/// When the state file cannot be written.
pub fn release(transaction: &Transaction<'_>, instance: &str) -> Result<(), NetworkError> {
    transaction
        .prepare_cached(
            "UPDATE network_endpoint SET is_up = 0, is_leaving = 0 WHERE instance = ?1",
        )?
        .execute([instance])?;
    Ok(())
}

/// The instance is not on the network any more, or (without one) is gone.
///
/// # Errors
/// When the state file cannot be written.
pub fn forget(
    transaction: &Transaction<'_>,
    instance: &str,
    network: Option<&str>,
) -> Result<(), NetworkError> {
    transaction
        .prepare_cached(
            "DELETE FROM network_endpoint WHERE instance = ?1 AND (?2 IS NULL OR network = ?2)",
        )?
        .execute(params![instance, network])?;
    Ok(())
}

/// The instance will not come back for its old addresses.
///
/// # Errors
/// When the state file cannot be written.
pub fn forget_resting(transaction: &Transaction<'_>, instance: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM network_endpoint WHERE instance = ?1 AND NOT is_up")?
        .execute([instance])?;
    Ok(())
}

/// Others call the instance so from now on: `old` becomes `new` on all its networks.
///
/// # Errors
/// When the state file cannot be written.
pub fn rename(
    transaction: &Transaction<'_>,
    instance: &str,
    old: &str,
    new: &str,
) -> Result<(), NetworkError> {
    let mut statement =
        transaction.prepare("SELECT id, names FROM network_endpoint WHERE instance = ?1")?;
    let rows: Vec<(String, String)> = statement
        .query_map([instance], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (id, names) in rows {
        let names: Vec<String> = serde_json::from_str(&names).unwrap_or_default();
        let changed: Vec<String> = names
            .into_iter()
            .map(|name| if name == old { new.to_owned() } else { name })
            .collect();
        transaction.execute(
            "UPDATE network_endpoint SET names = ?2 WHERE id = ?1",
            params![id, document(&changed)],
        )?;
    }
    Ok(())
}
