//! Interfaces and packet filters.

use std::path::Path;

use isle_sys::features;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

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
    let filter = ask_nftables();
    let found = match &filter {
        Ok(()) => "works".to_owned(),
        Err(error) => error.to_string(),
    };
    checks.push(
        Check::ok(SECTION, "nftables", found)
            .or_state(filter.is_ok(), State::Missing)
            .meaning("published ports and masquerading", NETWORKS)
            .remedy("load the module: modprobe nf_tables"),
    );
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

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/netfilter/nfnetlink.h
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE_EXCLUSIVE: u16 = 0x600;
const RTM_NEWLINK: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
const NFT_MSG_GETGEN: u16 = (10 << 8) | 16;

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).expect("messages here are short");
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend(body);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("attributes here are short");
    let mut attribute = Vec::with_capacity(value.len() + 8);
    attribute.extend(length.to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Sends one message to the kernel; the answer is an error, or something else.
fn ask(protocol: Option<rustix::net::Protocol>, message: &[u8]) -> std::io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    send(&socket, message, SendFlags::empty())?;
    let mut answer = [0_u8; 1024];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    if length < 20 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    if kind == NLMSG_ERROR && error != 0 {
        return Err(std::io::Error::from_raw_os_error(-error));
    }
    Ok(())
}

/// Makes an interface in the namespace of the calling thread.
fn make_interface(kind: &str) -> std::io::Result<()> {
    let mut information = attribute(IFLA_INFO_KIND, kind.as_bytes());
    if kind == "vxlan" {
        let identifier = attribute(IFLA_VXLAN_ID, &42_u32.to_ne_bytes());
        information.extend(attribute(IFLA_INFO_DATA, &identifier));
    }
    let mut body = vec![0; 16]; // struct ifinfomsg
    body.extend(attribute(IFLA_LINKINFO, &information));
    let message = message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE_EXCLUSIVE, &body);
    // NETLINK_ROUTE is 0, the default
    ask(None, &message)
}

fn ask_nftables() -> std::io::Result<()> {
    // struct nfgenmsg
    ask(
        Some(netlink::NETFILTER),
        &message(NFT_MSG_GETGEN, 0, &[0; 4]),
    )
}
