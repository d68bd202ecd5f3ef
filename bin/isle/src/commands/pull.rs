//! `isle pull`.

use std::process::ExitCode;

use isle_image::{Platform, PullOptions, PullPolicy, Reference};

use crate::context::Context;
use crate::failure::Result;
use crate::images;
use crate::output;
use crate::progress::ProgressFlags;

pub const ABOUT: &str = "Get images from a registry";
pub const EXAMPLES: &str = "  isle pull debian:12
  isle pull --platform linux/arm64 ghcr.io/owner/name@sha256:…
  isle pull localhost:5000/web";

/// Flags of `pull`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Platform to take of several, like linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    progress: ProgressFlags,
    /// Name, with a tag or digest
    #[arg(value_name = "IMAGE")]
    image: Reference,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let options = PullOptions {
        platform: args.platform.clone(),
        policy: PullPolicy::Always,
    };
    images::pull(context, &args.image, &options, &args.progress.open())?;
    output::line(&args.image.to_string())?;
    Ok(ExitCode::SUCCESS)
}
