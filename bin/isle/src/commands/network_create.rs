//! `isle network create`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use isle_network::{Driver, MacvlanMode, Network, NewNetwork, SubnetRequest};

use crate::context::Context;
use crate::failure::Result;
use crate::flags::labels::label;
use crate::flags::{FlagError, key_value, switch};
use crate::output;

pub const ABOUT: &str = "Make a network";
pub const EXAMPLES: &str = "  isle network create front
  isle network create --internal --label tier=db back
  isle network create --subnet 10.20.0.0/24 --ip-range 10.20.0.128/25 --gateway 10.20.0.1 lab
  isle network create --ipv6 --subnet fd00:20::/64 six
  isle network create --driver macvlan --opt parent=eth0 --subnet 192.168.1.0/24 lan";

/// Flags of `network create`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Driver: bridge or macvlan
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Addresses, like 10.20.0.0/24; once for each family
    #[arg(long, value_name = "SUBNET", value_parser = subnet)]
    subnet: Vec<ipnet::IpNet>,
    /// The host's address on it; the first one when not given
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// The part of the subnet that addresses are chosen from
    #[arg(long, value_name = "SUBNET", value_parser = subnet)]
    ip_range: Vec<ipnet::IpNet>,
    /// An address that is somebody else's, NAME=ADDRESS
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = auxiliary)]
    aux_address: Vec<(String, IpAddr)>,
    /// Addresses of IPv6 too
    #[arg(long)]
    ipv6: bool,
    /// Nothing beyond it can be reached
    #[arg(long)]
    internal: bool,
    /// Label, KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Option of the driver: mtu=, name=, masquerade=, icc= of a bridge; parent=, mode= of a macvlan
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = key_value)]
    options: Vec<(String, String)>,
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

fn subnet(text: &str) -> std::result::Result<ipnet::IpNet, FlagError> {
    text.parse().map_err(|_| {
        FlagError::new(
            format!("{text:?} is not a subnet"),
            "write an address and the length of the prefix, like 10.20.0.0/24",
        )
    })
}

fn auxiliary(text: &str) -> std::result::Result<(String, IpAddr), FlagError> {
    let parsed = text
        .split_once('=')
        .and_then(|(name, address)| Some((name.to_owned(), address.parse().ok()?)));
    parsed.ok_or_else(|| {
        FlagError::new(
            format!("{text:?} has no NAME=ADDRESS form"),
            "write for example router=10.20.0.254",
        )
    })
}

pub fn run(args: &Args, context: &Context) -> Result {
    output::line(&create(args, context)?.id)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the network that the flags describe.
pub fn create(args: &Args, context: &Context) -> Result<Network> {
    Ok(context.engine()?.create_network(&new_network(args)?)?)
}

fn new_network(args: &Args) -> std::result::Result<NewNetwork, FlagError> {
    let mut new = NewNetwork {
        name: args.name.clone(),
        internal: args.internal,
        ipv6: args.ipv6,
        subnets: subnets(args)?,
        labels: args.label.iter().cloned().collect(),
        ..NewNetwork::default()
    };
    let mut parent = None;
    let mut mode = MacvlanMode::default();
    let is_macvlan = match args.driver.as_str() {
        "bridge" => false,
        "macvlan" => true,
        driver => {
            return Err(FlagError::new(
                format!("there is no driver {driver:?} for networks"),
                "choose bridge or macvlan; host and none are chosen by run --network",
            ));
        }
    };
    for (key, value) in &args.options {
        let short = key
            .strip_prefix("com.docker.network.bridge.")
            .or_else(|| key.strip_prefix("com.docker.network.driver."))
            .unwrap_or(key);
        match (is_macvlan, short) {
            (_, "mtu") => new.mtu = Some(mtu(value)?),
            (false, "name") => new.link = Some(value.clone()),
            (false, "enable_ip_masquerade" | "masquerade") => new.no_masquerade = !switch(value)?,
            (false, "enable_icc" | "icc") => new.no_inter_instance = !switch(value)?,
            (true, "parent") => parent = Some(value.clone()),
            (true, "macvlan_mode" | "mode") => {
                mode = value.parse().map_err(|()| {
                    FlagError::new(
                        format!("a macvlan network has no mode {value:?}"),
                        "choose bridge, vepa, private or passthru",
                    )
                })?;
            }
            _ => {
                return Err(FlagError::new(
                    format!("driver {} has no option {key:?}", args.driver),
                    match is_macvlan {
                        false => "known are mtu, name, masquerade and icc, and Docker's words for them",
                        true => "known are parent, mode and mtu",
                    },
                ));
            }
        }
        new.options.insert(key.clone(), value.clone());
    }
    if is_macvlan {
        let parent = parent.ok_or_else(|| {
            FlagError::new(
                "a macvlan network needs a link of the host",
                "add --opt parent=eth0, with the name that `ip link` shows",
            )
        })?;
        new.driver = Driver::Macvlan { parent, mode };
    }
    Ok(new)
}

fn mtu(text: &str) -> std::result::Result<u32, FlagError> {
    match text.parse() {
        Ok(mtu @ 68..=65535) => Ok(mtu),
        _ => Err(FlagError::new(
            format!("{text:?} is not the size of a packet"),
            "write bytes from 68 (IPv6: 1280) to 65535",
        )),
    }
}

/// Gateways, ranges and addresses of others belong to the subnet that they are in.
fn subnets(args: &Args) -> std::result::Result<Vec<SubnetRequest>, FlagError> {
    let mut subnets: Vec<SubnetRequest> = args
        .subnet
        .iter()
        .map(|subnet| SubnetRequest {
            subnet: *subnet,
            gateway: None,
            range: None,
            reserved: BTreeMap::new(),
        })
        .collect();
    let lost = |what: &str, value: &dyn std::fmt::Display| {
        FlagError::new(
            format!("{what} {value} is in no --subnet"),
            "give the --subnet that it is a part of",
        )
    };
    for gateway in &args.gateway {
        let subnet = subnets.iter_mut().find(|one| one.subnet.contains(gateway));
        subnet.ok_or_else(|| lost("--gateway", gateway))?.gateway = Some(*gateway);
    }
    for range in &args.ip_range {
        let subnet = subnets.iter_mut().find(|one| one.subnet.contains(range));
        subnet.ok_or_else(|| lost("--ip-range", range))?.range = Some(*range);
    }
    for (name, address) in &args.aux_address {
        let subnet = subnets.iter_mut().find(|one| one.subnet.contains(address));
        let subnet = subnet.ok_or_else(|| lost("--aux-address", address))?;
        subnet.reserved.insert(name.clone(), *address);
    }
    Ok(subnets)
}
