//! `isle kernel rm`.

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Remove kernels that no running virtual machine uses";
pub const EXAMPLES: &str = "  isle kernel rm isle-6.1.190";

/// Flags of `kernel rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Their names
    #[arg(required = true, value_name = "KERNEL")]
    names: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let kernels = context.kernels();
    output::each(&args.names, |name| Ok(kernels.remove(name)?))
}
