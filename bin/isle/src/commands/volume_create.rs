//! `isle volume create`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use isle_engine::{Volume, VolumeRequest};

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::flags::labels::label;
use crate::flags::mount::{driver, volume_option};
use crate::output;

pub const ABOUT: &str = "Make a volume";
pub const EXAMPLES: &str = "  isle volume create data
  isle volume create --label tier=db --opt size=10g data
  isle volume create --opt type=tmpfs --opt o=size=64m,mode=1777 scratch
  isle volume create --opt type=none --opt o=bind --opt device=/srv/www www";

/// Flags of `volume create`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Driver: local
    #[arg(short, long, value_name = "DRIVER", default_value = "local", hide_default_value = true, value_parser = driver)]
    driver: String,
    /// Label, KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Option of the driver: type=, device=, o= as mount(8) has them, or size=
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = volume_option)]
    options: Vec<(String, String)>,
    /// Its name, as older versions of Docker take it
    #[arg(long = "name", hide = true)]
    named: Option<String>,
    /// Its name; a random one when not given
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    if args.named.is_some() && args.name.is_some() {
        return Err(Failure::new("conflicting names: --name and a name behind it")
            .hint("give the name alone")
            .code(ENGINE)
            .into());
    }
    output::line(&create(args, context)?.name)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the volume that the flags describe.
pub fn create(args: &Args, context: &Context) -> Result<Volume> {
    let request = VolumeRequest {
        name: args.name.clone().or_else(|| args.named.clone()),
        labels: args.label.iter().cloned().collect::<BTreeMap<_, _>>(),
        options: args.options.iter().cloned().collect(),
    };
    Ok(context.engine()?.create_volume(&request)?)
}
