//! `isle compose pause`.

use std::process::ExitCode;

use isle_engine::state::Status;
use isle_engine::{Engine, EngineError};
use isle_types::InstanceId;

use super::execute::container;
use super::report::Report;
use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose pause web";

/// Flags of `compose pause`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("pause")?;
    let change = Change {
        from: Status::Running,
        begins: "Pausing",
        done: "Paused",
        act: Engine::pause,
    };
    change.of(&args.services, flags, context)
}

/// What is done to all instances of services that are in one state.
pub struct Change {
    pub from: Status,
    /// What is told while it is done.
    pub begins: &'static str,
    /// And afterwards.
    pub done: &'static str,
    pub act: fn(&Engine, &InstanceId) -> std::result::Result<(), EngineError>,
}

impl Change {
    pub fn of(&self, services: &[String], flags: &ProjectFlags, context: &Context) -> Result {
        let known = flags.known(context, services)?;
        let report = Report::new(flags.progress);
        let engine = context.engine()?;
        let instances = known.instances(services, false).into_iter();
        for instance in instances.filter(|instance| instance.state.status == self.from) {
            let what = container(instance.name.as_str());
            report.begins(&what, self.begins);
            (self.act)(engine, &instance.id)?;
            report.done(&what, self.done);
        }
        Ok(ExitCode::SUCCESS)
    }
}
