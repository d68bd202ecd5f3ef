//! `isle network inspect`.

use isle_docker_model::network;
use serde_json::Value;

use super::inspect::show;
use crate::context::Context;
use crate::failure::Result;

pub const ABOUT: &str = "Show all that is known of networks, as JSON";
pub const EXAMPLES: &str = "  isle network inspect bridge
  isle network inspect --format '{{range .Containers}}{{.Name}} {{.IPv4Address}} {{end}}' front";

/// Flags of `network inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    show(&args.networks, args.format.as_deref(), |name| {
        inspect(context, name)
    })
}

/// One network as `docker network inspect` shows it.
pub fn inspect(context: &Context, name: &str) -> Result<Value> {
    let engine = context.engine()?;
    let found = engine.find_network(name)?;
    let members = engine.network_members(&found)?;
    Ok(network::inspect(&found, &members))
}
