//! `--network`, `--add-host`, `--dns`.

use std::net::{Ipv4Addr, Ipv6Addr};

use isle_engine::config::{HostAddress, NetworkAttachment, NetworkMode};
use isle_network::{Egress, EgressError, Rate};
use isle_types::ByteSize;

use super::{FlagError, csv};

/// What one `--network` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkFlag {
    /// Loopback alone.
    None,
    /// The host's.
    Host,
    /// That of an instance.
    Instance(String),
    /// One of the engine's.
    Network(NetworkAttachment),
}

/// `none`, `host`, `container:NAME`, the name of a network, or `name=NETWORK,alias=…,ip=…,ip6=…,mac-address=…`.
pub fn network(text: &str) -> Result<NetworkFlag, FlagError> {
    match text {
        "none" => return Ok(NetworkFlag::None),
        "host" => return Ok(NetworkFlag::Host),
        // Docker's older words for it.
        "default" | "bridge" => return named(isle_network::DEFAULT),
        _ => {}
    }
    if let Some(name) = text.strip_prefix("container:") {
        return match name {
            "" => Err(FlagError::new(
                "container: names no instance",
                "write container:NAME",
            )),
            name => Ok(NetworkFlag::Instance(name.to_owned())),
        };
    }
    match text.contains('=') {
        true => described(text),
        false => named(text),
    }
}

fn named(name: &str) -> Result<NetworkFlag, FlagError> {
    match isle_network::is_name(name) {
        true => Ok(NetworkFlag::Network(NetworkAttachment {
            network: name.to_owned(),
            ..NetworkAttachment::default()
        })),
        false => Err(FlagError::new(
            format!("{name:?} is not the name of a network"),
            "write none, host, container:NAME or a name that `isle network ls` shows",
        )),
    }
}

fn described(text: &str) -> Result<NetworkFlag, FlagError> {
    let mut attachment = NetworkAttachment::default();
    for field in csv::fields(text)? {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            FlagError::new(
                format!("{field:?} has no KEY=VALUE form"),
                "write name=NETWORK,alias=NAME,ip=ADDRESS,ip6=ADDRESS,mac-address=ADDRESS",
            )
        })?;
        match key {
            "name" => match named(value)? {
                NetworkFlag::Network(named) => attachment.network = named.network,
                _ => unreachable!("a name is a network"),
            },
            "alias" => attachment.aliases.push(alias(value)?),
            "ip" => attachment.ipv4 = Some(ipv4(value)?),
            "ip6" => attachment.ipv6 = Some(ipv6(value)?),
            "mac-address" => attachment.mac = Some(mac_address(value)?),
            key => {
                return Err(FlagError::new(
                    format!("a network has no option {key:?}"),
                    "known are name, alias, ip, ip6 and mac-address",
                ));
            }
        }
    }
    match attachment.network.is_empty() {
        true => Err(FlagError::new(
            format!("{text:?} names no network"),
            "write name=NETWORK first",
        )),
        false => Ok(NetworkFlag::Network(attachment)),
    }
}

/// What all `--network` say together.
pub fn mode(flags: &[NetworkFlag]) -> Result<NetworkMode, FlagError> {
    let mut attachments = Vec::new();
    for flag in flags {
        let alone = match flag {
            NetworkFlag::Network(attachment) => {
                attachments.push(attachment.clone());
                continue;
            }
            NetworkFlag::None => NetworkMode::None,
            NetworkFlag::Host => NetworkMode::Host,
            NetworkFlag::Instance(name) => NetworkMode::Instance(name.clone()),
        };
        if flags.len() > 1 {
            return Err(FlagError::new(
                "none, host and container:NAME do not go together with other networks",
                "leave one of the --network out",
            ));
        }
        return Ok(alone);
    }
    Ok(NetworkMode::Networks(attachments))
}

/// `--egress`.
pub fn egress(text: &str) -> Result<Egress, FlagError> {
    text.parse().map_err(|error: EgressError| {
        FlagError::new(
            error.to_string(),
            "write allow, deny, or a list like 10.0.0.0/8,example.com:443,*.example.org",
        )
    })
}

