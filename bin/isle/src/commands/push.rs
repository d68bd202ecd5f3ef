//! `isle push`.

use std::process::ExitCode;

use isle_image::Reference;
use isle_registry::{Client, Config};

use crate::context::Context;
use crate::failure::Result;
use crate::output;
use crate::progress::ProgressFlags;

pub const ABOUT: &str = "Send an image to a registry";
pub const EXAMPLES: &str = "  isle tag web registry.example.com/team/web:1.2
  isle push registry.example.com/team/web:1.2";

/// Flags of `push`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    progress: ProgressFlags,
    /// Name, with the registry before the first slash
    #[arg(value_name = "IMAGE")]
    image: Reference,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let client = Client::new(Config::of_host()?);
    let progress = args.progress.open();
    let digest = engine.images().push(&client, &args.image, &progress)?;
    let name = args.image.familiar();
    let id = engine.images().find(&args.image.to_string())?.id;
    engine.record_image_event("push", id.as_str(), &name)?;
    match args.progress.quiet {
        true => output::line(&args.image.to_string())?,
        false => output::line(&format!("{name}@{digest}"))?,
    }
    Ok(ExitCode::SUCCESS)
}
