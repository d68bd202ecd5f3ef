//! Interfaces and packet filters.

use std::io;
use std::path::Path;

use isle_netlink::link::{Kind, Link};
use isle_netlink::nftables::{self, BaseChain, Hook, Policy};
use isle_netlink::{Batch, Protocol, Socket};
use isle_sys::features;

use crate::{Check, Section, State};

const SECTION: Section = Section::Network;
const NETWORKS: &[&str] = &["networks other than none and host"];

pub(crate) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for kind in ["veth", "bridge", "vxlan"] {
        let result = features::in_new_network_namespace(|| make_interface(kind));
        let result = result.and_then(|made| made);
        let (found, state) = match &result {
            Ok(()) => ("works".to_owned(), State::Ok),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => (
                "not tried without CAP_SYS_ADMIN and CAP_NET_ADMIN".to_owned(),
                State::Unusable,
            ),
            Err(error) => (error.to_string(), State::Missing),
        };
        let needed_by: &[&str] = if kind == "vxlan" {
            &["networks across hosts"]
        } else {
            NETWORKS
        };
        checks.push(
            Check::ok(SECTION, &format!("{kind} interfaces"), found)
                .or_state(state == State::Ok, state)
                .meaning("networks of instances", needed_by)
                .remedy(format!("load the module: modprobe {kind}")),
        );
    }
    let filter = Socket::open(Protocol::Netfilter)
        .and_then(|socket| nftables::generation(&socket).map_err(|refused| refused.error));
    let found = match &filter {
        Ok(_) => "works".to_owned(),
        Err(error) => error.to_string(),
    };
    checks.push(
        Check::ok(SECTION, "nftables", found)
            .or_state(filter.is_ok(), State::Missing)
            .meaning("published ports and masquerading", NETWORKS)
            .remedy("load the module: modprobe nf_tables"),
    );
    if filter.is_ok() {
        checks.push(firewall());
    }
    checks.push(
        Check::there(SECTION, "tun devices", Path::new("/dev/net/tun").exists())
            .meaning(
                "networks of VMs and of users without privileges",
                &["vm", "rootless"],
            )
            .remedy("load the module: modprobe tun"),
    );
    checks
}

/// Makes an interface in the namespace of the calling thread.
fn make_interface(kind: &str) -> io::Result<()> {
    let peer = Link::default();
    let kind = match kind {
        "veth" => Kind::Veth(&peer),
        "vxlan" => Kind::Vxlan(42),
        _ => Kind::Bridge,
    };
    let mut batch = Batch::default();
    batch.create_link(&Link::default(), kind);
    let sent = Socket::route()?.send(&batch);
    sent.map_err(|refused| refused.error)
}

/// Chains of other programs that throw away what goes through the host when none of their rules takes it: an
/// instance's packets need the consent of every table.
fn closed_chains() -> io::Result<Vec<BaseChain>> {
    let socket = Socket::open(Protocol::Netfilter)?;
    let mut chains = nftables::base_chains(&socket).map_err(|refused| refused.error)?;
    chains.retain(|chain| {
        chain.hook == Hook::FORWARD
            && chain.policy == Policy::Drop
            && ["ip", "ip6", "inet"].contains(&chain.family)
    });
    Ok(chains)
}

/// How one of them is told to let the bridges of Isle through.
fn opening(chain: &BaseChain) -> String {
    // Docker asks this one first, and never changes it.
    let name = match (chain.table.as_str(), chain.name.as_str()) {
        ("filter", "FORWARD") if chain.family == "ip" && has_docker() => "DOCKER-USER",
        (_, name) => name,
    };
    let BaseChain { family, table, .. } = chain;
    format!(
        "nft insert rule {family} {table} {name} iifname \"isl-*\" accept; nft insert rule {family} {table} {name} oifname \"isl-*\" accept"
    )
}

fn has_docker() -> bool {
    Path::new("/sys/class/net/docker0").exists()
}

fn firewall() -> Check {
    let name = "other firewalls";
    let check = match closed_chains() {
        Ok(closed) if closed.is_empty() => {
            Check::ok(SECTION, name, "none that drops what is forwarded")
        }
        Ok(closed) => {
            let found: Vec<String> = closed
                .iter()
                .map(|chain| {
                    format!(
                        "{} {} {} drops what no rule of it accepts",
                        chain.family, chain.table, chain.name
                    )
                })
                .collect();
            let remedy: Vec<String> = closed.iter().map(opening).collect();
            Check::ok(SECTION, name, found.join("; "))
                .or_state(false, State::Unusable)
                .remedy(format!(
                    "unless it has such rules already: {}",
                    remedy.join("; ")
                ))
        }
        Err(error) => Check::ok(SECTION, name, format!("cannot be read: {error}")),
    };
    check.meaning(
        "whether instances reach beyond the host and are reached on published ports",
        NETWORKS,
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::State;

    fn shell(command: &str) {
        let status = Command::new("sh").args(["-c", command]).status();
        assert!(status.expect("a shell").success(), "{command}");
    }

    #[test]
    fn a_chain_of_others_that_drops_what_is_forwarded_is_told_with_the_way_out() {
        let looked = features::in_new_network_namespace(|| {
            let before = firewall();
            shell(
                "nft add table ip filter
                 nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
                 nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'",
            );
            let closed = firewall();
            let remedy = closed.remedy.as_deref().unwrap_or_default();
            let commands = remedy.strip_prefix("unless it has such rules already: ");
            shell(commands.expect("a way out"));
            (before, closed)
        });
        let (before, closed) = looked.expect("root may make a network namespace");
        assert_eq!(before.state, State::Ok);
        assert_eq!(closed.state, State::Unusable);
        assert_eq!(
            closed.found,
            "ip filter FORWARD drops what no rule of it accepts"
        );
    }
}
