//! `isle volume snapshot`, with `ls` and `rm` behind it.

use std::process::ExitCode;

use clap::Subcommand;
use isle_engine::{Snapshot, VolumeSource};
use isle_format::{Column, Row, human};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::flags::pause::PauseFlag;
use crate::output::{self, ListFlags};

pub const ABOUT: &str = "Keep a copy of a volume as it is now; list and remove such copies";
pub const EXAMPLES: &str = "  isle volume snapshot data
  isle volume snapshot data before-upgrade
  isle volume snapshot ls data
  isle volume snapshot rm data@before-upgrade";

/// Flags of `volume snapshot`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    create: Create,
}

/// What is done.
#[derive(Subcommand, Debug)]
enum Action {
    /// Keep a copy, also of a volume that is called ls or rm
    Create(Create),
    /// List the copies that were kept
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove copies
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

/// Flags of `volume snapshot create`.
#[derive(clap::Args, Debug)]
struct Create {
    #[command(flatten)]
    pause: PauseFlag,
    /// Name of the volume
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
    /// Name of the copy; the time when not given
    #[arg(value_name = "SNAPSHOT")]
    name: Option<String>,
}

/// Flags of `volume snapshot ls`.
#[derive(clap::Args, Debug)]
struct List {
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Without the title line
    #[arg(long)]
    no_headers: bool,
    /// Only names, as VOLUME@SNAPSHOT
    #[arg(short, long)]
    quiet: bool,
    /// Of this volume only
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

/// Flags of `volume snapshot rm`.
#[derive(clap::Args, Debug)]
struct Remove {
    /// Which ones
    #[arg(required = true, value_name = "VOLUME@SNAPSHOT")]
    snapshots: Vec<String>,
}

const COLUMNS: &[Column] = &[
    column("Volume", "VOLUME"),
    column("Name", "SNAPSHOT"),
    column("CreatedSince", "CREATED"),
    column("Size", "SIZE"),
    column("CreatedAt", "CREATED AT"),
    column("Source", "SOURCE"),
];

const fn column(field: &'static str, title: &'static str) -> Column {
    Column { field, title }
}

pub fn run(args: &Args, context: &Context) -> Result {
    match &args.action {
        None => create(&args.create, context),
        Some(Action::Create(flags)) => create(flags, context),
        Some(Action::Ls(flags)) => list(flags, context),
        Some(Action::Rm(flags)) => output::each(&flags.snapshots, |text| {
            let (volume, name) = parts(text)?;
            Ok(context.engine()?.remove_snapshot(&volume, &name)?)
        }),
    }
}

/// Both names of `VOLUME@SNAPSHOT`.
pub fn parts(text: &str) -> Result<(String, String)> {
    let Ok(source) = text.parse::<VolumeSource>();
    match source.snapshot {
        Some(snapshot) => Ok((source.volume, snapshot)),
        None => Err(Failure::new(format!("{text:?} names no snapshot"))
            .hint(format!(
                "write {text}@SNAPSHOT; isle volume snapshot ls {text} lists them"
            ))
            .code(ENGINE)
            .into()),
    }
}

fn create(flags: &Create, context: &Context) -> Result {
    let Some(volume) = &flags.volume else {
        return Err(Failure::new("no volume is named")
            .hint("isle volume snapshot VOLUME [SNAPSHOT]")
            .code(ENGINE)
            .into());
    };
    let engine = context.engine()?;
    let snapshot = engine.snapshot_volume(volume, flags.name.as_deref(), flags.pause.pause)?;
    output::line(&format!("{}@{}", snapshot.volume, snapshot.name))?;
    Ok(ExitCode::SUCCESS)
}

fn list(flags: &List, context: &Context) -> Result {
    let listing = ListFlags {
        format: flags.format.as_deref(),
        only: flags.quiet.then_some("Source"),
        without_titles: flags.no_headers,
    }
    .listing(&COLUMNS[..4])?;
    let engine = context.engine()?;
    if let Some(volume) = &flags.volume {
        engine.find_volume(volume)?;
    }
    let now = Timestamp::now();
    let snapshots = engine.volume_snapshots(flags.volume.as_deref())?;
    let rows: Vec<Row> = snapshots
        .iter()
        .map(|snapshot| row(snapshot, now))
        .collect();
    output::list(&listing, COLUMNS, &rows)
}

fn row(snapshot: &Snapshot, now: Timestamp) -> Row {
    Row::new([
        ("Volume", json!(snapshot.volume)),
        ("Name", json!(snapshot.name)),
        ("CreatedSince", json!(human::ago(snapshot.created_at, now))),
        ("CreatedAt", json!(human::local_time(snapshot.created_at))),
        ("Size", json!(human::size(snapshot.bytes, 3))),
        (
            "Source",
            json!(format!("{}@{}", snapshot.volume, snapshot.name)),
        ),
    ])
}
