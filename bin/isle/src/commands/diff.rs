//! `isle diff`.

use std::process::ExitCode;

use isle_engine::ChangeKind;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Show what an instance has changed of its image's files";
pub const EXAMPLES: &str = "  isle diff web";

/// Flags of `diff`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    instance: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instance = engine.find(&args.instance)?;
    let mut text = String::new();
    for change in engine.diff(&instance.id)? {
        let letter = match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Changed => 'C',
            ChangeKind::Deleted => 'D',
        };
        text.push_str(&format!("{letter} {}\n", change.path.display()));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
