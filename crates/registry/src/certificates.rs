//! Whom to believe on an encrypted connection, and how to prove who we are.
//!
//! The system's bundle of authorities counts (`SSL_CERT_FILE` and `SSL_CERT_DIR` too); without one,
//! Mozilla's list that is built in. For one registry alone, Docker's folder layout is read:
//! `certs.d/<host:port>/*.crt` are more authorities, `*.cert` with a `*.key` of the same name is
//! our own certificate. See
//! <https://docs.docker.com/engine/security/certificates/>.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use thiserror::Error;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::location::Origin;

/// Why a certificate or key is not usable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no such thing.
    #[error("no {what} in {}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// A certificate without its key.
    #[error("missing key {} for certificate {}", key.display(), certificate.display())]
    NoKey {
        /// The certificate.
        certificate: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
}

/// The authorities of this host.
#[derive(Debug, Default)]
pub(crate) struct Authorities {
    system: OnceLock<Arc<Vec<Certificate<'static>>>>,
}

impl Authorities {
    fn system(&self) -> &Arc<Vec<Certificate<'static>>> {
        self.system.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            Arc::new(
                found
                    .certs
                    .iter()
                    .map(|der| Certificate::from_der(der).to_owned())
                    .collect(),
            )
        })
    }

    /// The TLS settings for one registry, from every folder of `folders` that knows it.
    pub(crate) fn settings(
        &self,
        folders: &[PathBuf],
        origin: &Origin,
        is_insecure: bool,
    ) -> Result<TlsConfig, CertificateError> {
        let mut own = Own::default();
        for folder in folders {
            own.read(&folder.join(origin.host_and_port()))?;
        }
        // As with Docker, nobody has to certify this machine to itself; who names an authority for
        // it anyway has it checked.
        let is_verified = !is_insecure && (!origin.is_loopback() || !own.authorities.is_empty());
        let system = self.system();
        let roots = if own.authorities.is_empty() && system.is_empty() {
            RootCerts::WebPki
        } else if own.authorities.is_empty() {
            RootCerts::Specific(Arc::clone(system))
        } else {
            RootCerts::Specific(Arc::new(
                system.iter().cloned().chain(own.authorities).collect(),
            ))
        };
        let client = own
            .identity
            .map(|(chain, key)| ClientCert::new_with_certs(&chain, key));
        Ok(TlsConfig::builder()
            .root_certs(roots)
            .client_cert(client)
            .disable_verification(!is_verified)
            .build())
    }
}

#[derive(Default)]
struct Own {
    authorities: Vec<Certificate<'static>>,
    identity: Option<(Vec<Certificate<'static>>, PrivateKey<'static>)>,
}

impl Own {
    fn read(&mut self, folder: &Path) -> Result<(), CertificateError> {
        let failed = |source| CertificateError::Read {
            path: folder.into(),
            source,
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.extend(certificates(&path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.exists() {
                        return Err(CertificateError::NoKey {
                            certificate: path,
                            key,
                        });
                    }
                    let chain = certificates(&path)?;
                    self.identity.get_or_insert((chain, private_key(&key)?));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn items(path: &Path) -> Result<Vec<PemItem<'static>>, CertificateError> {
    let content = fs::read(path).map_err(|source| CertificateError::Read {
        path: path.into(),
        source,
    })?;
    Ok(parse_pem(&content).filter_map(Result::ok).collect())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, CertificateError> {
    let found: Vec<_> = items(path)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(CertificateError::Empty {
            path: path.into(),
            what: "certificate",
        });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, CertificateError> {
    let found = items(path)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    found.ok_or_else(|| CertificateError::Empty {
        path: path.into(),
        what: "private key",
    })
}
