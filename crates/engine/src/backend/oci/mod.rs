//! From an instance to an OCI runtime specification: the same at every level that runs Linux
//! processes, whoever carries it out.
//!
//! | file | idea |
//! |---|---|
//! | `spec` | the specification; pure |
//! | `mounts`, `limits`, `capabilities`, `devices` | its parts |
//! | `files` | `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf` |
//! | `sources` | what is bound |

pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod sources;
pub(crate) mod spec;

use isle_runtime::Kept;
use oci_spec::runtime::Spec;

use super::{StartError, failed};

/// What a further process will need of the specification.
///
/// # Errors
/// When the seccomp policy is none for this kernel.
pub(crate) fn kept(spec: &Spec) -> Result<Kept, StartError> {
    Kept::of(spec).map_err(failed("cannot compile the seccomp policy"))
}
