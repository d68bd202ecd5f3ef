//! The rows of published ports.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use isle_database::Database;
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::host::hold;
use crate::{NetworkError, Protocol, Publication, random};

/// Which port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPort {
    /// Any that is free.
    Any,
    /// The first that is free, both ends included.
    Within(u16, u16),
}

/// A port that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Of both ports.
    pub protocol: Protocol,
    /// The port inside.
    pub port: u16,
    /// As [`Publication::host`].
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: HostPort,
}

/// What is chosen from: the kernel's own default for its ephemeral ports, as Docker has it.
const EPHEMERAL: (u16, u16) = (32768, 60999);

fn read(row: &Row<'_>) -> Result<(String, Publication), NetworkError> {
    let instance: String = row.get(3)?;
    let broken = |column| NetworkError::BrokenRow {
        id: instance.clone(),
        column,
    };
    let protocol: String = row.get(0)?;
    let host: String = row.get(1)?;
    let host = match host.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| broken("host"))?),
    };
    let publication = Publication {
        protocol: protocol.parse().map_err(|()| broken("protocol"))?,
        host,
        host_port: row.get(2)?,
        port: row.get(4)?,
    };
    Ok((instance, publication))
}

const COLUMNS: &str = "protocol, host, host_port, instance, instance_port";

fn query(
    connection: &rusqlite::Connection,
    condition: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<(String, Publication)>, NetworkError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM network_publication {condition}"
    ))?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// All published ports, with their instances' ids.
///
/// # Errors
/// When the state file cannot be read.
pub fn all_publications(database: &Database) -> Result<Vec<(String, Publication)>, NetworkError> {
    query(database.connection(), "WHERE NOT is_leaving", &[])
}

/// Those of one instance.
///
/// # Errors
/// When the state file cannot be read.
pub fn publications_of(
    database: &Database,
    instance: &str,
) -> Result<Vec<Publication>, NetworkError> {
    of_instance(database, "WHERE NOT is_leaving AND instance = ?1", instance)
}

/// The same, with those that are leaving: what is to be taken away after somebody was killed.
///
/// # Errors
/// When the state file cannot be read.
pub fn held_publications(
    database: &Database,
    instance: &str,
) -> Result<Vec<Publication>, NetworkError> {
    of_instance(database, "WHERE instance = ?1", instance)
}

fn of_instance(
    database: &Database,
    condition: &str,
    instance: &str,
) -> Result<Vec<Publication>, NetworkError> {
    let found = query(database.connection(), condition, &[&instance])?;
    let publications = found.into_iter().map(|(_, publication)| publication);
    Ok(publications.collect())
}

/// Some of an instance's ports are being taken back: nobody else has them yet, and nobody leads them to it again.
///
/// # Errors
/// When the state file cannot be written.
pub fn withdraw(
    transaction: &Transaction<'_>,
    instance: &str,
    which: &[Publication],
) -> Result<(), NetworkError> {
    each(
        transaction,
        "UPDATE network_publication SET is_leaving = 1",
        instance,
        which,
    )
}

fn each(
    transaction: &Transaction<'_>,
    act: &str,
    instance: &str,
    which: &[Publication],
) -> Result<(), NetworkError> {
    for publication in which {
        transaction
            .prepare_cached(&format!(
                "{act} WHERE protocol = ?1 AND host_port = ?2 AND host = ?3 AND instance = ?4"
            ))?
            .execute(params![
                publication.protocol.to_string(),
                publication.host_port,
                publication
                    .host
                    .map(|address| address.to_string())
                    .unwrap_or_default(),
                instance,
            ])?;
    }
    Ok(())
}

/// Publishes ports: from now on they are this instance's, and no program of the host can have them as
/// long as the sockets live that come with them.
///
/// # Errors
/// [`NetworkError::PortInUse`], [`NetworkError::PortTaken`], [`NetworkError::NoPortLeft`]. Then
/// the caller undoes the transaction.
pub fn publish(
    transaction: &Transaction<'_>,
    instance: &str,
    wanted: &[Publish],
) -> Result<Vec<(Publication, Vec<OwnedFd>)>, NetworkError> {
    wanted
        .iter()
        .map(|publish| one(transaction, instance, publish))
        .collect()
}

fn one(
    transaction: &Transaction<'_>,
    instance: &str,
    publish: &Publish,
) -> Result<(Publication, Vec<OwnedFd>), NetworkError> {
    let (first, last) = match publish.host_port {
        HostPort::Within(first, last) => (first, last),
        HostPort::Any => EPHEMERAL,
    };
    let count = u32::from(last.saturating_sub(first)) + 1;
    // Those that are nobody's lie together: where to begin is left to chance.
    let start = match publish.host_port {
        HostPort::Within(..) => 0,
        HostPort::Any => u32::from_ne_bytes(random::bytes()?) % count,
    };
    let mut refused = None;
    for offset in 0..count {
        let publication = Publication {
            protocol: publish.protocol,
            port: publish.port,
            host: publish.host,
            host_port: first + ((start + offset) % count) as u16,
        };
        match take(transaction, instance, &publication) {
            Ok(held) => return Ok((publication, held)),
            Err(error @ (NetworkError::PortInUse { .. } | NetworkError::PortTaken { .. })) => {
                refused = Some(error)
            }
            Err(error) => return Err(error),
        }
    }
    Err(match (refused, first == last) {
        (Some(error), true) => error,
        _ => NetworkError::NoPortLeft {
            first,
            last,
            protocol: publish.protocol,
        },
    })
}

fn take(
    transaction: &Transaction<'_>,
    instance: &str,
    publication: &Publication,
) -> Result<Vec<OwnedFd>, NetworkError> {
    let protocol = publication.protocol.to_string();
    let same_port = query(
        transaction,
        "WHERE protocol = ?1 AND host_port = ?2",
        &[&protocol, &publication.host_port],
    )?;
    let other = same_port
        .into_iter()
        .find(|(_, other)| meet(other.host, publication.host));
    if let Some((owner, _)) = other {
        return Err(NetworkError::PortInUse {
            host: publication.host,
            host_port: publication.host_port,
            protocol: publication.protocol,
            owner: owner.get(..12).unwrap_or(&owner).to_owned(),
        });
    }
    let held = hold(publication)?;
    transaction
        .prepare_cached(
            "INSERT INTO network_publication
                (protocol, host, host_port, instance, instance_port) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            protocol,
            publication
                .host
                .map(|address| address.to_string())
                .unwrap_or_default(),
            publication.host_port,
            instance,
            publication.port,
        ])?;
    Ok(held)
}

/// Whether the same port of two addresses of the host can be reached by the same packet.
fn meet(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    match (one, other) {
        (None, _) | (_, None) => true,
        (Some(one), Some(other)) => {
            one.is_ipv6() == other.is_ipv6()
                && (one == other || one.is_unspecified() || other.is_unspecified())
        }
    }
}

/// Ports that are an instance's no more: those given, or all.
///
/// # Errors
/// When the state file cannot be written.
pub fn unpublish(
    transaction: &Transaction<'_>,
    instance: &str,
    which: Option<&[Publication]>,
) -> Result<(), NetworkError> {
    let Some(which) = which else {
        transaction
            .prepare_cached("DELETE FROM network_publication WHERE instance = ?1")?
            .execute([instance])?;
        return Ok(());
    };
    each(
        transaction,
        "DELETE FROM network_publication",
        instance,
        which,
    )
}
