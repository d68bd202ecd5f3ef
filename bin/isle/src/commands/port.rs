//! `isle port`.

use std::process::ExitCode;

use isle_docker_model::network::host_side;

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::publish::unpublish;
use crate::output;

pub const ABOUT: &str = "List the ports of the host that lead to an instance";
pub const EXAMPLES: &str = "  isle port web
  isle port web 80/tcp";

/// Flags of `port`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    instance: String,
    /// Only what leads to this port inside: PORT[/PROTOCOL]
    #[arg(value_name = "PORT")]
    port: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let wanted = args.port.as_deref().map(unpublish).transpose()?;
    let instance = context.engine()?.find(&args.instance)?;
    let mut lines = Vec::new();
    for port in &instance.state.ports {
        match &wanted {
            None => lines.extend(
                host_side(port)
                    .into_iter()
                    .map(|host| format!("{}/{} -> {host}", port.port, port.protocol)),
            ),
            Some(wanted) => {
                let fits = wanted
                    .0
                    .iter()
                    .any(|one| (one.port, one.protocol) == (port.port, port.protocol));
                if fits {
                    lines.extend(host_side(port));
                }
            }
        }
    }
    if let (Some(wanted), true) = (&args.port, lines.is_empty()) {
        return Err(Failure::new(format!(
            "instance {} does not publish port {wanted}",
            instance.name
        ))
        .hint(format!("`isle port {}` lists what it publishes", instance.name))
        .into());
    }
    for line in lines {
        output::line(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}
