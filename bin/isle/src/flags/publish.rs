//! `--publish`, in all of Docker's forms.

use std::net::IpAddr;

use isle_engine::Unpublish;
use isle_network::{HostPort, Protocol, Publish};

use super::FlagError;

/// The ports of one `--publish`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published(pub Vec<Publish>);

/// `[ADDRESS:][HOST-PORT[-PORT]:]PORT[-PORT][/PROTOCOL]`. Ranges on both sides are of the same length and go one by
/// one; a range on the host's side alone is where a free port is looked for.
pub fn publish(text: &str) -> Result<Published, FlagError> {
    let fail = |reason: &str| {
        FlagError::new(
            format!("{text:?} cannot be published: {reason}"),
            "write 8080:80, 127.0.0.1:8080:80, 80, 8000-8010:8000-8010 or 53:53/udp",
        )
    };
    let (address, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (address, rest) = inner
                .split_once("]:")
                .ok_or_else(|| fail("an address in brackets ends with ]:"))?;
            (Some(address), rest)
        }
        None => match text.split(':').count() {
            3 => text
                .split_once(':')
                .map_or((None, text), |(a, r)| (Some(a), r)),
            1 | 2 => (None, text),
            _ => return Err(fail("an IPv6 address stands in brackets")),
        },
    };
    let host = match address {
        None | Some("") => None,
        Some(address) => {
            let parsed: Result<IpAddr, _> = address.parse();
            Some(parsed.map_err(|_| fail("the address is not one of the host"))?)
        }
    };
    let (host_ports, inside) = match rest.split_once(':') {
        Some((host_ports, inside)) => (host_ports, inside),
        None => ("", rest),
    };
    let (inside, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
    let protocol: Protocol = protocol
        .to_ascii_lowercase()
        .parse()
        .map_err(|()| fail("the protocol is tcp, udp or sctp"))?;
    let (first, last) = range(inside).ok_or_else(|| fail("ports are numbers from 1 to 65535"))?;
    let host_range = match host_ports {
        "" | "0" => None,
        ports => Some(range(ports).ok_or_else(|| fail("ports are numbers from 1 to 65535"))?),
    };
    let count = last - first;
    let each = |offset: u16| -> Result<Publish, FlagError> {
        let host_port = match host_range {
            None => HostPort::Any,
            Some((from, to)) if to - from == count => {
                HostPort::Within(from + offset, from + offset)
            }
            Some((from, to)) if count == 0 => HostPort::Within(from, to),
            Some(_) => return Err(fail("both ranges have to be of the same length")),
        };
        Ok(Publish {
            protocol,
            port: first + offset,
            host,
            host_port,
        })
    };
    (0..=count)
        .map(each)
        .collect::<Result<_, _>>()
        .map(Published)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

/// The ports of one `--publish-rm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpublished(pub Vec<Unpublish>);

/// As [`publish`]: what is given has to fit.
pub fn unpublish(text: &str) -> Result<Unpublished, FlagError> {
    let Published(wanted) = publish(text)?;
    let gone = wanted.into_iter().map(|publish| Unpublish {
        protocol: publish.protocol,
        port: publish.port,
        host: publish.host,
        host_port: match publish.host_port {
            HostPort::Within(first, last) if first == last => Some(first),
            _ => None,
        },
    });
    Ok(Unpublished(gone.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Publish {
        let Published(mut all) = publish(text).expect(text);
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn dockers_forms_are_read() {
        let tcp = |host: Option<&str>, host_port, port| Publish {
            protocol: Protocol::Tcp,
            port,
            host: host.map(|text| text.parse().unwrap()),
            host_port,
        };
        let exactly = |port| HostPort::Within(port, port);
        assert_eq!(one("80"), tcp(None, HostPort::Any, 80));
        assert_eq!(one("8080:80"), tcp(None, exactly(8080), 80));
        assert_eq!(
            one("127.0.0.1:8080:80"),
            tcp(Some("127.0.0.1"), exactly(8080), 80)
        );
        assert_eq!(
            one("127.0.0.1::80"),
            tcp(Some("127.0.0.1"), HostPort::Any, 80)
        );
        assert_eq!(one("[::1]:8080:80"), tcp(Some("::1"), exactly(8080), 80));
        assert_eq!(one("0:80"), tcp(None, HostPort::Any, 80));
        assert_eq!(
            one("9000-9010:80"),
            tcp(None, HostPort::Within(9000, 9010), 80)
        );
        assert_eq!(one("53:53/UDP").protocol, Protocol::Udp);
        assert_eq!(one("5:5/sctp").protocol, Protocol::Sctp);
        let Published(many) = publish("8000-8002:80-82/udp").unwrap();
        let pairs: Vec<_> = many.iter().map(|p| (p.host_port, p.port)).collect();
        assert_eq!(
            pairs,
            [
                (exactly(8000), 80),
                (exactly(8001), 81),
                (exactly(8002), 82)
            ]
        );
        assert_eq!(publish("80-82").unwrap().0.len(), 3);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            "http",
            "0",
            "65536",
            "80:",
            ":",
            "80-79",
            "1-3:1-2",
            "80/icmp",
            "1.2.3:80:80",
            "::1:80:80",
            "[::1:80:80",
            "[::1]80:80",
            "a:b:c",
            "-1",
        ] {
            publish(text).expect_err(text);
        }
    }
}
