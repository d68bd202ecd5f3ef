//! What instances of level `vm` are started from, for those who manage it: templates, and pools of machines that wait.

use isle_qemu::{Pool, PoolSummary, Store, Summary};
use isle_types::Isolation;

use crate::backend::{StartError, vm};
use crate::config::Resources;
use crate::state::Instance;
use crate::{MachineStats, Paths, Preparation};

pub use isle_qemu::{PoolError, TemplateError};

/// A template, and the machines that were copied from it and wait.
pub type Template = Summary;
/// The pool of one template.
pub type PoolState = PoolSummary;

/// The machine of an instance, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Virtual processors.
    pub vcpus: u32,
    /// Whether its memory follows what the host has.
    pub is_elastic: bool,
    /// Its memory, and what it costs.
    pub memory: MachineStats,
}

/// The machine of an instance; `None` when none runs for it.
#[must_use]
pub fn of_instance(instance: &Instance, paths: &Paths) -> Option<Machine> {
    let pid = instance.state.pid?;
    match instance.config.isolation {
        Isolation::Container => None,
        Isolation::Vm => vm::machine(instance, paths, pid),
    }
}

fn templates_of(paths: &Paths) -> Store {
    vm::pool::templates(paths)
}

fn pools_of(paths: &Paths) -> Pool {
    vm::pool::pools(paths)
}

/// All templates: those of machines, then those of images ([`Template::subject`]), oldest first.
///
/// # Errors
/// When they cannot be read.
pub fn templates(paths: &Paths) -> Result<Vec<Template>, TemplateError> {
    let mut list = templates_of(paths).list()?;
    list.extend(vm::rehearsal::templates(paths).list()?);
    Ok(list)
}

/// Removes a template and its pool. Instances that were copied from it run on. `false`: there was none.
///
/// # Errors
/// When it is just being made, or cannot be removed.
pub fn remove_template(paths: &Paths, name: &str) -> Result<bool, StartError> {
    remove_pool(paths, name)
        .map_err(crate::backend::failed("cannot remove the template's pool"))?;
    let mut was_there = false;
    for store in [templates_of(paths), vm::rehearsal::templates(paths)] {
        was_there |= store
            .remove(name)
            .map_err(crate::backend::failed("cannot remove the template"))?;
    }
    Ok(was_there)
}

/// All pools.
///
/// # Errors
/// When they cannot be read.
pub fn pools(paths: &Paths) -> Result<Vec<PoolState>, PoolError> {
    pools_of(paths).list()
}

/// Says how many machines for instances with these limits are to wait, and starts them; 0: none any more. Returns
/// the name of the template that they are of.
///
/// # Errors
/// [`StartError`], with the remedy.
pub fn set_pool(
    paths: &Paths,
    resources: &Resources,
    size: u32,
    progress: &mut (dyn FnMut(Preparation) + Send),
) -> Result<String, StartError> {
    let base = vm::base(resources, false, paths, progress)?;
    let name = base.template.key().to_string();
    pools_of(paths)
        .set(&base.template, size)
        .map_err(crate::backend::failed("cannot set the pool's size"))?;
    fill_pool(paths, &name)?;
    Ok(name)
}

/// Starts machines until as many wait as are wanted. Returns how many it has started.
///
/// # Errors
/// [`StartError`]
pub fn fill_pool(paths: &Paths, template: &str) -> Result<u32, StartError> {
    vm::pool::fill(paths, template)
}

/// Ends the machines that wait in a pool, and forgets it. `false`: there was none.
///
/// # Errors
/// When a file or process cannot be removed.
pub fn remove_pool(paths: &Paths, template: &str) -> Result<bool, PoolError> {
    pools_of(paths).remove(template)
}
