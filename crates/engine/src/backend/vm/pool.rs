//! Machines that wait for instances: loaded and stopped after a rehearsal ([`rehearsal`]), so that what a
//! start does was done before.
//!
//! There are none until somebody asks for a number of them. Nothing runs to look after them: the supervisor that
//! takes one has it replaced by a process of its own ([`crate::launch::fill_pool`]), which ends when that is done.

use std::time::Instant;

use isle_machine::PATIENCE;
use isle_qemu::pool::Exercise;
use isle_qemu::{Pool, Store};

use super::rehearsal;
use crate::Paths;
use crate::backend::oci::spec;
use crate::backend::{StartError, failed};

/// Where templates are.
pub(crate) fn templates(paths: &Paths) -> Store {
    isle_machine::templates(&paths.root, &paths.run)
}

/// Where machines wait. Gone with a boot of the host.
pub(crate) fn pools(paths: &Paths) -> Pool {
    Pool {
        directory: paths.run.join("pool"),
        cgroups: Some(spec::CGROUPS.into()),
    }
}

/// Starts machines until as many wait as are wanted. Returns how many it has started.
///
/// # Errors
/// [`StartError`], also when there is no template of this name any more.
pub(crate) fn fill(paths: &Paths, template: &str) -> Result<u32, StartError> {
    let templates = templates(paths);
    let pools = pools(paths);
    pools
        .remove_orphans(&templates)
        .map_err(failed("cannot remove old pools"))?;
    let Some(template) = templates.open_by_name(template) else {
        return Ok(0);
    };
    let exercise = Exercise {
        disks: &mut || rehearsal::disks(paths),
        run: &mut |port| rehearsal::rehearse(port, Instant::now() + PATIENCE, true, None),
    };
    pools
        .fill(&template, PATIENCE, Some(exercise))
        .map_err(failed("cannot fill the pool"))
}
