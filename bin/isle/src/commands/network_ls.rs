//! `isle network ls`.

use isle_format::{Column, Row, human};
use isle_network::Network;
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::{Filters, matches_pattern};
use crate::flags::switch;
use crate::output::{self, ListFlags};

pub const ABOUT: &str = "List networks";
pub const EXAMPLES: &str = "  isle network ls
  isle network ls --filter driver=bridge -q
  isle network ls --format 'table {{.Name}}\\t{{.Subnets}}\\t{{.Internal}}'";

/// Flags of `network ls`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only those that fit: name, id, label, driver, type, scope, dangling
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Without the title line
    #[arg(long)]
    no_headers: bool,
    /// Ids as a whole
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
}

const PLAIN: &[Column] = &[
    column("ID", "NETWORK ID"),
    column("Name", "NAME"),
    column("Driver", "DRIVER"),
    column("Subnets", "SUBNETS"),
];
const COLUMNS: &[Column] = &[
    column("ID", "NETWORK ID"),
    column("Name", "NAME"),
    column("Driver", "DRIVER"),
    column("Scope", "SCOPE"),
    column("IPv4", "IPV4"),
    column("IPv6", "IPV6"),
    column("Internal", "INTERNAL"),
    column("Labels", "LABELS"),
    column("CreatedAt", "CREATED AT"),
    column("Subnets", "SUBNETS"),
];
const FILTERS: [&str; 7] = ["name", "id", "label", "driver", "type", "scope", "dangling"];

const fn column(field: &'static str, title: &'static str) -> Column {
    Column { field, title }
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let dangling = filters.each("dangling", switch)?;
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
        without_titles: args.no_headers,
    };
    let listing = list.listing(PLAIN)?;
    let engine = context.engine()?;
    let used = match dangling.is_empty() {
        true => std::collections::BTreeSet::new(),
        false => engine.used_networks()?,
    };
    let mut rows = Vec::new();
    for network in engine.networks()? {
        let kind = match network.name == isle_network::DEFAULT {
            true => "builtin",
            false => "custom",
        };
        let spec = &network.spec;
        let fits = filters.labels_fit(&spec.labels)
            && filters.fits("driver", |wanted| wanted == spec.driver.name())
            && filters.fits("type", |wanted| wanted == kind)
            && filters.fits("scope", |wanted| wanted == "local")
            && filters.fits("id", |pattern| matches_pattern(pattern, &network.id))
            && filters.fits("name", |pattern| matches_pattern(pattern, &network.name));
        if !fits {
            continue;
        }
        if dangling.iter().any(|wanted| *wanted == used.contains(&network.id)) {
            continue;
        }
        rows.push(row(&network, args.no_trunc));
    }
    output::list(&listing, COLUMNS, &rows)
}

fn row(network: &Network, no_trunc: bool) -> Row {
    let spec = &network.spec;
    let id = match no_trunc {
        true => &network.id,
        false => &network.id[..12],
    };
    let labels: Vec<String> = spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let subnets: Vec<String> = spec.subnets.iter().map(|s| s.subnet.to_string()).collect();
    Row {
        labels: spec.labels.clone(),
        ..Row::new([
            ("ID", json!(id)),
            ("Name", json!(network.name)),
            ("Driver", json!(spec.driver.name())),
            ("Scope", json!("local")),
            ("IPv4", json!(network.subnet(false).is_some().to_string())),
            ("IPv6", json!(network.subnet(true).is_some().to_string())),
            ("Internal", json!(spec.internal.to_string())),
            ("Labels", json!(labels.join(","))),
            ("CreatedAt", json!(human::local_time(network.created_at))),
            ("Subnets", json!(subnets.join(","))),
        ])
    }
}
