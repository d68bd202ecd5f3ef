//! `isle inspect`.

use std::process::ExitCode;

use clap::ValueEnum;
use isle_docker_model::instance::{Surroundings, for_print, inspect};
use isle_engine::{EngineError, machines};
use isle_format::Template;
use isle_network::NetworkError;
use serde_json::Value;

use super::container_prune::bytes_below;
use super::{network_inspect, volume_inspect};
use crate::context::Context;
use crate::failure::{Failure, Result, report};
use crate::{images, output};

pub const ABOUT: &str = "Show all that is known of instances, images, volumes and networks, as JSON";
pub const EXAMPLES: &str = "  isle inspect web
  isle inspect --format '{{.State.ExitCode}}' job
  isle inspect --type image --format '{{json .Config.Env}}' debian";

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Instances.
    Container,
    /// Images.
    Image,
    /// Volumes.
    Volume,
    /// Networks.
    Network,
}

/// Flags of `inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The sizes of an instance's files
    #[arg(short, long)]
    size: bool,
    /// Only this: container, image, volume or network
    #[arg(long = "type", value_name = "TYPE", hide_possible_values = true)]
    kind: Option<Kind>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME-OR-ID")]
    names: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let wants = |kind| args.kind.is_none_or(|only| only == kind);
    show(&args.names, args.format.as_deref(), |name| {
        if wants(Kind::Container) {
            match instance(context, name, args.size) {
                Err(error) if is_missing(&error) && args.kind.is_none() => {}
                found => return found,
            }
        }
        if wants(Kind::Image) {
            match images::inspect(context, name)? {
                Some(value) => return Ok(value),
                None if args.kind.is_none() => {}
                None => {
                    return Err(Failure::new(format!("no such image: {name}"))
                        .hint("see `isle images`")
                        .into());
                }
            }
        }
        if wants(Kind::Network) {
            match network_inspect::inspect(context, name) {
                Err(error) if is_missing(&error) && args.kind.is_none() => {}
                found => return found,
            }
        }
        match volume_inspect::inspect(context, name, args.size) {
            Err(error) if is_missing(&error) && args.kind.is_none() => {
                Err(Failure::new(format!("no such object: {name}"))
                    .hint("see `isle ps -a`, `isle images`, `isle volume ls` and `isle network ls`")
                    .into())
            }
            found => found,
        }
    })
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<EngineError>(),
        Some(
            EngineError::NoSuchInstance { .. }
                | EngineError::NoSuchVolume { .. }
                | EngineError::Network(NetworkError::NoSuchNetwork { .. })
        )
    )
}

/// One instance as `docker inspect` shows it.
pub fn instance(context: &Context, name: &str, with_size: bool) -> Result<Value> {
    let instance = context.engine()?.find(name)?;
    let paths = context.paths();
    let sizes = with_size.then(|| {
        let writable = bytes_below(&paths.instance(&instance.id).join("upper"));
        let image = images::size(context, &instance.image_id).unwrap_or(0);
        (writable, writable + image)
    });
    let machine = machines::of_instance(&instance, &paths);
    Ok(inspect(&instance, &paths, &Surroundings { sizes, machine }))
}

/// Prints what is found as one JSON array, or by a template a line; says what is not found.
pub fn show(
    names: &[String],
    format: Option<&str>,
    mut find: impl FnMut(&str) -> Result<Value>,
) -> Result {
    let template = match format {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))?),
    };
    let mut code = 0;
    let mut found = Vec::new();
    for name in names {
        match find(name) {
            Ok(value) => found.push(value),
            Err(error) => code = code.max(report(&error, 1)),
        }
    }
    match template {
        Some(template) => {
            for value in &found {
                output::line(&template.render(value)?)?;
            }
        }
        None => {
            let values: Value = found.into_iter().map(for_print).collect();
            let text = match format {
                Some("json") => values.to_string(),
                _ => pretty(&values)?,
            };
            output::line(&text)?;
        }
    }
    Ok(ExitCode::from(code))
}

/// Four spaces, as Docker has it.
fn pretty(value: &Value) -> Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(String::from_utf8(text)?)
}
