//! `isle kernel ls`.

use isle_format::{Column, Row, human, column};
use isle_kernel::{Entry, KernelError, Origin, configuration_digest};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::output;
pub use crate::output::Format as Args;

pub const ABOUT: &str = "List the kernels of virtual machines";
pub const EXAMPLES: &str = "  isle kernel ls
  isle kernel ls --format '{{.Name}} {{.Status}}'
  isle kernel ls -q";

const DEFAULT: &[Column] = &[
    column("Name", "NAME"),
    column("Kind", "KIND"),
    column("Version", "VERSION"),
    column("CreatedSince", "CREATED"),
    column("Size", "SIZE"),
    column("Status", "STATUS"),
];
const COLUMNS: &[Column] = &[
    column("Name", "NAME"),
    column("Kind", "KIND"),
    column("Package", "PACKAGE"),
    column("Version", "VERSION"),
    column("Release", "RELEASE"),
    column("Architecture", "ARCHITECTURE"),
    column("CreatedSince", "CREATED"),
    column("CreatedAt", "CREATED AT"),
    column("Size", "SIZE"),
    column("Digest", "DIGEST"),
    column("Features", "FEATURES"),
    column("Current", "CURRENT"),
    column("Status", "STATUS"),
];

pub fn run(format: &Args, context: &Context) -> Result {
    let listing = format.listing(DEFAULT)?;
    let now = Timestamp::now();
    let kernels = context.kernels().list()?;
    let rows: Vec<Row> = kernels.iter().map(|entry| row(entry, now)).collect();
    output::list(&listing, COLUMNS, &rows)
}

fn row(entry: &Entry, now: Timestamp) -> Row {
    let description = entry.kernel.as_ref().ok().map(|kernel| &kernel.description);
    let text = |value: Option<&str>| json!(value.unwrap_or_default());
    let origin = description.map(|description| &description.origin);
    let created = description.map(|description| description.created);
    Row::new([
        ("Name", json!(entry.name)),
        ("Kind", text(origin.map(Origin::kind))),
        ("Package", text(origin.map(|origin| origin.package().0))),
        ("Version", text(origin.map(|origin| origin.package().1))),
        ("Release", text(description.map(|of| &*of.release))),
        ("Architecture", text(description.map(|of| &*of.architecture))),
        (
            "CreatedSince",
            json!(created.map_or_else(String::new, |time| human::ago(time, now))),
        ),
        (
            "CreatedAt",
            json!(created.map_or_else(String::new, human::local_time)),
        ),
        (
            "Size",
            json!(description.map_or_else(String::new, |of| human::size(of.bytes(), 3))),
        ),
        ("Digest", json!(description.map(|of| of.digest()).unwrap_or_default())),
        ("Features", json!(description.map(|of| of.features.join(",")).unwrap_or_default())),
        ("Current", json!(entry.is_current.to_string())),
        ("Status", json!(status(entry))),
    ])
}

/// `in use`, and what is to be known about it.
fn status(entry: &Entry) -> String {
    let mut words = Vec::new();
    if entry.is_current {
        words.push("in use".to_owned());
    }
    match &entry.kernel {
        Err(KernelError::Damaged { file, what, .. }) => {
            words.push(format!("damaged: {file} {what}"));
        }
        Err(error) => words.push(error.to_string()),
        Ok(kernel) => {
            if let Origin::Tuned { configuration, .. } = &kernel.description.origin
                && configuration_digest().is_ok_and(|digest| digest != *configuration)
            {
                words.push("configuration out of date".to_owned());
            }
        }
    }
    words.join(", ")
}
