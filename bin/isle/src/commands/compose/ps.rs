//! `isle compose ps`.

use std::process::ExitCode;

use clap::ValueEnum;
use isle_docker_model::{command_line, network, status};
use isle_engine::state::{Instance, Status};
use isle_format::{Column, Row, column, human, quote};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::observe::is_up;
use super::session::{ProjectFlags, is_one_off, service_of};
use crate::context::Context;
use crate::failure::Result;
use crate::flags::FlagError;
use crate::flags::filter::Filters;
use crate::output::{self, ListFlags, shorten};

pub const EXAMPLES: &str = "  isle compose ps
  isle compose ps -a --format json";

/// Flags of `compose ps`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also those that do not run, and those of `compose run`
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: status
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Without those of services that the files have no more (=false)
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    orphans: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only the names of services
    #[arg(long)]
    services: bool,
    /// Only those that are in this state
    #[arg(long, value_name = "STATE", hide_possible_values = true)]
    status: Vec<State>,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

/// Docker's words for states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

const COLUMNS: &[Column] = &[
    column("Name", "NAME"),
    column("Image", "IMAGE"),
    column("Command", "COMMAND"),
    column("Service", "SERVICE"),
    column("RunningFor", "CREATED"),
    column("Status", "STATUS"),
    column("Ports", "PORTS"),
    column("Isolation", "ISOLATION"),
    column("ID", "CONTAINER ID"),
    column("Project", "PROJECT"),
    column("State", "STATE"),
    column("Health", "HEALTH"),
    column("ExitCode", "EXIT CODE"),
    column("CreatedAt", "CREATED AT"),
    column("Labels", "LABELS"),
    column("Networks", "NETWORKS"),
];
const SHOWN: usize = 8;

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("ps")?;
    let filters = Filters::parse(&args.filter, &["status"])?;
    for value in filters.values("status") {
        State::from_str(value, true).map_err(|_| {
            FlagError::new(
                format!("invalid filter 'status={value}'"),
                "known are created, running, paused, restarting, removing, exited and dead",
            )
        })?;
    }
    let known = flags.known(context, &args.names)?;
    let asks_for_states = !args.status.is_empty() || !filters.values("status").is_empty();
    let fits = |instance: &&Instance| {
        let word = status::word(instance.state.status);
        let is_asked = args.status.is_empty()
            || args.status.iter().any(|state| {
                state
                    .to_possible_value()
                    .is_some_and(|value| value.get_name() == word)
            });
        let is_own = args.orphans
            || known
                .project
                .as_ref()
                .is_none_or(|project| project.services.contains_key(service_of(instance)));
        (args.all
            || asks_for_states
            || is_up(instance)
            || instance.state.status == Status::Restarting)
            && (args.all || !is_one_off(instance))
            && is_asked
            && is_own
            && filters.fits("status", |wanted| wanted == word)
    };
    let instances: Vec<&Instance> = known
        .instances(&args.names, true)
        .into_iter()
        .filter(fits)
        .collect();
    if args.services {
        let mut names: Vec<&str> = instances
            .iter()
            .map(|instance| service_of(instance))
            .collect();
        names.dedup();
        for name in names {
            output::line(name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
        without_titles: false,
    };
    let now = Timestamp::now();
    let rows: Vec<Row> = instances
        .iter()
        .map(|instance| row(instance, &known.name, now, args))
        .collect();
    output::list(&list.listing(&COLUMNS[..SHOWN])?, COLUMNS, &rows)
}

fn row(instance: &Instance, project: &str, now: Timestamp, args: &Args) -> Row {
    let config = &instance.config;
    let command = command_line(config).join(" ");
    let command = if args.no_trunc {
        command
    } else {
        shorten(&command, 20)
    };
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let text = Value::String;
    let id = if args.quiet || args.no_trunc {
        instance.id.to_string()
    } else {
        instance.id.short()
    };
    Row {
        labels: config.labels.clone(),
        ..Row::new([
            ("ID", text(id)),
            ("Name", text(instance.name.to_string())),
            ("Image", text(config.image.clone())),
            ("Command", text(quote(&command))),
            ("Service", json!(service_of(instance))),
            ("Project", json!(project)),
            ("RunningFor", text(human::ago(instance.created_at, now))),
            ("CreatedAt", text(human::local_time(instance.created_at))),
            ("Status", text(status::text(&instance.state, now))),
            ("State", json!(status::word(instance.state.status))),
            (
                "Health",
                json!(match status::health_word(&instance.state) {
                    "none" => "",
                    word => word,
                }),
            ),
            (
                "ExitCode",
                json!(instance.state.exit.as_ref().map_or(0, |exit| exit.code)),
            ),
            ("Ports", text(network::ports_text(instance))),
            ("Isolation", text(super::super::ps::in_force(instance))),
            ("Labels", text(labels.join(","))),
            ("Networks", text(network::names(&config.network).join(","))),
        ])
    }
}
