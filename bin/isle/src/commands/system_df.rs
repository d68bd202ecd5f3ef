//! `isle system df`.

use std::process::ExitCode;

use isle_engine::state::Status;
use isle_format::{Column, Row, Table, human, column};
use jiff::Timestamp;
use serde_json::json;

use super::container_prune::bytes_below;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, ListFlags};

pub const ABOUT: &str = "Show how much room images, instances and volumes take";
pub const EXAMPLES: &str = "  isle system df
  isle system df -v";

/// Flags of `system df`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Each image, instance and volume
    #[arg(short, long)]
    verbose: bool,
}

const COLUMNS: [Column; 5] = [
    column("Type", "TYPE"),
    column("TotalCount", "TOTAL"),
    column("Active", "ACTIVE"),
    column("Size", "SIZE"),
    column("Reclaimable", "RECLAIMABLE"),
];

/// One kind of thing that takes room.
#[derive(Default)]
struct Room {
    total: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let list = ListFlags {
        format: args.format.as_deref(),
        only: None,
        without_titles: false,
    };
    let listing = list.listing(&COLUMNS)?;
    let engine = context.engine()?;
    let paths = context.paths();
    let usage = engine.images().usage()?;
    let instances = engine.list()?;
    let mut containers = Room::default();
    let mut container_table = Table::new();
    container_table.push(
        ["CONTAINER ID", "IMAGE", "SIZE", "STATUS", "NAMES"].map(str::to_owned),
    );
    for instance in &instances {
        let is_up = !matches!(instance.state.status, Status::Created | Status::Exited);
        let bytes = bytes_below(&paths.instance(&instance.id).join("upper"));
        containers.total += 1;
        containers.active += usize::from(is_up);
        containers.bytes += bytes;
        containers.reclaimable += if is_up { 0 } else { bytes };
        container_table.push([
            instance.id.short(),
            instance.config.image.clone(),
            human::size(bytes, 3),
            isle_docker_model::status::text(&instance.state, Timestamp::now()),
            instance.name.to_string(),
        ]);
    }
    let mut volumes = Room::default();
    let mut volume_table = Table::new();
    volume_table.push(["VOLUME NAME", "LINKS", "SIZE"].map(str::to_owned));
    let users = engine.volume_users()?;
    let snapshots = engine.volume_snapshots(None)?;
    for volume in engine.volumes()? {
        let links = users.get(&volume.name).map_or(0, Vec::len);
        // What was kept of it takes room too.
        let kept = snapshots.iter().filter(|one| one.volume == volume.name);
        let bytes = engine.volume_bytes(&volume) + kept.map(|one| one.bytes).sum::<u64>();
        volumes.total += 1;
        volumes.active += usize::from(links > 0);
        volumes.bytes += bytes;
        volumes.reclaimable += if links == 0 { bytes } else { 0 };
        volume_table.push([volume.name, links.to_string(), human::size(bytes, 3)]);
    }
    let images = Room {
        total: usage.images.len(),
        active: usage.images.values().filter(|image| image.holders > 0).count(),
        bytes: usage.bytes,
        reclaimable: usage.reclaimable_bytes,
    };
    if !args.verbose {
        let rows = [
            row("Images", &images),
            row("Containers", &containers),
            row("Local Volumes", &volumes),
        ];
        return output::list(&listing, &COLUMNS, &rows);
    }
    let mut image_table = Table::new();
    image_table.push(
        ["REPOSITORY", "TAG", "IMAGE ID", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]
            .map(str::to_owned),
    );
    for image in engine.images().images()? {
        let room = usage.images.get(&image.id).copied().unwrap_or_default();
        let name = image.repo_tags.first().map(String::as_str);
        let (repository, tag) = name
            .and_then(|name| name.rsplit_once(':'))
            .unwrap_or(("<none>", "<none>"));
        image_table.push([
            repository.to_owned(),
            tag.to_owned(),
            image.short_id().to_owned(),
            human::size(image.size, 3),
            human::size(room.shared_bytes, 3),
            human::size(room.unique_bytes, 3),
            room.holders.to_string(),
        ]);
    }
    output::print(&format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}",
        image_table.render(),
        container_table.render(),
        volume_table.render(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn row(kind: &str, room: &Room) -> Row {
    let percent = match room.bytes {
        0 => 0,
        bytes => room.reclaimable * 100 / bytes,
    };
    Row::new([
        ("Type", json!(kind)),
        ("TotalCount", json!(room.total.to_string())),
        ("Active", json!(room.active.to_string())),
        ("Size", json!(human::size(room.bytes, 4))),
        (
            "Reclaimable",
            json!(format!("{} ({percent}%)", human::size(room.reclaimable, 4))),
        ),
    ])
}
