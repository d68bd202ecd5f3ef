//! `isle ps`.

use isle_docker_model::network;
use isle_docker_model::{command_line, status};
use isle_engine::config::MountSource;
use isle_engine::state::{Instance, Status};
use isle_format::{Column, Row, human, quote, column};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::container_prune::bytes_below;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::FlagError;
use crate::flags::filter::{Filters, matches_pattern};
use crate::images;
use crate::output::{self, ListFlags, shorten};

pub const ABOUT: &str = "List instances";
pub const EXAMPLES: &str = "  isle ps -a
  isle ps --filter label=tier=front --format '{{.Names}}\\t{{.Status}}'
  isle ps -aq --filter status=exited";

/// Flags of `ps`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: status, name, id, label, ancestor, exited, health, before, since, volume, network, isolation
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// The last so many created
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// The one created last
    #[arg(short, long)]
    latest: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Without the title line
    #[arg(long)]
    no_headers: bool,
    /// The sizes of their files
    #[arg(short, long)]
    size: bool,
}

const COLUMNS: &[Column] = &[
    column("ID", "CONTAINER ID"),
    column("Image", "IMAGE"),
    column("Command", "COMMAND"),
    column("RunningFor", "CREATED"),
    column("Status", "STATUS"),
    column("Ports", "PORTS"),
    column("Names", "NAMES"),
    column("Isolation", "ISOLATION"),
    column("Size", "SIZE"),
    column("CreatedAt", "CREATED AT"),
    column("State", "STATE"),
    column("Labels", "LABELS"),
    column("Mounts", "MOUNTS"),
    column("LocalVolumes", "LOCAL VOLUMES"),
    column("Networks", "NETWORKS"),
    column("Health", "HEALTH"),
    column("Platform", "PLATFORM"),
];
/// Those of a table without template: all up to `SIZE`, which comes with `-s`.
const DEFAULT_COLUMNS: usize = 8;

const FILTERS: [&str; 12] = [
    "status", "name", "id", "label", "ancestor", "exited", "health", "before", "since", "volume",
    "network", "isolation",
];

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    check(&filters)?;
    let shown = DEFAULT_COLUMNS + usize::from(args.size);
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
        without_titles: args.no_headers,
    };
    let listing = list.listing(&COLUMNS[..shown])?;
    let engine = context.engine()?;
    let all = engine.list()?;
    let anchor = |key: &str| match filters.values(key).first() {
        Some(name) => engine.find(name).map(|found| Some(found.created_at)),
        None => Ok(None),
    };
    let (before, since) = (anchor("before")?, anchor("since")?);
    let limit = match (args.latest, args.last) {
        (true, _) => Some(1),
        (false, Some(count)) => usize::try_from(count).ok(),
        (false, None) => None,
    };
    // Asking for a state, or for the last ones, asks for those that do not run as well.
    let with_stopped = args.all
        || limit.is_some()
        || !filters.values("status").is_empty()
        || !filters.values("exited").is_empty();
    let now = Timestamp::now();
    // Walking through files takes long: only where it is asked for.
    let format_asks = args.format.as_deref().is_some_and(|text| text.contains(".Size"));
    let with_sizes = args.size || format_asks;
    let size = |instance: &Instance| match with_sizes {
        false => "0B".to_owned(),
        true => size(context, instance),
    };
    let rows: Vec<Row> = all
        .iter()
        .filter(|instance| with_stopped || is_up(instance))
        .filter(|instance| before.is_none_or(|moment| instance.created_at < moment))
        .filter(|instance| since.is_none_or(|moment| instance.created_at > moment))
        .filter(|instance| fits(instance, &filters))
        .take(limit.unwrap_or(usize::MAX))
        .map(|instance| row(instance, size(instance), now, args.no_trunc))
        .collect();
    output::list(&listing, COLUMNS, &rows)
}

fn is_up(instance: &Instance) -> bool {
    matches!(
        instance.state.status,
        Status::Running | Status::Paused | Status::Restarting
    )
}

