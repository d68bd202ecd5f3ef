//! What can go wrong.

use std::io;
use std::path::PathBuf;

use isle_netlink::Refused;
use rustix::io::Errno;

/// A network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `CAP_NET_ADMIN` is missing.
    #[error("not permitted to {operation}")]
    NotPermitted {
        /// What was tried, and on what.
        operation: String,
        /// The kernel's answer.
        source: Refused,
    },
    /// The bridge is not there.
    #[error("cannot {operation}: there is no link {link:?}")]
    NoLink {
        /// What was tried.
        operation: String,
        /// The link that is not there.
        link: String,
    },
    /// The bridge has as many ports as it can have.
    #[error("cannot {operation}: bridge {bridge:?} has no port left")]
    BridgeFull {
        /// What was tried.
        operation: String,
        /// The bridge.
        bridge: String,
    },
    /// The host's address and the instance's are of different families.
    #[error("cannot {operation}: {to} is of another family")]
    Families {
        /// What was tried.
        operation: String,
        /// The instance's address.
        to: std::net::IpAddr,
    },
    /// The kernel lacks something.
    #[error("cannot {operation}: this kernel cannot do it")]
    Unsupported {
        /// What was tried, and on what.
        operation: String,
        /// The kernel's answer.
        source: Refused,
    },
    /// A port is published already.
    #[error("cannot {operation}: published already")]
    Published {
        /// What was tried.
        operation: String,
    },
    /// The kernel refused for another reason.
    #[error("cannot {operation}")]
    Refused {
        /// What was tried, and on what.
        operation: String,
        /// The kernel's answer.
        source: Refused,
    },
    /// A system call failed.
    #[error("cannot {operation}")]
    System {
        /// What was tried, and on what.
        operation: String,
        /// Why not.
        source: io::Error,
    },
    /// A setting of the kernel could not be changed.
    #[error("cannot set {} to {value}", path.display())]
    Setting {
        /// The setting.
        path: PathBuf,
        /// The value that it should have.
        value: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotPermitted { .. } => {
                Some("run as root, or use --network none or --network host")
            }
            Self::BridgeFull { .. } => {
                Some("the kernel gives a bridge 1,023 ports; make another network for more")
            }
            Self::Unsupported { .. } => Some(
                "load the kernel's modules: modprobe -a bridge veth nf_tables nft_nat nft_fib_inet tun macvlan",
            ),
            Self::Setting { .. } => Some("/proc/sys has to be writable"),
            Self::NoLink { .. }
            | Self::Families { .. }
            | Self::Published { .. }
            | Self::Refused { .. }
            | Self::System { .. } => None,
        }
    }

    /// What a refusal means while something is done.
    pub(crate) fn from_refusal(operation: &str, refused: Refused) -> Self {
        let operation = operation.to_owned();
        match Errno::from_io_error(&refused.error) {
            Some(Errno::PERM | Errno::ACCESS) => Self::NotPermitted {
                operation,
                source: refused,
            },
            Some(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
                Self::Unsupported {
                    operation,
                    source: refused,
                }
            }
            _ => Self::Refused {
                operation,
                source: refused,
            },
        }
    }
}
