//! `isle history`.

use isle_format::{Column, Row, human};
use isle_image::Image;
use jiff::Timestamp;
use serde_json::{Value, json};

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
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
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

const fn column(field: &'static str, title: &'static str) -> Column {
    Column { field, title }
}

pub fn run(args: &Args, context: &Context) -> Result {
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
        without_titles: false,
    };
    let listing = list.listing(&COLUMNS[..5])?;
    let store = context.engine()?.images();
    let image = store.find(&args.image)?;
    let rows = rows(&image, &store.layer_sizes(&image.id)?, args, Timestamp::now());
    output::list(&listing, &COLUMNS, &rows)
}

fn rows(image: &Image, sizes: &[u64], args: &Args, now: Timestamp) -> Vec<Row> {
    let mut sizes = sizes.iter().copied();
    let mut rows = Vec::new();
    for step in image.config.history().iter().flatten() {
        let size = match step.empty_layer() {
            Some(true) => 0,
            _ => sizes.next().unwrap_or(0),
        };
        rows.push(row(
            step.created().as_deref(),
            step.created_by().as_deref().unwrap_or_default(),
            step.comment().as_deref().unwrap_or_default(),
            size,
            args,
            now,
        ));
    }
    // An image may say nothing of how its layers came to be.
    for size in sizes {
        rows.push(row(None, "", "", size, args, now));
    }
    rows.reverse();
    if let Some(first) = rows.first_mut() {
        let id = match args.no_trunc {
            true => image.id.to_string(),
            false => image.short_id().to_owned(),
        };
        first.fields.insert("ID".to_owned(), Value::String(id));
    }
    rows
}

fn row(
    created: Option<&str>,
    created_by: &str,
    comment: &str,
    size: u64,
    args: &Args,
    now: Timestamp,
) -> Row {
    let time: Option<Timestamp> = created.and_then(|text| text.parse().ok());
    let since = match (time, args.human) {
        (None, _) => "N/A".to_owned(),
        (Some(time), true) => human::ago(time, now),
        (Some(time), false) => time.to_string(),
    };
    let by = created_by.replace('\t', " ");
    Row::new([
        ("ID", json!("<missing>")),
        ("CreatedSince", json!(since)),
        ("CreatedAt", json!(created.unwrap_or_default())),
        (
            "CreatedBy",
            json!(if args.no_trunc { by } else { shorten(&by, 45) }),
        ),
        (
            "Size",
            json!(match args.human {
                true => human::size(size, 3),
                false => size.to_string(),
            }),
        ),
        ("Comment", json!(comment)),
    ])
}
