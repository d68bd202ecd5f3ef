//! `isle network rm`.

use isle_engine::EngineError;
use isle_network::NetworkError;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Remove networks that no instance is on";
pub const EXAMPLES: &str = "  isle network rm front back";

/// Flags of `network rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A network that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    output::each(&args.networks, |name| {
        match engine.find_network(name) {
            Err(EngineError::Network(NetworkError::NoSuchNetwork { .. })) if args.force => {}
            found => engine.remove_network(&found?)?,
        }
        Ok(())
    })
}
