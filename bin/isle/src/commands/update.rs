//! `isle update`.

use isle_engine::UpdateRequest;
use isle_engine::config::{Resources, RestartPolicy};

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::flags::resources::ResourceFlags;
use crate::flags::restart;
use crate::output;

pub const ABOUT: &str = "Change limits and restart policy of instances";
pub const EXAMPLES: &str = "  isle update --memory 1g --cpus 2 web
  isle update --restart unless-stopped web db";

/// Flags of `update`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    resources: ResourceFlags,
    /// When it is started again: no, always, unless-stopped or on-failure[:N]
    #[arg(long, value_name = "POLICY", value_parser = restart::policy)]
    restart: Option<RestartPolicy>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let request = UpdateRequest {
        resources: args.resources.resources()?,
        restart: args.restart,
    };
    if request.resources == Resources::default() && request.restart.is_none() {
        return Err(Failure::new("you must provide one or more flags when using this command")
            .hint("for example: isle update --memory 1g NAME")
            .code(ENGINE)
            .into());
    }
    let engine = context.engine()?;
    output::each(&args.instances, |name| {
        let instance = engine.find(name)?;
        engine.update(&instance.id, &request)?;
        Ok(())
    })
}
