//! `isle compose port`.

use super::session::ProjectFlags;
use super::words::parse;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose port web 80";

/// Flags of `compose port`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Of the instance of this number
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// tcp or udp
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: String,
    /// Service
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The port inside
    #[arg(value_name = "PORT")]
    port: u16,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("port")?;
    let known = flags.known(context, &[])?;
    let name = known.instance(&args.service, args.index)?.name.to_string();
    crate::commands::port::run(
        &parse(&[name, format!("{}/{}", args.port, args.protocol)])?,
        context,
    )
}
