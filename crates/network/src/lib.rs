//! Networks as rows of the state file: which there are, who is on them, which addresses and which
//! ports of the host are whose.
//!
//! Nothing here touches the kernel: bridges, links and rules are made from these rows by
//! `isle-dataplane`, names are answered from them by the keeper of names. An address and a port
//! belong to one instance from the moment that the row is committed, whoever is killed afterwards.
//!
//! | file | idea |
//! |---|---|
//! | `model` | what a network, an endpoint and a publication are |
//! | `address` | which address is next, which subnet is free. Pure |
//! | `egress` | what an instance may reach beyond its networks. Pure |
//! | `host` | what the host itself is connected to, and which of its ports are taken |
//! | `wanted` | rows as values of `isle-dataplane`. Pure |
//! | `networks`, `endpoints`, `publications` | the rows |

#![forbid(unsafe_code)]

pub mod address;
mod egress;
mod endpoints;
mod error;
pub mod host;
mod model;
mod networks;
mod publications;
mod random;
pub mod wanted;

pub use egress::{Allowed, Destination, Egress, EgressError};
pub use endpoints::{
    Join, all_endpoints, endpoints_of, endpoints_on, forget, forget_resting, held_endpoints, join,
    leave, release, rename,
};
pub use error::NetworkError;
pub use model::{
    Driver, Endpoint, MacvlanMode, Network, NewNetwork, Protocol, Publication, Rate, Subnet,
    SubnetRequest, is_name,
};
pub use networks::{DEFAULT, create, default_network, find, list, remove};
pub use publications::{
    HostPort, Publish, all_publications, held_publications, publications_of, publish, unpublish,
    withdraw,
};
pub use wanted::Link;

use isle_database::Schema;

/// The tables of this crate.
pub const SCHEMA: Schema = Schema {
    name: "network",
    migrations: &["
        CREATE TABLE network (
            id         TEXT PRIMARY KEY,
            name       TEXT NOT NULL UNIQUE,
            created_at INTEGER NOT NULL,
            link       TEXT NOT NULL,
            spec       TEXT NOT NULL,
            last_ipv4  INTEGER NOT NULL DEFAULT 0
        ) STRICT;
        CREATE TABLE network_endpoint (
            id        TEXT PRIMARY KEY,
            network   TEXT NOT NULL REFERENCES network (id),
            instance  TEXT NOT NULL,
            interface TEXT NOT NULL,
            mac       BLOB NOT NULL,
            ipv4      INTEGER,
            ipv6      BLOB,
            names     TEXT NOT NULL,
            egress    TEXT NOT NULL,
            rate      TEXT NOT NULL,
            is_up     INTEGER NOT NULL,
            is_leaving INTEGER NOT NULL DEFAULT 0,
            UNIQUE (network, instance),
            UNIQUE (network, ipv4),
            UNIQUE (network, ipv6)
        ) STRICT;
        CREATE INDEX network_endpoint_by_instance ON network_endpoint (instance);
        CREATE TABLE network_publication (
            protocol      TEXT NOT NULL,
            host          TEXT NOT NULL,
            host_port     INTEGER NOT NULL,
            instance      TEXT NOT NULL,
            instance_port INTEGER NOT NULL,
            is_leaving    INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (protocol, host_port, host)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX network_publication_by_instance ON network_publication (instance);
    "],
};
