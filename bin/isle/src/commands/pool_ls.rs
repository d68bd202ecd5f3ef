//! `isle pool ls`.

use isle_engine::machines;
use isle_format::{Column, Row, human};
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, ListFlags};

pub const ABOUT: &str = "List the pools of machines that wait, and what memory they take";
pub const EXAMPLES: &str = "  isle pool ls
  isle pool ls --format '{{.Ready}} of {{.Size}}: {{.PSS}}'";

/// Flags of `pool ls`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Without the title line
    #[arg(long)]
    no_headers: bool,
    /// Only names of templates
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: &[Column] = &[
    column("Template", "TEMPLATE"),
    column("Memory", "MEMORY"),
    column("CPUs", "CPUS"),
    column("Size", "SIZE"),
    column("Ready", "READY"),
    column("PSS", "PSS"),
];

const fn column(field: &'static str, title: &'static str) -> Column {
    Column { field, title }
}

pub fn run(args: &Args, context: &Context) -> Result {
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("Template"),
        without_titles: args.no_headers,
    };
    let listing = list.listing(COLUMNS)?;
    let paths = context.paths();
    let templates = machines::templates(&paths)?;
    let rows: Vec<Row> = machines::pools(&paths)?
        .iter()
        .map(|pool| {
            let template = templates.iter().find(|template| template.name == pool.template);
            let machine = template.and_then(|template| template.machine.as_ref());
            let memory = machine.map(|machine| human::binary_size(machine.memory_bytes));
            let cpus = machine.map(|machine| machine.vcpus.to_string());
            Row::new([
                ("Template", json!(pool.template)),
                ("Memory", json!(memory.unwrap_or_default())),
                ("CPUs", json!(cpus.unwrap_or_default())),
                ("Size", json!(pool.size.to_string())),
                ("Ready", json!(pool.ready.to_string())),
                ("PSS", json!(human::size(pool.proportional_bytes, 3))),
            ])
        })
        .collect();
    output::list(&listing, COLUMNS, &rows)
}
