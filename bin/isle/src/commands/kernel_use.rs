//! `isle kernel use`.

use std::process::ExitCode;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Choose the kernel that virtual machines boot from";
pub const EXAMPLES: &str = "  isle kernel use isle-6.1.192";

/// Flags of `kernel use`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its name
    #[arg(value_name = "KERNEL")]
    name: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let kernels = context.kernels();
    // Damage is told now, not when a machine starts.
    kernels.get(&args.name)?.verify()?;
    kernels.choose(&args.name)?;
    output::line(&args.name)?;
    Ok(ExitCode::SUCCESS)
}
