//! `isle pool rm`.

use isle_engine::machines;

use super::template_rm;
use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "End the machines that wait in pools, and forget these";
pub const EXAMPLES: &str = "  isle pool rm 3f2a90c1
  isle pool rm $(isle pool ls -q)";

/// Flags of `pool rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The names of their templates, or how these begin
    #[arg(required = true, value_name = "TEMPLATE")]
    names: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let paths = context.paths();
    output::each(&args.names, |name| {
        let pools = machines::pools(&paths)?;
        let names = pools.into_iter().map(|pool| pool.template);
        let name = template_rm::only("pool", names, name)?;
        machines::remove_pool(&paths, &name)?;
        Ok(())
    })
}
