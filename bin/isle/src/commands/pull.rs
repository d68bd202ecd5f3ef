//! `isle pull`.

use std::process::ExitCode;

use isle_image::{Platform, PullOptions, PullPolicy, Reference, Store};
use isle_registry::{Client, Config};

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::images;
use crate::output;
use crate::progress::ProgressFlags;

pub const ABOUT: &str = "Get images from a registry";
pub const EXAMPLES: &str = "  isle pull debian:12
  isle pull --platform linux/arm64 ghcr.io/owner/name@sha256:…
  isle pull localhost:5000/web
  isle pull --all-tags localhost:5000/web";

/// Flags of `pull`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// All tags that the registry has of this name
    #[arg(short, long)]
    all_tags: bool,
    /// Platform to take of several, like linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    progress: ProgressFlags,
    /// Name, with a tag or digest
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let options = PullOptions {
        platform: args.platform.clone(),
        policy: PullPolicy::Always,
    };
    let progress = args.progress.open();
    if !args.all_tags {
        let image: Reference = args.image.parse()?;
        images::pull(context, &image, &options, &progress)?;
        output::line(&image.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let repository = images::repository(&args.image)?;
    let client = Client::new(Config::of_host()?);
    let tags = Store::remote_tags(&client, &repository)?;
    if tags.is_empty() {
        return Err(Failure::new(format!("{} has no tags", repository.name())).into());
    }
    for image in &tags {
        images::pull(context, image, &options, &progress)?;
    }
    output::line(&repository.name())?;
    Ok(ExitCode::SUCCESS)
}
