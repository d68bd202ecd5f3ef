//! `isle logout`.

use std::process::ExitCode;

use isle_registry::{Client, Config, registry_of_server};

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Forget the login to a registry";
pub const EXAMPLES: &str = "  isle logout ghcr.io";

/// Flags of `logout`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Registry; Docker Hub when not given
    server: Option<String>,
}

pub fn run(args: &Args, _context: &Context) -> Result {
    let registry = registry_of_server(args.server.as_deref());
    let client = Client::new(Config::of_host()?);
    match client.logout(&registry)? {
        true => output::line(&format!("Removing login credentials for {registry}"))?,
        false => output::line(&format!("Not logged in to {registry}"))?,
    }
    Ok(ExitCode::SUCCESS)
}
