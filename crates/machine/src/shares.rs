//! Folders and files of the host in a guest: a confined server for them, which ends with the machine.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use isle_cgroup::Cgroup;
use isle_guest::Shares;
use isle_share::{Request, Server, Share, SpawnError};

use crate::programs;

/// The machine's port that they are served over.
const PORT: &str = "share0";

/// Why folders cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The machine's port is not there.
    #[error("cannot reach the machine's port for folders")]
    Port(#[source] io::Error),
    /// The server is not there.
    #[error(
        "cannot find the program {}: put it beside isle, isle-shim and isle-oci",
        isle_share::PROGRAM
    )]
    NoProgram,
    /// It did not start.
    #[error("cannot serve the folders of the host")]
    Spawn(#[from] SpawnError),
}

/// What the guest is told: where they are served.
#[must_use]
pub fn announcement() -> Shares {
    Shares {
        port: PORT.to_owned(),
    }
}

/// Starts the server of these for a machine whose sockets are in `directory` already.
///
/// # Errors
/// [`ServeError`]
pub fn serve(
    shares: &[Share],
    directory: &Path,
    cgroup: Option<&Cgroup>,
) -> Result<Server, ServeError> {
    let connection = isle_qemu::Vm::connect_port(directory, PORT).map_err(ServeError::Port)?;
    let program = programs::find(isle_share::PROGRAM).ok_or(ServeError::NoProgram)?;
    Ok(isle_share::spawn(&Request {
        program: &program,
        shares,
        connection: OwnedFd::from(connection).as_fd(),
        messages: None,
        cgroup,
        place: directory,
    })?)
}
