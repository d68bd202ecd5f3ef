//! `isle tag`.

use std::process::ExitCode;

use crate::context::Context;
use crate::failure::Result;

pub const ABOUT: &str = "Give an image a further name";
pub const EXAMPLES: &str = "  isle tag web:patched registry.example.com/team/web:1.2";

/// Flags of `tag`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The further name
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    engine.images().tag(&args.image, &args.name)?;
    let id = engine.images().find(&args.name)?.id;
    engine.record_image_event("tag", id.as_str(), &args.name)?;
    Ok(ExitCode::SUCCESS)
}
