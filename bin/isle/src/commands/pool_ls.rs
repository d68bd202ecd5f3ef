//! `isle pool ls`.

use isle_engine::machines;
use isle_format::{Column, Row, human, column};
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::output;
pub use crate::output::Format as Args;

pub const ABOUT: &str = "List the pools of machines that wait, and what memory they take";
pub const EXAMPLES: &str = "  isle pool ls
  isle pool ls --format '{{.Ready}} of {{.Size}}: {{.PSS}}'";

const COLUMNS: &[Column] = &[
    column("Template", "TEMPLATE"),
    column("Memory", "MEMORY"),
    column("CPUs", "CPUS"),
    column("Size", "SIZE"),
    column("Ready", "READY"),
    column("PSS", "PSS"),
];

pub fn run(format: &Args, context: &Context) -> Result {
    let listing = format.listing(COLUMNS)?;
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
