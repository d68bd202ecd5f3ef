//! `isle history`.

use isle_format::{Column, Row, human, column};
use isle_image::HistoryEntry;
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, ListFlags, shorten};

pub const ABOUT: &str = "Show how an image was made, the last step first";
pub const EXAMPLES: &str = "  isle history debian
  isle history --no-trunc --format '{{.CreatedBy}}' debian";

/// Flags of `history`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Sizes and times for people (=false for bytes and dates)
    #[arg(short = 'H', long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    human: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    image: String,
}

const COLUMNS: [Column; 6] = [
    column("ID", "IMAGE"),
    column("CreatedSince", "CREATED"),
    column("CreatedBy", "CREATED BY"),
    column("Size", "SIZE"),
    column("Comment", "COMMENT"),
    column("CreatedAt", "CREATED AT"),
];

pub fn run(args: &Args, context: &Context) -> Result {
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
        without_titles: false,
    };
    let listing = list.listing(&COLUMNS[..5])?;
    let store = context.engine()?.images();
    let image = store.find(&args.image)?;
    let now = Timestamp::now();
    let rows: Vec<Row> = store
        .history(&image)?
        .iter()
        .map(|entry| row(entry, args, now))
        .collect();
    output::list(&listing, &COLUMNS, &rows)
}

fn row(entry: &HistoryEntry, args: &Args, now: Timestamp) -> Row {
    let id = match (&entry.id, args.no_trunc) {
        (None, _) => "<missing>".to_owned(),
        (Some(id), true) => id.to_string(),
        (Some(id), false) => id.short().to_owned(),
    };
    let since = match (entry.created, args.human) {
        (None, _) => "N/A".to_owned(),
        (Some(time), true) => human::ago(time, now),
        (Some(time), false) => time.to_string(),
    };
    let by = entry.created_by.replace('\t', " ");
    Row::new([
        ("ID", json!(id)),
        ("CreatedSince", json!(since)),
        (
            "CreatedAt",
            json!(entry.created.map(|time| time.to_string()).unwrap_or_default()),
        ),
        (
            "CreatedBy",
            json!(if args.no_trunc { by } else { shorten(&by, 45) }),
        ),
        (
            "Size",
            json!(match args.human {
                true => human::size(entry.size, 3),
                false => entry.size.to_string(),
            }),
        ),
        ("Comment", json!(entry.comment)),
    ])
}