fn check(filters: &Filters) -> std::result::Result<(), FlagError> {
    const STATES: [&str; 7] = [
        "created", "running", "paused", "restarting", "exited", "removing", "dead",
    ];
    const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];
    for (key, known) in [("status", &STATES[..]), ("health", &HEALTH[..])] {
        for value in filters.values(key) {
            if !known.contains(&value.as_str()) {
                return Err(FlagError::new(
                    format!("invalid filter '{key}={value}'"),
                    format!("known are {}", known.join(", ")),
                ));
            }
        }
    }
    for value in filters.values("exited") {
        if value.parse::<i32>().is_err() {
            return Err(FlagError::new(
                format!("invalid filter 'exited={value}'"),
                "give an exit code",
            ));
        }
    }
    Ok(())
}

fn fits(instance: &Instance, filters: &Filters) -> bool {
    let config = &instance.config;
    let state = &instance.state;
    let id = instance.id.to_string();
    let exited = state.exit.as_ref().filter(|_| state.status == Status::Exited);
    filters.labels_fit(&config.labels)
        && filters.fits("status", |wanted| wanted == status::word(state.status))
        && filters.fits("name", |wanted| matches_pattern(wanted, instance.name.as_str()))
        && filters.fits("id", |wanted| matches_pattern(wanted, &id))
        && filters.fits("ancestor", |wanted| is_ancestor(instance, wanted))
        && filters.fits("health", |wanted| wanted == status::health_word(state))
        && filters.fits("isolation", |wanted| wanted == config.isolation.to_string())
        && filters.fits("network", |wanted| is_on(instance, wanted))
        && filters.fits("exited", |wanted| {
            exited.is_some_and(|exit| exit.code.to_string() == wanted)
        })
        && filters.fits("volume", |wanted| {
            config.mounts.iter().any(|mount| {
                mount.target == wanted
                    || match &mount.source {
                        MountSource::Bind { path, .. } => path.as_os_str() == wanted,
                        MountSource::Volume(volume) => volume.name.as_deref() == Some(wanted),
                        MountSource::Tmpfs { .. } => false,
                    }
            })
        })
}

fn is_ancestor(instance: &Instance, wanted: &str) -> bool {
    let image = instance.config.image.as_str();
    let digits = instance.image_id.trim_start_matches("sha256:");
    let wanted_digits = wanted.trim_start_matches("sha256:");
    image == wanted
        || image.strip_suffix(":latest") == Some(wanted)
        || wanted.strip_suffix(":latest") == Some(image)
        // `debian` is an ancestor whatever its tag.
        || (!wanted.contains(':') && image.split(':').next() == Some(wanted))
        || (wanted_digits.len() >= 4 && digits.starts_with(wanted_digits))
}

/// What it has written, and all of its files together.
fn size(context: &Context, instance: &Instance) -> String {
    let writable = bytes_below(&context.paths().instance(&instance.id).join("upper"));
    let image = images::size(context, &instance.image_id).unwrap_or(0);
    format!(
        "{} (virtual {})",
        human::size(writable, 3),
        human::size(writable + image, 3)
    )
}

fn row(instance: &Instance, size: String, now: Timestamp, no_trunc: bool) -> Row {
    let config = &instance.config;
    let command = command_line(config).join(" ");
    let command = match no_trunc {
        true => command,
        false => shorten(&command, 20),
    };
    let id = match no_trunc {
        true => instance.id.to_string(),
        false => instance.id.short(),
    };
    let image = match config.image.strip_prefix("sha256:") {
        Some(digits) if !no_trunc => digits.chars().take(12).collect(),
        _ => config.image.clone(),
    };
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mounts: Vec<String> = config
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => Some(path.display().to_string()),
            MountSource::Volume(volume) => volume.name.clone(),
            MountSource::Tmpfs { .. } => None,
        })
        .map(|text| if no_trunc { text } else { shorten(&text, 15) })
        .collect();
    let volumes = config
        .mounts
        .iter()
        .filter(|mount| matches!(mount.source, MountSource::Volume(_)))
        .count();
    let text = Value::String;
    Row {
        labels: config.labels.clone(),
        ..Row::new([
            ("ID", text(id)),
            ("Image", text(image)),
            // As in Docker, in quotes and with escapes.
            ("Command", text(quote(&command))),
            ("RunningFor", text(human::ago(instance.created_at, now))),
            ("CreatedAt", text(human::local_time(instance.created_at))),
            ("Status", text(status::text(&instance.state, now))),
            ("State", json!(status::word(instance.state.status))),
            ("Ports", text(network::ports_text(instance))),
            ("Names", text(instance.name.to_string())),
            ("Isolation", text(in_force(instance))),
            ("Size", text(size)),
            ("Labels", text(labels.join(","))),
            ("Mounts", text(mounts.join(","))),
            ("LocalVolumes", text(volumes.to_string())),
            (
                "Networks",
                text(network::names(&config.network).join(",")),
            ),
            ("Health", json!(status::health_word(&instance.state))),
            ("Platform", json!(format!("linux/{}", std::env::consts::ARCH))),
        ])
    }
}

