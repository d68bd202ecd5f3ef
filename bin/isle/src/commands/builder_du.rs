//! `isle builder du`.

use isle_build::CacheEntry;
use isle_format::{Column, Row, column, human};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::output;
pub use crate::output::Format as Args;

pub const ABOUT: &str = "List what the cache of builds holds";
pub const EXAMPLES: &str = "  isle builder du
  isle builder du --format '{{.Size}} {{.Description}}'";

const COLUMNS: &[Column] = &[
    column("ID", "ID"),
    column("Reclaimable", "RECLAIMABLE"),
    column("Size", "SIZE"),
    column("LastUsedSince", "LAST ACCESSED"),
    column("Description", "DESCRIPTION"),
];

pub fn run(format: &Args, context: &Context) -> Result {
    let listing = format.listing(COLUMNS)?;
    let now = Timestamp::now();
    let entries = isle_build::disk_usage(context.engine()?)?;
    let rows: Vec<Row> = entries.iter().map(|entry| row(entry, now)).collect();
    output::list(&listing, COLUMNS, &rows)
}

fn row(entry: &CacheEntry, now: Timestamp) -> Row {
    Row::new([
        ("ID", json!(entry.id)),
        ("Type", json!(entry.kind)),
        ("Reclaimable", json!((!entry.is_in_use).to_string())),
        ("Size", json!(human::size(entry.bytes, 3))),
        ("LastUsedSince", json!(human::ago(entry.used, now))),
        ("CreatedSince", json!(human::ago(entry.created, now))),
        ("Description", json!(entry.description)),
    ])
}
