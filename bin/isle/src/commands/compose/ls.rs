//! `isle compose ls`.

use std::collections::BTreeMap;

use isle_compose::words::label;
use isle_docker_model::status;
use isle_engine::state::Instance;
use isle_format::{Column, Row, column};
use serde_json::json;

use super::observe::is_up;
use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::{Filters, matches_pattern};
use crate::output::{self, ListFlags};

pub const EXAMPLES: &str = "  isle compose ls
  isle compose ls -a --format json";

/// Flags of `compose ls`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also projects of which nothing runs
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: name
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: &[Column] = &[
    column("Name", "NAME"),
    column("Status", "STATUS"),
    column("ConfigFiles", "CONFIG FILES"),
];

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("ls")?;
    let filters = Filters::parse(&args.filter, &["name"])?;
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("Name"),
        without_titles: false,
    };
    let mut projects: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for instance in context.engine()?.list()? {
        if let Some(name) = instance.config.labels.get(label::PROJECT) {
            projects.entry(name.clone()).or_default().push(instance);
        }
    }
    let rows: Vec<Row> = projects
        .iter()
        .filter(|(_, instances)| args.all || instances.iter().any(is_up))
        .filter(|(name, _)| filters.fits("name", |wanted| matches_pattern(wanted, name)))
        .map(|(name, instances)| {
            let mut states: BTreeMap<&str, usize> = BTreeMap::new();
            for instance in instances {
                *states
                    .entry(status::word(instance.state.status))
                    .or_default() += 1;
            }
            let states: Vec<String> = states
                .iter()
                .map(|(state, count)| format!("{state}({count})"))
                .collect();
            let files = instances
                .iter()
                .find_map(|instance| instance.config.labels.get(label::FILES));
            Row::new([
                ("Name", json!(name)),
                ("Status", json!(states.join(", "))),
                ("ConfigFiles", json!(files)),
            ])
        })
        .collect();
    output::list(&list.listing(COLUMNS)?, COLUMNS, &rows)
}