/// Whether one of its networks has that name, or an id that begins so.
fn is_on(instance: &Instance, wanted: &str) -> bool {
    let mode = &instance.config.network;
    let is_id = |id: &str| wanted.len() >= 3 && id.starts_with(wanted);
    network::mode(mode) == wanted
        || network::names(mode).iter().any(|name| name == wanted)
        || mode.attachments().iter().any(|one| is_id(&one.network))
}

/// The level that is in force, with what carries it out where that says how strong the wall is.
pub fn in_force(instance: &Instance) -> String {
    let isolation = instance.config.isolation;
    match instance.state.accelerator {
        Some(accelerator) => format!("{isolation} ({accelerator})"),
        None => isolation.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isle_engine::config::{InstanceConfig, ProcessConfig};
    use isle_engine::state::InstanceState;
    use isle_types::InstanceId;

    fn instance() -> Instance {
        Instance {
            id: InstanceId::from_bytes([0xab; 32]),
            name: "web".parse().unwrap(),
            created_at: "2026-11-21T10:00:00Z".parse().unwrap(),
            image_id: format!("sha256:{}", "1234".repeat(16)),
            config: InstanceConfig {
                image: "debian:bookworm".into(),
                process: ProcessConfig {
                    command: Some(vec!["sh".into(), "-c".into(), "sleep 1000000 && echo".into()]),
                    ..ProcessConfig::default()
                },
                labels: [("tier".to_owned(), "front".to_owned())].into(),
                ..InstanceConfig::default()
            },
            state: InstanceState {
                status: Status::Running,
                pid: Some(1),
                accelerator: None,
                started_at: Some("2026-11-21T10:00:00Z".parse().unwrap()),
                finished_at: None,
                exit: None,
                restart_count: 0,
                is_stopped_by_user: false,
                networks: Vec::new(),
                ports: Vec::new(),
                health: None,
            },
        }
    }

    #[test]
    fn the_table_is_dockers_with_the_isolation_at_its_end() {
        let now = "2026-11-21T10:03:00Z".parse().unwrap();
        let flags = ListFlags {
            format: None,
            only: None,
            without_titles: false,
        };
        let listing = flags.listing(&COLUMNS[..DEFAULT_COLUMNS]).unwrap();
        let text = listing.render(COLUMNS, &[row(&instance(), "0B".to_owned(), now, false)]).unwrap();
        assert_eq!(
            text,
            "CONTAINER ID   IMAGE             COMMAND                  CREATED         STATUS         PORTS     NAMES     ISOLATION\n\
             abababababab   debian:bookworm   \"sh -c sleep 1000000…\"   3 minutes ago   Up 3 minutes             web       container\n"
        );
    }

    #[test]
    fn filters_choose() {
        let instance = instance();
        for (text, expected) in [
            ("status=running", true),
            ("status=exited", false),
            ("name=eb", true),
            ("name=^/web$", true),
            ("name=db", false),
            ("id=abab", true),
            ("label=tier", true),
            ("label=tier=front", true),
            ("label=tier=back", false),
            ("ancestor=debian", true),
            ("ancestor=debian:bookworm", true),
            ("ancestor=sha256:12341234", true),
            ("ancestor=deb", false),
            ("health=none", true),
            ("exited=0", false),
            ("network=none", true),
            ("isolation=container", true),
            ("volume=/data", false),
        ] {
            let filters = Filters::parse(&[text.to_owned()], &FILTERS).unwrap();
            assert_eq!(fits(&instance, &filters), expected, "{text}");
        }
        for bad in ["status=asleep", "exited=x", "health=good"] {
            let filters = Filters::parse(&[bad.to_owned()], &FILTERS).unwrap();
            check(&filters).expect_err(bad);
        }
    }
}
