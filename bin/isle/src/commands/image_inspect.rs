//! `isle image inspect`.

use super::inspect::show;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::images;

pub const ABOUT: &str = "Show all that is known of images, as JSON";
pub const EXAMPLES: &str = "  isle image inspect debian
  isle image inspect --format '{{json .Config.Env}}' debian";

/// Flags of `image inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    show(&args.images, args.format.as_deref(), |name| {
        images::inspect(context, name)?.ok_or_else(|| {
            Failure::new(format!("no such image: {name}"))
                .hint("see `isle images`")
                .into()
        })
    })
}
