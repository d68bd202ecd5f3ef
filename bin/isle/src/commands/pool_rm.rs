//! `isle pool rm`.

use isle_engine::machines;

use crate::context::Context;
use crate::failure::{Failure, Result};
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
        let mut fitting = pools.iter().filter(|pool| pool.template.starts_with(name));
        let (Some(pool), None) = (fitting.next(), fitting.next()) else {
            return Err(Failure::new(format!("there is not exactly one pool whose name begins with {name}"))
                .hint("`isle pool ls` lists them")
                .into());
        };
        machines::remove_pool(&paths, &pool.template)?;
        Ok(())
    })
}
