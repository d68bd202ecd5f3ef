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
