//! `isle rename`.

use std::process::ExitCode;

use isle_types::InstanceName;

use crate::context::Context;
use crate::failure::Result;

pub const ABOUT: &str = "Give an instance another name";
pub const EXAMPLES: &str = "  isle rename web web-old";

/// Flags of `rename`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    instance: String,
    /// The new name
    #[arg(value_name = "NAME")]
    name: InstanceName,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instance = engine.find(&args.instance)?;
    engine.rename(&instance.id, &args.name)?;
    Ok(ExitCode::SUCCESS)
}
