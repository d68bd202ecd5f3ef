//! `isle compose images`.

use isle_format::{Column, Row, column, human};
use isle_image::Reference;
use jiff::Timestamp;
use serde_json::json;

use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, ListFlags};

pub const EXAMPLES: &str = "  isle compose images";

/// Flags of `compose images`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

const COLUMNS: &[Column] = &[
    column("ContainerName", "CONTAINER"),
    column("Repository", "REPOSITORY"),
    column("Tag", "TAG"),
    column("Platform", "PLATFORM"),
    column("ID", "IMAGE ID"),
    column("Size", "SIZE"),
    column("Created", "CREATED"),
];

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("images")?;
    let known = flags.known(context, &args.services)?;
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
        without_titles: false,
    };
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for instance in known.instances(&args.services, true) {
        let image = context.engine()?.images().find(&instance.image_id)?;
        let reference: Option<Reference> = instance.config.image.parse().ok();
        let digits = instance.image_id.trim_start_matches("sha256:");
        let id: String = if args.quiet {
            digits.to_owned()
        } else {
            digits.chars().take(12).collect()
        };
        let created = image
            .config
            .created()
            .as_ref()
            .and_then(|time| time.parse::<Timestamp>().ok());
        rows.push(Row::new([
            ("ContainerName", json!(instance.name.to_string())),
            (
                "Repository",
                json!(
                    reference
                        .as_ref()
                        .map_or_else(|| "<none>".to_owned(), Reference::familiar_name)
                ),
            ),
            (
                "Tag",
                json!(
                    reference
                        .as_ref()
                        .and_then(Reference::tag)
                        .unwrap_or("<none>")
                ),
            ),
            ("Platform", json!(image.platform.to_string())),
            ("ID", json!(id)),
            ("Size", json!(human::size(image.size, 3))),
            (
                "Created",
                json!(created.map_or_else(|| "N/A".to_owned(), |time| human::ago(time, now))),
            ),
        ]));
    }
    output::list(&list.listing(COLUMNS)?, COLUMNS, &rows)
}
