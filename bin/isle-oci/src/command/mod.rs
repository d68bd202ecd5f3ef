//! The verbs.

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod update;

use anyhow::bail;
use isle_runtime::{LaunchError, PlanError};

use crate::arguments::{Arguments, Verb};
use crate::vm::Refused;

/// Does what was asked; the exit code.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let global = arguments.global;
    let root = &global.root;
    match arguments.verb {
        Verb::Create(arguments) => create::run(&global, &arguments),
        Verb::Start { id } => start::run(root, &id),
        Verb::Run(arguments) => run::run(&global, &arguments),
        Verb::State { id } => state::run(root, &id),
        Verb::Kill(arguments) => kill::run(root, &arguments),
        Verb::Delete(arguments) => delete::run(root, &arguments),
        Verb::Exec(arguments) => exec::run(root, &arguments),
        Verb::Ps(arguments) => ps::run(root, &arguments),
        Verb::List(arguments) => list::run(root, &arguments),
        Verb::Pause { id } => pause::pause(root, &id),
        Verb::Resume { id } => pause::resume(root, &id),
        Verb::Update(arguments) => update::run(root, &arguments),
        Verb::Events(arguments) => events::run(root, &arguments),
        Verb::Spec(arguments) => spec::run(&arguments),
        Verb::Features => features::run(),
        Verb::Checkpoint(_) => bail!("checkpoints are not supported yet"),
        Verb::Restore(_) => bail!("restoring from a checkpoint is not supported yet"),
    }
}

/// The exit code for an error: 127 and 126 for a program that cannot be executed, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let of_guest = error.downcast_ref::<Refused>().map(|error| error.exit_code);
    error
        .downcast_ref::<LaunchError>()
        .map(LaunchError::exit_code)
        .or(of_guest)
        .filter(|code| matches!(code, 126 | 127))
        .unwrap_or(1)
}

/// What the caller may do about an error, if it is known.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(error) = error.downcast_ref::<LaunchError>() {
        return error.hint().map(str::to_owned);
    }
    match error.downcast_ref::<PlanError>() {
        Some(PlanError::Unavailable { field, .. }) => {
            Some(format!("leave {field} out of config.json on this host"))
        }
        _ => None,
    }
}
