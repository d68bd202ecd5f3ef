//! `isle network connect`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use isle_engine::config::NetworkAttachment;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::network::{alias, ipv4, ipv6, mac_address};

pub const ABOUT: &str = "Connect an instance to a network";
pub const EXAMPLES: &str = "  isle network connect back web
  isle network connect --ip 10.20.0.10 --alias db back postgres";

/// Flags of `network connect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A name that others on it can call the instance by
    #[arg(long, value_name = "NAME", value_parser = alias)]
    alias: Vec<String>,
    /// Its IPv4 address there
    #[arg(long, value_name = "ADDRESS", value_parser = ipv4)]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address there
    #[arg(long, value_name = "ADDRESS", value_parser = ipv6)]
    ip6: Option<Ipv6Addr>,
    /// Its hardware address there
    #[arg(long, value_name = "ADDRESS", value_parser = mac_address)]
    mac_address: Option<[u8; 6]>,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or id of the instance
    #[arg(value_name = "CONTAINER")]
    instance: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instance = engine.find(&args.instance)?;
    let attachment = NetworkAttachment {
        network: args.network.clone(),
        name: String::new(),
        aliases: args.alias.clone(),
        ipv4: args.ip,
        ipv6: args.ip6,
        mac: args.mac_address,
    };
    engine.connect_network(&instance.id, attachment)?;
    Ok(ExitCode::SUCCESS)
}
