//! `isle compose config`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use isle_compose::Project;
use serde_json::{Value, json};

use super::session::{ProjectFlags, say_warnings};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;

pub const EXAMPLES: &str = "  isle compose config
  isle compose config --services
  isle compose config --format json";

/// Flags of `compose config`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print the variables that values were filled in from
    #[arg(long)]
    environment: bool,
    /// yaml or json
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "yaml",
        hide_possible_values = true
    )]
    format: Format,
    /// Print the number that tells whether a service has changed: of one, of several with commas, or of all with "*"
    #[arg(long, value_name = "SERVICE")]
    hash: Option<String>,
    /// Print the names of images
    #[arg(long)]
    images: bool,
    /// Print the names of networks
    #[arg(long)]
    networks: bool,
    /// Leave variables in values as they are
    #[arg(long)]
    no_interpolate: bool,
    /// Leave env_file and variables that are passed on as they are
    #[arg(long)]
    no_env_resolution: bool,
    /// Leave paths as they are
    #[arg(long)]
    no_path_resolution: bool,
    /// Into a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the names of profiles
    #[arg(long)]
    profiles: bool,
    /// Only check, print nothing
    #[arg(short, long)]
    quiet: bool,
    /// Print the names of services
    #[arg(long)]
    services: bool,
    /// Print the names of volumes
    #[arg(long)]
    volumes: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As files are written.
    Yaml,
    /// For programs.
    Json,
}

pub fn run(args: &Args, flags: &ProjectFlags, _: &Context) -> Result {
    flags.no_dry_run("config")?;
    let mut request = flags.request()?;
    request.keeps_variables = args.no_interpolate;
    request.keeps_paths = args.no_path_resolution;
    request.keeps_environment = args.no_env_resolution;
    let mut project = Project::load(request)?;
    say_warnings(&project);
    project.enable(&args.names)?;
    if args.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let lines = |names: Vec<String>| -> Result {
        for name in names {
            output::line(&name)?;
        }
        Ok(ExitCode::SUCCESS)
    };
    let is_meant =
        |name: &str| args.names.is_empty() || args.names.iter().any(|other| other == name);
    if args.services {
        return lines(project.services.keys().cloned().collect());
    }
    if args.volumes {
        return lines(project.volumes.keys().cloned().collect());
    }
    if args.networks {
        return lines(project.networks.keys().cloned().collect());
    }
    if args.environment {
        return lines(
            project
                .environment
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
        );
    }
    if args.images {
        let services = project
            .services
            .values()
            .filter(|service| is_meant(&service.name));
        let names: BTreeSet<String> = services
            .map(|service| service.image_name(&project.name))
            .collect();
        return lines(names.into_iter().collect());
    }
    if args.profiles {
        let services = project.services.values().chain(project.disabled.values());
        let names: BTreeSet<String> = services
            .flat_map(|service| service.profiles.clone())
            .collect();
        return lines(names.into_iter().collect());
    }
    if let Some(wanted) = &args.hash {
        let wanted: Vec<&str> = wanted.split(',').collect();
        for name in wanted.iter().filter(|name| **name != "*") {
            if !project.services.contains_key(*name) {
                return Err(project.no_such_service(name).into());
            }
        }
        let services = project.services.values();
        let services = services.filter(|service| {
            wanted
                .iter()
                .any(|name| *name == "*" || *name == service.name)
        });
        return lines(
            services
                .map(|service| format!("{} {}", service.name, service.hash))
                .collect(),
        );
    }
    let text = match args.format {
        Format::Yaml => isle_compose::yaml(&document(&project, &args.names), !args.no_interpolate),
        Format::Json => {
            serde_json::to_string_pretty(&isle_compose::sorted(&document(&project, &args.names)))?
                + "\n"
        }
    };
    match &args.output {
        None => output::print(&text)?,
        Some(path) => std::fs::write(path, text).map_err(|error| {
            Failure::new(format!("cannot write {}", path.display())).because(error)
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The document with the services that are wanted, and what these use.
fn document(project: &Project, names: &[String]) -> Value {
    let mut document = project.document.clone();
    let options = isle_compose::Options {
        services: names.to_vec(),
        ..isle_compose::Options::default()
    };
    let services = isle_compose::selected(project, &options);
    let wanted: BTreeSet<&str> = services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    let Some(sections) = document.as_object_mut() else {
        return document;
    };
    if let Some(map) = sections.get_mut("services").and_then(Value::as_object_mut) {
        map.retain(|name, _| wanted.contains(name.as_str()));
    }
    // As Docker Compose: what no wanted service uses is left out.
    let mut used = json!({});
    for service in &services {
        for name in service.networks.keys() {
            used["networks"][name] = json!(true);
        }
        for source in service
            .volumes
            .iter()
            .filter(|mount| mount.kind == "volume")
            .filter_map(|mount| mount.source.as_ref())
        {
            used["volumes"][source] = json!(true);
        }
        for (key, grants) in [("secrets", &service.secrets), ("configs", &service.configs)] {
            for grant in grants {
                used[key][&grant.source] = json!(true);
            }
        }
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        if let Some(map) = sections.get_mut(section).and_then(Value::as_object_mut) {
            map.retain(|name, _| used[section].get(name).is_some());
        }
        if sections
            .get(section)
            .and_then(Value::as_object)
            .is_some_and(serde_json::Map::is_empty)
        {
            sections.remove(section);
        }
    }
    sections.retain(|_, value| !value.is_null());
    document
}