/// `--net-rate`: `10mb` for both directions, or `in=10mb,out=1mb`; bytes a second.
pub fn rate(text: &str) -> Result<Rate, FlagError> {
    let fail = |reason: String| {
        FlagError::new(
            reason,
            "write bytes a second like 10mb, or in=10mb,out=1mb for each direction",
        )
    };
    let bytes = |text: &str| {
        let size = text.parse().ok().map(|size: ByteSize| size.bytes());
        size.filter(|bytes| *bytes > 0)
            .ok_or_else(|| fail(format!("{text:?} is no number of bytes a second")))
    };
    let mut rate = Rate::default();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("in", value)) => rate.into = Some(bytes(value)?),
            Some(("out", value)) => rate.out_of = Some(bytes(value)?),
            Some((key, _)) => return Err(fail(format!("a rate has no direction {key:?}"))),
            None => {
                let bytes = bytes(part)?;
                rate = Rate {
                    into: Some(bytes),
                    out_of: Some(bytes),
                };
            }
        }
    }
    Ok(rate)
}

/// `--network-alias`: a name that others can call.
pub fn alias(text: &str) -> Result<String, FlagError> {
    let is_alias = (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    match is_alias {
        true => Ok(text.to_owned()),
        false => Err(FlagError::new(
            format!("{text:?} cannot be called"),
            "use letters, digits, -, _ and .",
        )),
    }
}

/// `--ip`.
pub fn ipv4(text: &str) -> Result<Ipv4Addr, FlagError> {
    text.parse().map_err(|_| {
        FlagError::new(
            format!("{text:?} is not an IPv4 address"),
            "write for example 172.30.0.10",
        )
    })
}

/// `--ip6`.
pub fn ipv6(text: &str) -> Result<Ipv6Addr, FlagError> {
    text.parse().map_err(|_| {
        FlagError::new(
            format!("{text:?} is not an IPv6 address"),
            "write for example fd00::10",
        )
    })
}

/// `--mac-address`: of one card, not of a group.
pub fn mac_address(text: &str) -> Result<[u8; 6], FlagError> {
    let fail = || {
        FlagError::new(
            format!("{text:?} is not the hardware address of a card"),
            "write six pairs of digits, the first one even, like 02:42:ac:11:00:02",
        )
    };
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|pair| match pair.len() {
            2 => u8::from_str_radix(pair, 16).ok(),
            _ => None,
        })
        .collect();
    let mac: [u8; 6] = bytes.and_then(|b| b.try_into().ok()).ok_or_else(fail)?;
    match mac[0] & 1 == 1 || mac == [0; 6] {
        true => Err(fail()),
        false => Ok(mac),
    }
}

/// `--expose PORT[-PORT][/PROTOCOL]`: each port with its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed(pub Vec<String>);

/// `--expose`.
pub fn expose(text: &str) -> Result<Exposed, FlagError> {
    let fail = || {
        FlagError::new(
            format!("{text:?} is not a port"),
            "write a port or a range from 1 to 65535, like 80, 8000-8010 or 53/udp",
        )
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(fail());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = (port(first).ok_or_else(fail)?, port(last).ok_or_else(fail)?);
    if first > last {
        return Err(fail());
    }
    Ok(Exposed(
        (first..=last)
            .map(|port| format!("{port}/{protocol}"))
            .collect(),
    ))
}

/// `--add-host NAME:ADDRESS` or `NAME=ADDRESS`.
pub fn host(text: &str) -> Result<(String, HostAddress), FlagError> {
    let fail =
        |reason: String| FlagError::new(reason, "write NAME:ADDRESS, for example db:10.0.0.5");
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| fail(format!("{text:?} has no NAME:ADDRESS form")))?;
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if !is_name {
        return Err(fail(format!("{name:?} is not a host name")));
    }
    if address == HostAddress::GATEWAY {
        return Ok((name.to_owned(), HostAddress::Gateway));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    let address = bare
        .parse()
        .map_err(|_| fail(format!("{address:?} is not an IP address")))?;
    Ok((name.to_owned(), HostAddress::Address(address)))
}

/// `--dns-search`, `.` for none.
pub fn dns_search(text: &str) -> Result<String, FlagError> {
    let is_domain = text == "."
        || (!text.is_empty()
            && text.len() <= 255
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')));
    match is_domain {
        true => Ok(text.to_owned()),
        false => Err(FlagError::new(
            format!("{text:?} is not a domain"),
            "write a name like example.com",
        )),
    }
}

/// `--dns-option`: one word of resolv.conf(5).
pub fn dns_option(text: &str) -> Result<String, FlagError> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err(FlagError::new(
            format!("{text:?} is not an option of resolv.conf"),
            "write for example ndots:2",
        )),
    }
}

