//! `isle compose top`.

use std::process::ExitCode;

use isle_format::Table;

use super::observe::is_up;
use super::session::{ProjectFlags, number_of, service_of};
use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const EXAMPLES: &str = "  isle compose top web";

/// Flags of `compose top`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("top")?;
    let known = flags.known(context, &args.services)?;
    let mut table = Table::new();
    let mut has_titles = false;
    for instance in known
        .instances(&args.services, false)
        .into_iter()
        .filter(|instance| is_up(instance))
    {
        let processes = context.engine()?.top(&instance.id, &[])?;
        if !has_titles {
            table.push(
                ["SERVICE", "#"]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(processes.titles),
            );
            has_titles = true;
        }
        for row in processes.rows {
            table.push(
                [
                    service_of(instance).to_owned(),
                    number_of(instance).to_string(),
                ]
                .into_iter()
                .chain(row),
            );
        }
    }
    if has_titles {
        output::print(&table.render())?;
    }
    Ok(ExitCode::SUCCESS)
}
