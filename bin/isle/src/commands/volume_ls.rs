//! `isle volume ls`.

use isle_engine::Volume;
use isle_format::{Column, Row, human};
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::{Filters, matches_pattern};
use crate::flags::switch;
use crate::output::{self, ListFlags};

pub const ABOUT: &str = "List volumes";
pub const EXAMPLES: &str = "  isle volume ls
  isle volume ls --filter dangling=true -q
  isle volume ls --format 'table {{.Name}}\t{{.Size}}\t{{.Links}}'";

/// Flags of `volume ls`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only those that fit: name, label, dangling, driver
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Without the title line
    #[arg(long)]
    no_headers: bool,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
}

const PLAIN: &[Column] = &[column("Driver", "DRIVER"), column("Name", "VOLUME NAME")];
const COLUMNS: &[Column] = &[
    column("Driver", "DRIVER"),
    column("Name", "VOLUME NAME"),
    column("CreatedAt", "CREATED AT"),
    column("Labels", "LABELS"),
    column("Links", "LINKS"),
    column("Mountpoint", "MOUNTPOINT"),
    column("Options", "OPTIONS"),
    column("Scope", "SCOPE"),
    column("Size", "SIZE"),
];

const fn column(field: &'static str, title: &'static str) -> Column {
    Column { field, title }
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &["name", "label", "dangling", "driver"])?;
    let dangling = filters.each("dangling", switch)?;
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("Name"),
        without_titles: args.no_headers,
    };
    let listing = list.listing(PLAIN)?;
    let engine = context.engine()?;
    let users = match dangling.is_empty() && !listing.mentions("Links") {
        true => std::collections::BTreeMap::new(),
        false => engine.volume_users()?,
    };
    let has_size = listing.mentions("Size");
    let mut rows = Vec::new();
    for volume in engine.volumes()? {
        let links = users.get(&volume.name).map_or(0, Vec::len);
        let fits = dangling.iter().all(|wanted| *wanted == (links == 0))
            && filters.labels_fit(&volume.labels)
            && filters.fits("driver", |wanted| wanted == "local")
            && filters.fits("name", |pattern| matches_pattern(pattern, &volume.name));
        if !fits {
            continue;
        }
        let size = match has_size {
            true => human::size(engine.volume_bytes(&volume), 3),
            false => String::new(),
        };
        let mountpoint = engine.volume_path(&volume.name);
        rows.push(row(&volume, &mountpoint.display().to_string(), links, &size));
    }
    output::list(&listing, COLUMNS, &rows)
}

fn row(volume: &Volume, mountpoint: &str, links: usize, size: &str) -> Row {
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        let pairs = map.iter().map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    };
    Row {
        labels: volume.labels.clone(),
        ..Row::new([
            ("Driver", json!("local")),
            ("Name", json!(volume.name)),
            ("CreatedAt", json!(human::local_time(volume.created_at))),
            ("Labels", json!(pairs(&volume.labels))),
            ("Links", json!(links.to_string())),
            ("Mountpoint", json!(mountpoint)),
            ("Options", json!(pairs(&volume.options))),
            ("Scope", json!("local")),
            ("Size", json!(size)),
        ])
    }
}
