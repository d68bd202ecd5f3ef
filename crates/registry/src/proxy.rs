//! Which proxy, if any, a request goes through.
//!
//! The rules are those of Go's `net/http`, which Docker's users know: `HTTPS_PROXY` for HTTPS,
//! `HTTP_PROXY` for HTTP, `NO_PROXY` with host names (which include their subdomains), `.suffixes`,
//! addresses, CIDR blocks, ports and `*`; loopback is never proxied. Names in lower case work too.

use std::net::IpAddr;

use crate::location::Origin;

/// The proxies to use, as found in the environment.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    https: Option<String>,
    http: Option<String>,
    exceptions: Vec<String>,
}

impl Proxies {
    /// What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    pub fn from_environment() -> Proxies {
        Proxies::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`Proxies::from_environment`], with the variables looked up by `variable`.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let either = |name: &str| {
            variable(name)
                .or_else(|| variable(&name.to_ascii_lowercase()))
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let exceptions = either("NO_PROXY").unwrap_or_default();
        Proxies {
            https: either("HTTPS_PROXY"),
            http: either("HTTP_PROXY"),
            exceptions: exceptions
                .split(',')
                .map(|entry| entry.trim().to_ascii_lowercase())
                .filter(|entry| !entry.is_empty())
                .collect(),
        }
    }

    /// The proxy for connections to `origin`.
    pub(crate) fn for_origin(&self, origin: &Origin) -> Option<&str> {
        let proxy = if origin.is_https {
            &self.https
        } else {
            &self.http
        };
        let is_direct = origin.is_loopback()
            || self
                .exceptions
                .iter()
                .any(|exception| is_covered(exception, origin));
        proxy.as_deref().filter(|_| !is_direct)
    }
}

fn is_covered(exception: &str, origin: &Origin) -> bool {
    if exception == "*" {
        return true;
    }
    if let (Some((network, bits)), Some(address)) = (exception.split_once('/'), origin.address()) {
        return is_in_block(network, bits, address).unwrap_or(false);
    }
    let (host, port) = match exception.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse::<u16>().ok())
        }
        _ => (exception, None),
    };
    if port.is_some_and(|port| port != origin.port) {
        return false;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if let (Ok(exception), Some(address)) = (bare.parse::<IpAddr>(), origin.address()) {
        return exception.to_canonical() == address;
    }
    let host = host.strip_prefix('*').unwrap_or(host);
    match host.strip_prefix('.') {
        Some(_) => origin.host.ends_with(host),
        None => {
            origin.host == host
                || origin
                    .host
                    .strip_suffix(host)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

fn is_in_block(network: &str, bits: &str, address: IpAddr) -> Option<bool> {
    let bits: u32 = bits.parse().ok()?;
    match (network.parse::<IpAddr>().ok()?, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Some(network.to_bits() & mask == address.to_bits() & mask)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Some(network.to_bits() & mask == address.to_bits() & mask)
        }
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(no_proxy: &str) -> Proxies {
        Proxies::from_variables(|name| match name {
            "HTTPS_PROXY" => Some("http://proxy:3128".into()),
            "http_proxy" => Some("http://plain:3128".into()),
            "NO_PROXY" => Some(no_proxy.into()),
            _ => None,
        })
    }

    fn is_proxied(no_proxy: &str, host: &str) -> bool {
        proxies(no_proxy)
            .for_origin(&Origin::of_host(host, true).unwrap())
            .is_some()
    }

    #[test]
    fn each_scheme_has_its_proxy_and_loopback_has_none() {
        let proxies = proxies("");
        let of = |host, is_https| {
            proxies
                .for_origin(&Origin::of_host(host, is_https).unwrap())
                .map(str::to_owned)
        };
        assert_eq!(of("a.test", true).as_deref(), Some("http://proxy:3128"));
        assert_eq!(of("a.test", false).as_deref(), Some("http://plain:3128"));
        for loopback in [
            "localhost:5000",
            "127.0.0.1:5000",
            "127.8.8.8",
            "[::1]:5000",
        ] {
            assert_eq!(of(loopback, true), None);
        }
    }

    #[test]
    fn exceptions_are_read_as_go_reads_them() {
        for (no_proxy, host, expected) in [
            ("example.test", "example.test", false),
            ("example.test", "registry.example.test", false),
            ("example.test", "badexample.test", true),
            (".example.test", "example.test", true),
            (".example.test", "a.example.test", false),
            ("*.example.test", "a.example.test", false),
            ("other.test, Example.Test", "example.test", false),
            ("example.test:5000", "example.test:5000", false),
            ("example.test:5000", "example.test", true),
            ("10.0.0.0/8", "10.9.8.7:5000", false),
            ("10.0.0.0/8", "11.9.8.7:5000", true),
            ("10.1.2.3", "10.1.2.3", false),
            ("0.0.0.0/0", "11.9.8.7:5000", false),
            ("fd00::/8", "[fd12::1]:5000", false),
            ("*", "anything.test", false),
            ("10.0.0.0/99", "10.0.0.1", true),
        ] {
            assert_eq!(is_proxied(no_proxy, host), expected, "{no_proxy} {host}");
        }
    }
}
