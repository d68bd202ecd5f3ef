//! `--network`, `--add-host`, `--dns`.

use std::net::IpAddr;

use isle_engine::config::NetworkMode;

use super::FlagError;

/// `none`, `host`, `container:NAME`.
pub fn mode(text: &str) -> Result<NetworkMode, FlagError> {
    match text {
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => match text.strip_prefix("container:") {
            Some("") => Err(FlagError::new(
                "container: names no instance",
                "write container:NAME",
            )),
            Some(name) => Ok(NetworkMode::Instance(name.to_owned())),
            None => Err(FlagError::new(
                format!(
                    "network {text:?} is not available: this version has no bridge or user-defined networks, they come with a later one"
                ),
                "use --network none (loopback only), host, or container:NAME",
            )),
        },
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

/// `--publish` and its relatives, which come with networks.
pub fn publish_refused(_text: &str) -> Result<String, FlagError> {
    Err(FlagError::new(
        "publishing ports comes with networks in a later version",
        "use --network host: the instance's ports are then the host's own",
    ))
}

/// `--add-host NAME:ADDRESS` or `NAME=ADDRESS`.
pub fn host(text: &str) -> Result<(String, IpAddr), FlagError> {
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
    if address == "host-gateway" {
        return Err(FlagError::new(
            "host-gateway stands for the gateway of a bridge network, which this version does not have",
            "with --network host the host is 127.0.0.1",
        ));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    let address = bare
        .parse()
        .map_err(|_| fail(format!("{address:?} is not an IP address")))?;
    Ok((name.to_owned(), address))
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
    fn networks_of_later_versions_are_refused_with_that_reason() {
        assert_eq!(mode("host"), Ok(NetworkMode::Host));
        assert_eq!(mode("none"), Ok(NetworkMode::None));
        assert_eq!(mode("container:a"), Ok(NetworkMode::Instance("a".into())));
        for text in ["bridge", "default", "mynet", "container:", ""] {
            mode(text).expect_err(text);
        }
        assert!(
            publish_refused("80:80")
                .unwrap_err()
                .reason
                .contains("later version")
        );
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
            Ok(("db".into(), "10.0.0.5".parse().unwrap()))
        );
        assert_eq!(host("db=::1"), Ok(("db".into(), "::1".parse().unwrap())));
        assert_eq!(host("db:[::1]"), Ok(("db".into(), "::1".parse().unwrap())));
        assert_eq!(host("db:::1"), Ok(("db".into(), "::1".parse().unwrap())));
        for text in [
            "",
            "db",
            ":1.2.3.4",
            "a b:1.2.3.4",
            "db:x",
            "db:host-gateway",
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
