//! What an instance may reach beyond its networks: `--egress`. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Protocol;

/// What an instance may reach beyond the networks that it is on.
///
/// Its neighbours, and the name server of its networks, it always reaches; answers to who reached it
/// always go out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Egress {
    /// Everything.
    #[default]
    Allow,
    /// Nothing.
    Deny,
    /// These alone.
    List(Vec<Allowed>),
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Who.
    pub to: Destination,
    /// First and last port; all when not given.
    pub ports: Option<(u16, u16)>,
    /// All when not given.
    pub protocol: Option<Protocol>,
}

/// Whom an entry allows to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All of a subnet.
    Net(IpNet),
    /// Whatever addresses the name has when the instance asks for it, lower case. One that begins with
    /// `*.` stands for all names below.
    Name(String),
}

impl Destination {
    /// Whether a name, without the final dot, is meant.
    #[must_use]
    pub fn is_name(&self, name: &str) -> bool {
        let Destination::Name(own) = self else {
            return false;
        };
        match own.strip_prefix('*') {
            Some(suffix) => {
                name.len() > suffix.len()
                    && name.is_char_boundary(name.len() - suffix.len())
                    && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            }
            None => own.eq_ignore_ascii_case(name),
        }
    }
}

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{entry:?} is not a destination: {reason}")]
pub struct EgressError {
    /// The entry.
    pub entry: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl FromStr for Egress {
    type Err = EgressError;

    /// `allow`, `deny`, or entries with commas between: an address, a subnet or a name, then `:port`,
    /// `:first-last`, `/protocol`, both or none. Addresses of IPv6 with a port stand in brackets.
    fn from_str(text: &str) -> Result<Egress, EgressError> {
        match text {
            "allow" => Ok(Egress::Allow),
            "deny" => Ok(Egress::Deny),
            list => {
                let entries: Result<_, _> = list.split(',').map(entry).collect();
                entries.map(Egress::List)
            }
        }
    }
}

fn entry(text: &str) -> Result<Allowed, EgressError> {
    let fail = |reason| EgressError {
        entry: text.to_owned(),
        reason,
    };
    let whole = text.trim();
    // A protocol is a word, the length of a prefix a number.
    let (rest, protocol) = match whole.rsplit_once('/') {
        Some((rest, word)) if word.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            let protocol = word.to_ascii_lowercase();
            let protocol = protocol
                .parse()
                .map_err(|()| fail("a protocol is tcp, udp or sctp"))?;
            (rest, Some(protocol))
        }
        _ => (whole, None),
    };
    let (host, ports) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner.split_once(']').ok_or_else(|| fail("] is missing"))?;
            match after {
                "" => (host.to_owned(), None),
                after => match after.strip_prefix(':') {
                    Some(ports) => (host.to_owned(), Some(ports)),
                    // `[fd00::]/8` and the like.
                    None => match after.split_once(':') {
                        Some((prefix, ports)) => (format!("{host}{prefix}"), Some(ports)),
                        None => (format!("{host}{after}"), None),
                    },
                },
            }
        }
        // More than one colon: an address of IPv6.
        None => match rest.split_once(':') {
            Some((host, ports)) if !ports.contains(':') => (host.to_owned(), Some(ports)),
            _ => (rest.to_owned(), None),
        },
    };
    let ports = ports.map(port_range).transpose().map_err(|()| {
        fail("ports are a number or a range from 1 to 65535, like 443 or 8000-8010")
    })?;
    Ok(Allowed {
        to: destination(&host).map_err(fail)?,
        ports,
        protocol,
    })
}

fn port_range(text: &str) -> Result<(u16, u16), ()> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(()),
    }
}

fn destination(host: &str) -> Result<Destination, &'static str> {
    if let Ok(net) = host.parse::<IpNet>() {
        return Ok(Destination::Net(net.trunc()));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Destination::Net(address.into()));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let plain = name.strip_prefix("*.").unwrap_or(&name);
    let is_name = (1..=253).contains(&plain.len())
        && plain.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        })
        // What looks like an address was meant as one.
        && plain.bytes().any(|b| b.is_ascii_alphabetic());
    match is_name {
        true => Ok(Destination::Name(name)),
        false => Err(
            "write an address, a subnet like 10.0.0.0/8, or a name like example.com or *.example.com",
        ),
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Egress::Allow => f.write_str("allow"),
            Egress::Deny => f.write_str("deny"),
            Egress::List(list) => {
                for (number, allowed) in list.iter().enumerate() {
                    if number > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{allowed}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        match &self.to {
            Destination::Name(name) => f.write_str(name)?,
            Destination::Net(net) => match (net, is_host(net)) {
                (IpNet::V4(net), true) => write!(f, "{}", net.addr())?,
                (IpNet::V4(net), false) => write!(f, "{net}")?,
                (IpNet::V6(net), true) => write!(f, "[{}]", net.addr())?,
                (IpNet::V6(net), false) => write!(f, "[{}]/{}", net.addr(), net.prefix_len())?,
            },
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, ":{first}")?,
            Some((first, last)) => write!(f, ":{first}-{last}")?,
            None => {}
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

impl From<Egress> for String {
    fn from(egress: Egress) -> String {
        egress.to_string()
    }
}

impl TryFrom<String> for Egress {
    type Error = EgressError;

    fn try_from(text: String) -> Result<Egress, EgressError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn policies_are_read_and_written() {
        for text in [
            "allow",
            "deny",
            "10.0.0.0/8",
            "192.0.2.1:53/udp",
            "example.com:443,*.example.org,[fd00::]/8:80-90/tcp,[2001:db8::1]:443,sctp.example/sctp",
        ] {
            let egress: Egress = text.parse().unwrap();
            assert_eq!(egress.to_string(), text);
        }
        assert_eq!(
            "2001:db8::1".parse::<Egress>().unwrap().to_string(),
            "[2001:db8::1]"
        );
        assert_eq!(
            "10.1.2.3/8".parse::<Egress>().unwrap().to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(
            "Example.COM.".parse::<Egress>().unwrap().to_string(),
            "example.com"
        );
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for text in [
            "",
            ",",
            "a,,b",
            "10.0.0.0/33",
            "300.1.1.1",
            "a b",
            "a:0",
            "a:90-80",
            "a/icmp",
            "-x.y",
            "*.",
            "*",
            "a.*.b",
            "[::1",
            "https://a",
        ] {
            text.parse::<Egress>().expect_err(text);
        }
    }

    #[test]
    fn a_star_stands_for_names_below() {
        let to = |text: &str| match text.parse::<Egress>().unwrap() {
            Egress::List(mut list) => list.remove(0).to,
            other => panic!("{other}"),
        };
        assert!(to("example.com").is_name("EXAMPLE.com"));
        assert!(!to("example.com").is_name("a.example.com"));
        assert!(to("*.example.com").is_name("a.b.example.com"));
        assert!(!to("*.example.com").is_name("example.com"));
        assert!(!to("*.example.com").is_name("badexample.com"));
        assert!(!to("10.0.0.0/8").is_name("10.0.0.0"));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_read_is_written_alike(text in "[a-z0-9.:/,*\\[\\]-]{0,40}") {
            if let Ok(egress) = text.parse::<Egress>() {
                prop_assert_eq!(egress.to_string().parse::<Egress>().unwrap(), egress);
            }
        }
    }
}
