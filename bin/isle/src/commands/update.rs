//! `isle update`.

use isle_engine::config::{Resources, RestartPolicy};
use isle_engine::{Unpublish, UpdateRequest};
use isle_network::Publish;

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::flags::publish::{Published, Unpublished, publish, unpublish};
use crate::flags::resources::ResourceFlags;
use crate::flags::restart;
use crate::output;

pub const ABOUT: &str = "Change limits, restart policy and published ports of instances";
pub const EXAMPLES: &str = "  isle update --memory 1g --cpus 2 web
  isle update --restart unless-stopped web db
  isle update --publish-add 8443:443 --publish-rm 8080:80 web";

/// Flags of `update`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    resources: ResourceFlags,
    /// When it is started again: no, always, unless-stopped or on-failure[:N]
    #[arg(long, value_name = "POLICY", value_parser = restart::policy)]
    restart: Option<RestartPolicy>,
    /// Lead a port of the host to it too
    #[arg(long, value_name = "[ADDRESS:][HOST-PORT:]PORT[/PROTOCOL]", value_parser = publish)]
    publish_add: Vec<Published>,
    /// Lead a port of the host to it no more
    #[arg(long, value_name = "[ADDRESS:][HOST-PORT:]PORT[/PROTOCOL]", value_parser = unpublish)]
    publish_rm: Vec<Unpublished>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let request = UpdateRequest {
        resources: args.resources.resources()?,
        restart: args.restart,
    };
    let add: Vec<Publish> = args.publish_add.iter().flat_map(|p| p.0.clone()).collect();
    let remove: Vec<Unpublish> = args.publish_rm.iter().flat_map(|p| p.0.clone()).collect();
    let changes_ports = !add.is_empty() || !remove.is_empty();
    let changes_limits = request.resources != Resources::default() || request.restart.is_some();
    if !changes_limits && !changes_ports {
        return Err(Failure::new("you must provide one or more flags when using this command")
            .hint("for example: isle update --memory 1g NAME")
            .code(ENGINE)
            .into());
    }
    let engine = context.engine()?;
    output::each(&args.instances, |name| {
        let instance = engine.find(name)?;
        if changes_limits {
            engine.update(&instance.id, &request)?;
        }
        if changes_ports {
            engine.change_ports(&instance.id, &add, &remove)?;
        }
        Ok(())
    })
}
