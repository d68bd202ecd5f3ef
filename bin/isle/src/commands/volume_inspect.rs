//! `isle volume inspect`.

use isle_docker_model::volume::{self, Usage};
use serde_json::Value;

use super::inspect::show;
use crate::context::Context;
use crate::failure::Result;

pub const ABOUT: &str = "Show all that is known of volumes, as JSON";
pub const EXAMPLES: &str = "  isle volume inspect data
  isle volume inspect --format '{{.Mountpoint}}' data
  isle volume inspect --size --format '{{.UsageData.Size}}' data";

/// Flags of `volume inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// What its files take, and how many instances mount it
    #[arg(short, long)]
    size: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    show(&args.volumes, args.format.as_deref(), |name| {
        inspect(context, name, args.size)
    })
}

/// One volume as `docker volume inspect` shows it.
pub fn inspect(context: &Context, name: &str, with_size: bool) -> Result<Value> {
    let engine = context.engine()?;
    let found = engine.find_volume(name)?;
    let usage = match with_size {
        true => Some(Usage {
            bytes: engine.volume_bytes(&found),
            users: engine.volume_users()?.get(name).map_or(0, Vec::len),
        }),
        false => None,
    };
    Ok(volume::inspect(&found, &engine.volume_path(name), usage))
}
