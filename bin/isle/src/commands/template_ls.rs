//! `isle template ls`.

use isle_engine::machines::{self, Template};
use isle_format::{Column, Row, human, column};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::output;
pub use crate::output::Format as Args;

pub const ABOUT: &str = "List the templates that virtual machines are copied from";
pub const EXAMPLES: &str = "  isle template ls
  isle template ls --format '{{.Name}} {{.Size}}'
  isle template ls -q";

const COLUMNS: &[Column] = &[
    column("Name", "NAME"),
    column("Image", "IMAGE"),
    column("Memory", "MEMORY"),
    column("CPUs", "CPUS"),
    column("Accelerator", "ACCELERATOR"),
    column("QEMU", "QEMU"),
    column("CreatedSince", "CREATED"),
    column("UsedSince", "USED"),
    column("Size", "SIZE"),
];

pub fn run(format: &Args, context: &Context) -> Result {
    let listing = format.listing(COLUMNS)?;
    let now = Timestamp::now();
    let templates = machines::templates(&context.paths())?;
    let rows: Vec<Row> = templates.iter().map(|template| row(template, now)).collect();
    output::list(&listing, COLUMNS, &rows)
}

fn row(template: &Template, now: Timestamp) -> Row {
    let ago = |time| Timestamp::try_from(time).map_or_else(|_| String::new(), |time| human::ago(time, now));
    let machine = template.machine.as_ref();
    let memory = machine.map(|machine| human::binary_size(machine.memory_bytes));
    Row::new([
        ("Name", json!(template.name)),
        ("Image", json!(image(template))),
        ("Memory", json!(memory.unwrap_or_default())),
        ("CPUs", json!(machine.map_or_else(String::new, |machine| machine.vcpus.to_string()))),
        ("Accelerator", json!(machine.map_or("", |machine| machine.accelerator.name()))),
        ("QEMU", json!(template.qemu.as_deref().unwrap_or("damaged"))),
        ("CreatedSince", json!(ago(template.created))),
        ("UsedSince", json!(ago(template.used))),
        ("Size", json!(human::size(template.bytes, 3))),
    ])
}

/// The short id of the image that an instance was rehearsed with; nothing for the template of a machine of any image.
fn image(template: &Template) -> String {
    let subject = template.subject.as_deref().unwrap_or_default();
    let id = subject.split(' ').next().unwrap_or_default();
    id.rsplit(':').next().unwrap_or_default().chars().take(12).collect()
}
