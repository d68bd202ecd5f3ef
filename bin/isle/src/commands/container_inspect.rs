//! `isle container inspect`.

use super::inspect::{instance, show};
use crate::context::Context;
use crate::failure::Result;

pub const ABOUT: &str = "Show all that is known of instances, as JSON";
pub const EXAMPLES: &str = "  isle container inspect web
  isle container inspect --format '{{.State.ExitCode}}' job";

/// Flags of `container inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The sizes of its files
    #[arg(short, long)]
    size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    show(&args.instances, args.format.as_deref(), |name| {
        instance(context, name, args.size)
    })
}
