//! `ADD https://…`

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::error::BuildError;

/// More than this no build adds in one file.
const MOST: u64 = 64 << 30;

/// Trusts whom this host trusts.
fn client() -> Agent {
    let found = rustls_native_certs::load_native_certs();
    let certificates: Vec<_> = found
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    let roots = match certificates.is_empty() {
        true => RootCerts::WebPki,
        false => RootCerts::Specific(Arc::new(certificates)),
    };
    Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .timeout_connect(Some(Duration::from_secs(30)))
        .build()
        .new_agent()
}

/// Brings a file.
pub(crate) fn download(
    address: &str,
    into: &Path,
    check: &dyn Fn() -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let fail = |error: &dyn std::fmt::Display| {
        BuildError::request(
            format!("cannot get {address}: {error}"),
            "is the address right, and can it be reached from here?",
        )
    };
    let response = client().get(address).call().map_err(|error| fail(&error))?;
    let mut body = response.into_body().into_with_config().limit(MOST).reader();
    let mut file = File::create(into).map_err(BuildError::io("write", into))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        check()?;
        match body.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => file
                .write_all(&buffer[..count])
                .map_err(BuildError::io("write", into))?,
            Err(error) => return Err(fail(&error)),
        }
    }
}
