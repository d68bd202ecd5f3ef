//! `isle compose volumes`.

use isle_format::{Column, Row, column};
use serde_json::json;

use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, Format};

pub const EXAMPLES: &str = "  isle compose volumes";

/// Flags of `compose volumes`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    format: Format,
}

const COLUMNS: &[Column] = &[column("Name", "VOLUME NAME"), column("Driver", "DRIVER")];

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("volumes")?;
    let known = flags.known(context, &[])?;
    let volumes = known.observed.volumes_of(&known.name);
    let rows: Vec<Row> = volumes
        .iter()
        .map(|volume| Row::new([("Name", json!(volume.name)), ("Driver", json!("local"))]))
        .collect();
    output::list(&args.format.listing(COLUMNS)?, COLUMNS, &rows)
}
