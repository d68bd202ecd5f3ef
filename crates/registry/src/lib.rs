//! Client of the OCI distribution API, with credentials and mirrors.
//!
//! A registry is a stranger who is asked for content by its digest, or handed content to keep.
//! This crate does the asking: it finds the registry (or a mirror of it), says who the user is
//! when the registry wants to know, and hands out manifests that mean one thing only and blobs
//! that are as long as they should be. It trusts nothing that comes back: every address that a
//! server names passes the rules of `location`, every document the rules of [`Document`], and the
//! user's credentials go to nobody but the registry they are for and its token server.
//!
//! - [`Client`]: made once from a [`Config`], shared by threads.
//! - [`Repository`]: one repository, to pull from or to push to.
//! - [`CredentialStore`]: Docker's `config.json` and its credential helpers.
//!
//! Everything blocks; who wants several downloads at a time uses several threads.
//!
//! ```no_run
//! use isle_registry::{Access, Client, Config, Reference};
//!
//! let client = Client::new(Config::of_host()?);
//! let reference: Reference = "localhost:5000/debian:12".parse()?;
//! let repository = client.repository(&reference, Access::Pull)?;
//! let document = repository.document()?;
//! println!("{} is a {}", document.digest, document.media_type);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Specification: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>. Read
//! next: `docs/decisions/0004-registry-client.md`.

#![forbid(unsafe_code)]

mod authorization;
mod blob;
mod certificates;
mod challenge;
mod client;
mod config;
mod credentials;
mod document;
mod error;
mod helper;
mod location;
mod login;
mod manifest;
mod proxy;
mod resolver;
mod transport;
mod upload;

pub use blob::{Blob, LARGEST_SMALL_BLOB, registry_error};
pub use certificates::CertificateError;
pub use client::{Access, Client, Repository};
pub use config::{Config, ConfigError, Patience, Registries, RegistrySettings};
pub use credentials::{
    Credential, CredentialStore, CredentialsError, DOCKER_HUB_SERVER, Keeper, Secret, server_key,
};
pub use document::{Document, LARGEST_DOCUMENT, parse_digest};
pub use error::{Answer, RegistryError, TransportError};
pub use helper::HelperError;
pub use location::{LocationError, Origin};
pub use login::{Login, registry_of_server};
pub use oci_spec::distribution::Reference;
pub use proxy::Proxies;
pub use upload::{Source, Uploaded};
