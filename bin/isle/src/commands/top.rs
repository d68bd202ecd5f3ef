//! `isle top`.

use std::process::ExitCode;

use isle_format::Table;

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;

pub const ABOUT: &str = "Show the processes of an instance";
pub const EXAMPLES: &str = "  isle top web
  isle top web -eo pid,comm";

/// Flags of `top`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Instance, then options of ps(1)
    #[arg(required = true, value_names = ["CONTAINER", "PS-OPTION"], num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let (name, options) = args
        .words
        .split_first()
        .ok_or_else(|| Failure::new("no instance given"))?;
    let engine = context.engine()?;
    let instance = engine.find(name)?;
    let processes = engine.top(&instance.id, options)?;
    let mut table = Table::new();
    table.push(processes.titles);
    for row in processes.rows {
        table.push(row);
    }
    output::print(&table.render())?;
    Ok(ExitCode::SUCCESS)
}
