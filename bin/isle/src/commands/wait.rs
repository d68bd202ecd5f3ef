//! `isle wait`.

use clap::ValueEnum;
use isle_engine::WaitCondition;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Wait until instances end, and print their exit codes";
pub const EXAMPLES: &str = "  isle wait job
  isle wait --condition removed job";

/// What is waited for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Condition {
    /// It does not run.
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is gone.
    Removed,
}

/// Flags of `wait`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to wait for: not-running, next-exit or removed
    #[arg(long, value_name = "CONDITION", default_value = "not-running", hide_possible_values = true)]
    condition: Condition,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let condition = match args.condition {
        Condition::NotRunning => WaitCondition::NotRunning,
        Condition::NextExit => WaitCondition::NextExit,
        Condition::Removed => WaitCondition::Removed,
    };
    output::each_silent(&args.instances, |name| {
        let instance = engine.find(name)?;
        let exit = engine.wait(&instance.id, condition)?;
        output::line(&exit.code.to_string())
    })
}