/// `--hostname` and `--domainname`.
pub fn host_name(text: &str) -> Result<String, FlagError> {
    let is_name = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !text.starts_with(['-', '.']);
    match is_name {
        true => Ok(text.to_owned()),
        false => Err(FlagError::new(
            format!("{text:?} is not a host name"),
            "use letters, digits, - and ., at most 64",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_words_names_or_descriptions() {
        assert_eq!(network("host"), Ok(NetworkFlag::Host));
        assert_eq!(network("none"), Ok(NetworkFlag::None));
        assert_eq!(
            network("container:a"),
            Ok(NetworkFlag::Instance("a".into()))
        );
        assert_eq!(network("default"), network("bridge"));
        let described =
            network("name=db,alias=a,alias=b,ip=10.0.0.5,mac-address=02:42:0a:00:00:05");
        assert_eq!(
            described,
            Ok(NetworkFlag::Network(NetworkAttachment {
                network: "db".into(),
                name: String::new(),
                aliases: vec!["a".into(), "b".into()],
                ipv4: Some("10.0.0.5".parse().unwrap()),
                ipv6: None,
                mac: Some([2, 0x42, 10, 0, 0, 5]),
            }))
        );
        for text in [
            "",
            "container:",
            "a b",
            "alias=x",
            "name=x,ip=1",
            "name=x,foo=1",
            "name=x,alias=a b",
        ] {
            network(text).expect_err(text);
        }
        for text in [
            "",
            "02:42",
            "01:00:00:00:00:01",
            "0:0:0:0:0:0",
            "zz:42:0a:00:00:05",
        ] {
            mac_address(text).expect_err(text);
        }
    }

    #[test]
    fn some_modes_go_with_no_other() {
        let parse = |texts: &[&str]| {
            let flags: Vec<_> = texts.iter().map(|text| network(text).unwrap()).collect();
            mode(&flags)
        };
        assert_eq!(parse(&["none"]), Ok(NetworkMode::None));
        assert_eq!(parse(&["a", "b"]).unwrap().attachments().len(), 2);
        parse(&["a", "host"]).unwrap_err();
        parse(&["none", "container:x"]).unwrap_err();
    }

    #[test]
    fn rates_are_for_one_direction_or_both() {
        let both = Rate {
            into: Some(10 << 20),
            out_of: Some(10 << 20),
        };
        assert_eq!(rate("10mb"), Ok(both));
        let each = Rate {
            into: Some(1024),
            out_of: Some(512),
        };
        assert_eq!(rate("in=1k,out=512"), Ok(each));
        assert_eq!(rate("out=512").unwrap().into, None);
        for text in ["", "0", "in=", "up=1k", "fast"] {
            rate(text).expect_err(text);
        }
    }

    #[test]
    fn exposed_ports_are_listed_one_by_one() {
        let exposed = |text| expose(text).unwrap().0;
        assert_eq!(exposed("80"), ["80/tcp"]);
        assert_eq!(exposed("53/UDP"), ["53/udp"]);
        assert_eq!(exposed("8000-8001/sctp"), ["8000/sctp", "8001/sctp"]);
        for text in ["", "0", "65536", "http", "80/icmp", "81-80", "80-", "80:80"] {
            expose(text).expect_err(text);
        }
    }

    #[test]
    fn hosts_are_names_with_addresses() {
        assert_eq!(
            host("db:10.0.0.5"),
            Ok((
                "db".into(),
                HostAddress::Address("10.0.0.5".parse().unwrap())
            ))
        );
        let local = Ok((
            "db".to_owned(),
            HostAddress::Address("::1".parse().unwrap()),
        ));
        for text in ["db=::1", "db:[::1]", "db:::1"] {
            assert_eq!(host(text), local);
        }
        assert_eq!(
            host("h:host-gateway"),
            Ok(("h".to_owned(), HostAddress::Gateway))
        );
        for text in [
            "",
            "db",
            ":1.2.3.4",
            "a b:1.2.3.4",
            "db:x",
            "x\n1.2.3.4 y:1.2.3.4",
        ] {
            host(text).expect_err(text);
        }
        dns_search("a\nb").unwrap_err();
        dns_option("a b").unwrap_err();
        host_name("a\0").unwrap_err();
        host_name("-x").unwrap_err();
    }
}
