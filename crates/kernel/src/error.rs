//! Why something about a kernel did not work.

use std::io;
use std::path::{Path, PathBuf};

/// Why something about a kernel did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No kernel is in use.
    #[error("no guest kernel is installed")]
    NoneInstalled,
    /// There are kernels, and none of them is in use.
    #[error("no guest kernel is chosen; there are: {}", .names.join(", "))]
    NoneChosen {
        /// Their names.
        names: Vec<String>,
    },
    /// No kernel has this name.
    #[error("no such guest kernel: {name}")]
    NotFound {
        /// The name.
        name: String,
        /// The names that there are.
        names: Vec<String>,
    },
    /// A name that no kernel can have.
    #[error("{name:?} is no name of a kernel")]
    Name {
        /// The name.
        name: String,
    },
    /// A file is not what it was when it came.
    #[error("the guest kernel {name} is damaged: {file} {what}")]
    Damaged {
        /// The kernel.
        name: String,
        /// Its file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// It is of another architecture.
    #[error("the guest kernel {name} is for {architecture}, this host is {host}")]
    Architecture {
        /// The kernel.
        name: String,
        /// What it is for.
        architecture: String,
        /// What this is.
        host: &'static str,
    },
    /// Written by a newer version of Isle.
    #[error("the guest kernel {name} was made by a newer version of isle (format {found})")]
    TooNew {
        /// The kernel.
        name: String,
        /// The format of its description.
        found: u32,
    },
    /// Running instances use it.
    #[error("cannot remove the guest kernel {name}: running instances use it")]
    InUse {
        /// The kernel.
        name: String,
    },
    /// Programs or headers are missing.
    #[error("cannot {purpose}: {} {} not installed", .missing.join(", "), if .missing.len() == 1 { "is" } else { "are" })]
    Missing {
        /// What for.
        purpose: &'static str,
        /// Programs and headers.
        missing: Vec<String>,
        /// The packages that have them, in Debian.
        packages: Vec<String>,
    },
    /// A program ended badly.
    #[error("cannot {purpose}: {program} {how}{said}")]
    Program {
        /// What for.
        purpose: String,
        /// Which.
        program: String,
        /// With a code, or by a signal.
        how: String,
        /// The last lines that it printed, each on a line of its own.
        said: String,
    },
    /// The package manager does not know a package.
    #[error("the package manager knows no package {package}")]
    NoPackage {
        /// Which.
        package: String,
    },
    /// A package does not have what a kernel needs.
    #[error("{package} is no kernel for virtual machines: {what}")]
    Unsuitable {
        /// The package or file.
        package: String,
        /// What it lacks.
        what: String,
    },
    /// Lines of the configuration did not come to be.
    #[error("the source does not have what the configuration asks for: {}", .lines.join(", "))]
    Configuration {
        /// The lines.
        lines: Vec<String>,
    },
    /// There is no configuration for this architecture.
    #[error("this version of isle has no configuration of a tuned kernel for {architecture}")]
    NoConfiguration {
        /// Which.
        architecture: &'static str,
    },
    /// The guest's agent.
    #[error("cannot read the guest's agent {path}")]
    Agent {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

const GET_ONE: &str = "`isle kernel install` gets the distribution's in seconds, `isle kernel build` \
                       makes the tuned one in minutes, which starts faster";

impl KernelError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            KernelError::NoneInstalled => Some(GET_ONE.to_owned()),
            KernelError::NoneChosen { names } => {
                let name = names.first()?;
                Some(format!("choose one: isle kernel use {name}"))
            }
            KernelError::NotFound { names, .. } if names.is_empty() => Some(GET_ONE.to_owned()),
            KernelError::NotFound { names, .. } => Some(format!("there are: {}", names.join(", "))),
            KernelError::Name { .. } => {
                Some("`isle kernel ls` shows the names that there are".to_owned())
            }
            KernelError::Damaged { name, .. } => Some(format!(
                "take it away with `isle kernel rm {name}` and get it again; {GET_ONE}"
            )),
            KernelError::Architecture { .. } => {
                Some(GET_ONE.to_owned())
            }
            KernelError::TooNew { name, .. } => Some(format!(
                "use the newer version of isle, or take it away with `isle kernel rm {name}`"
            )),
            KernelError::InUse { .. } => Some(
                "choose another one with `isle kernel use`, and restart the instances of isolation vm"
                    .to_owned(),
            ),
            KernelError::Missing { packages, .. } => {
                Some(format!("apt install {}", packages.join(" ")))
            }
            KernelError::NoPackage { .. } => Some(
                "`apt-get update` may help; else give a file: isle kernel install --file X.deb, or isle \
                 kernel build --source linux.tar.xz"
                    .to_owned(),
            ),
            KernelError::Unsuitable { .. } => Some(
                "Debian's linux-image-cloud-amd64 has what is needed, and `isle kernel build` makes one"
                    .to_owned(),
            ),
            KernelError::Configuration { .. } => Some(
                "the configuration is for Linux 6.1; give a source of that series with --source"
                    .to_owned(),
            ),
            KernelError::NoConfiguration { .. } => {
                Some("`isle kernel install` takes the distribution's".to_owned())
            }
            KernelError::Agent { .. } => {
                Some("isle-guest belongs beside isle: install all its programs".to_owned())
            }
            KernelError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("the disk is full; building a kernel needs some 2.5 GB for a while".to_owned())
                }
                io::ErrorKind::PermissionDenied => Some("run it as root".to_owned()),
                _ => None,
            },
            KernelError::Program { said, .. } if said.contains("No space left") => {
                Some("the disk is full; building a kernel needs some 2.5 GB for a while".to_owned())
            }
            KernelError::Program { .. } => None,
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> KernelError {
        let path = path.to_owned();
        move |source| KernelError::Io {
            operation,
            path,
            source,
        }
    }
}
