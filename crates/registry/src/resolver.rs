//! From host names to addresses: `/etc/hosts`, then DNS.
//!
//! Our programs are linked statically. The C library's `getaddrinfo` would load whatever
//! `nsswitch.conf` names into them, built for another version of that library; so it is not
//! called. What is done here is `hosts: files dns` as in `man 5 hosts` and `man 5 resolv.conf`.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use ureq::Timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

const MOST_ADDRESSES: usize = 16;
const MOST_SERVERS: usize = 3;
const LONGEST_CHAIN: usize = 16;
/// A server is asked for so long before the next one is, unless `resolv.conf` says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks names up in a file of hosts and at the servers that another file names.
#[derive(Debug)]
pub(crate) struct FilesAndDns {
    hosts: PathBuf,
    servers: PathBuf,
    /// 53, but for tests.
    port: u16,
}

/// What `resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    /// Names with fewer dots are tried with the search list first.
    dots: usize,
    patience: Duration,
    attempts: u32,
}

/// What the servers said of one name.
enum Found {
    Addresses(Vec<IpAddr>),
    /// There is no such name, or it has no address.
    Nothing,
}

impl FilesAndDns {
    pub(crate) fn of_host() -> FilesAndDns {
        FilesAndDns {
            hosts: "/etc/hosts".into(),
            servers: "/etc/resolv.conf".into(),
            port: 53,
        }
    }

    /// All addresses of `host`, the most promising first; empty when it has none.
    fn look_up(&self, host: &str, limit: Option<Duration>) -> io::Result<Vec<IpAddr>> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let known = fs::read_to_string(&self.hosts).unwrap_or_default();
        let known = addresses_in_hosts(&known, &host);
        if !known.is_empty() {
            return Ok(known);
        }
        // RFC 6761 section 6.3: not a matter for any server.
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let settings = fs::read_to_string(&self.servers).unwrap_or_default();
        let settings = Settings::parse(&settings);
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        for name in settings.candidates(&host) {
            match self.ask_all(&name, &settings, end)? {
                Found::Addresses(addresses) => return Ok(addresses),
                Found::Nothing => {}
            }
        }
        Ok(Vec::new())
    }

    /// Asks one server after the other, and all of them again.
    fn ask_all(&self, name: &str, settings: &Settings, end: Option<Instant>) -> io::Result<Found> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..settings.attempts {
            for server in &settings.servers {
                let left = end.map_or(settings.patience, |end| {
                    end.saturating_duration_since(Instant::now())
                        .min(settings.patience)
                });
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                match ask(SocketAddr::new(*server, self.port), name, left) {
                    Ok(found) => return Ok(found),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }
}

impl Resolver for FilesAndDns {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = match (uri.port_u16(), uri.scheme_str()) {
            (Some(port), _) => port,
            (None, Some("http")) => 80,
            (None, _) => 443,
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let addresses = match bare.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let limit = timeout.not_zero().map(|limit| *limit);
                let found = self
                    .look_up(bare, limit)
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                            ureq::Error::Timeout(Timeout::Resolve)
                        }
                        _ => ureq::Error::Io(io::Error::other(format!("look up {bare}: {error}"))),
                    })?;
                sorted(found)
            }
        };
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(MOST_ADDRESSES) {
            resolved.push(SocketAddr::new(address, port));
        }
        if resolved.is_empty() {
            Err(ureq::Error::HostNotFound)
        } else {
            Ok(resolved)
        }
    }
}

/// Addresses that there is a route to, IPv4 before IPv6; all of them where there is none to any.
///
/// One connection is tried after the other, so a host with a broken IPv6 would wait for it
/// whenever that came first.
fn sorted(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut reachable: Vec<IpAddr> = found.iter().copied().filter(has_route).collect();
    if reachable.is_empty() {
        reachable = found;
    }
    reachable.sort_by_key(IpAddr::is_ipv6);
    reachable
}

/// Connecting a datagram socket sends nothing, and fails where no route leads.
fn has_route(address: &IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect((*address, 443)).is_ok())
}

fn addresses_in_hosts(content: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in content.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

impl Settings {
    fn parse(content: &str) -> Settings {
        let mut settings = Settings {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            patience: PATIENCE,
            attempts: 2,
        };
        for line in content.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone (`fe80::1%eth0`) cannot be said in an address; such a server is left out.
                    let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    let has_room = settings.servers.len() < MOST_SERVERS;
                    settings.servers.extend(server.filter(|_| has_room));
                }
                Some("search" | "domain") => {
                    settings.search = words
                        .map(|word| word.trim_matches('.').to_ascii_lowercase())
                        .collect();
                    settings.search.retain(|domain| !domain.is_empty());
                }
                Some("options") => {
                    for option in words {
                        settings.option(option);
                    }
                }
                _ => {}
            }
        }
        if settings.servers.is_empty() {
            settings.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        settings
    }

    fn option(&mut self, option: &str) {
        let Some((name, Ok(value))) = option
            .split_once(':')
            .map(|(name, value)| (name, value.parse::<u32>()))
        else {
            return;
        };
        match name {
            "ndots" => self.dots = value.min(15) as usize,
            "timeout" => self.patience = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The names to ask for, in turn.
    fn candidates(&self, host: &str) -> Vec<String> {
        let searched = self.search.iter().map(|domain| format!("{host}.{domain}"));
        let itself = std::iter::once(host.to_owned());
        if host.matches('.').count() >= self.dots {
            itself.chain(searched).collect()
        } else {
            searched.chain(itself).collect()
        }
    }
}

/// Asks one server for the addresses of both kinds.
fn ask(server: SocketAddr, name: &str, patience: Duration) -> io::Result<Found> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connected: what others send is not received, and the port is a fresh one each time.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let end = Instant::now() + patience;
    let mut open = Vec::new();
    for kind in [TYPE::A, TYPE::AAAA] {
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(|_| io::Error::other("no random numbers"))?;
        let query = query(u16::from_le_bytes(id), name, kind)?;
        socket.send(&query)?;
        open.push((u16::from_le_bytes(id), kind, query));
    }
    let mut addresses = Vec::new();
    let mut buffer = [0; 4096];
    while !open.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // One kind of address is enough to go on with.
            return match addresses.is_empty() {
                true => Err(io::ErrorKind::TimedOut.into()),
                false => Ok(Found::Addresses(addresses)),
            };
        }
        socket.set_read_timeout(Some(left))?;
        let count = match socket.recv(&mut buffer) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => continue,
            Err(error) => return Err(error),
        };
        // What is not an answer to a question of ours may be a forgery, or late: not looked at.
        let matching = open.iter().position(|(id, kind, _)| {
            Packet::parse(&buffer[..count]).is_ok_and(|packet| answers(&packet, *id, name, *kind))
        });
        let Some(place) = matching else { continue };
        let (id, kind, query) = open.swap_remove(place);
        let packet = Packet::parse(&buffer[..count]).map_err(io::Error::other)?;
        if packet.has_flags(PacketFlag::TRUNCATION) {
            let whole = ask_by_stream(server, &query, left)?;
            let packet = Packet::parse(&whole).map_err(io::Error::other)?;
            if answers(&packet, id, name, kind) {
                addresses.extend(addresses_in(&packet, name)?);
            }
        } else {
            addresses.extend(addresses_in(&packet, name)?);
        }
    }
    Ok(if addresses.is_empty() {
        Found::Nothing
    } else {
        Found::Addresses(addresses)
    })
}

/// For answers that are too large for a datagram (RFC 7766).
fn ask_by_stream(server: SocketAddr, query: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn query(id: u16, name: &str, kind: TYPE) -> io::Result<Vec<u8>> {
    let malformed = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(malformed)?;
    packet.questions.push(Question::new(
        name,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec().map_err(malformed)
}

fn answers(packet: &Packet<'_>, id: u16, name: &str, kind: TYPE) -> bool {
    let is_ours = |question: &Question<'_>| {
        question.qtype == QTYPE::TYPE(kind) && question.qname.to_string().eq_ignore_ascii_case(name)
    };
    packet.id() == id
        && packet.has_flags(PacketFlag::RESPONSE)
        && matches!(packet.questions.as_slice(), [question] if is_ours(question))
}

/// The addresses of `name`, and of the names that it is an alias of.
fn addresses_in(packet: &Packet<'_>, name: &str) -> io::Result<Vec<IpAddr>> {
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Vec::new()),
        // Another server may know.
        other => return Err(io::Error::other(format!("name server answers {other:?}"))),
    }
    let mut names = vec![name.to_ascii_lowercase()];
    let mut addresses = Vec::new();
    for _ in 0..LONGEST_CHAIN {
        let known = names.len();
        for record in &packet.answers {
            let owner = record.name.to_string().to_ascii_lowercase();
            if let RData::CNAME(alias) = &record.rdata
                && names.contains(&owner)
            {
                let alias = alias.0.to_string().to_ascii_lowercase();
                if !names.contains(&alias) {
                    names.push(alias);
                }
            }
        }
        if names.len() == known {
            break;
        }
    }
    for record in &packet.answers {
        if !names.contains(&record.name.to_string().to_ascii_lowercase()) {
            continue;
        }
        match &record.rdata {
            RData::A(a) => addresses.push(Ipv4Addr::from_bits(a.address).into()),
            RData::AAAA(aaaa) => addresses.push(Ipv6Addr::from_bits(aaaa.address).into()),
            _ => {}
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME};
    use std::thread;

    #[test]
    fn the_file_of_hosts_is_read_as_the_manual_says() {
        let content = "127.0.0.1 localhost\n# 1.1.1.1 registry\n10.0.0.5\tRegistry.test  registry # x\n\
                       fd00::5 registry\nnonsense registry\n10.0.0.5 registry";
        let found = addresses_in_hosts(content, "registry");
        assert_eq!(
            found,
            [
                "10.0.0.5".parse::<IpAddr>().unwrap(),
                "fd00::5".parse().unwrap()
            ]
        );
        assert_eq!(addresses_in_hosts(content, "registry.test").len(), 1);
        assert!(addresses_in_hosts(content, "other").is_empty());
    }

    #[test]
    fn resolv_conf_is_read_as_the_manual_says() {
        let settings = Settings::parse(
            "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::1 # x\nsearch a.test b.test.\n\
             options ndots:2 timeout:3 attempts:99 rotate",
        );
        assert_eq!(
            settings.servers,
            [
                "10.0.0.1".parse::<IpAddr>().unwrap(),
                "::1".parse().unwrap()
            ]
        );
        assert_eq!(
            (
                settings.dots,
                settings.patience.as_secs(),
                settings.attempts
            ),
            (2, 3, 5)
        );
        assert_eq!(
            settings.candidates("x.y"),
            ["x.y.a.test", "x.y.b.test", "x.y"]
        );
        assert_eq!(
            settings.candidates("x.y.z"),
            ["x.y.z", "x.y.z.a.test", "x.y.z.b.test"]
        );
        assert_eq!(
            Settings::parse("").servers,
            [IpAddr::from(Ipv4Addr::LOCALHOST)]
        );
    }

    /// A name server that answers as `answer` says, with a forgery before each answer.
    fn serve(answer: fn(&str, QTYPE) -> (RCODE, Vec<ResourceRecord<'static>>)) -> (u16, impl Drop) {
        struct Stop(SocketAddr);
        impl Drop for Stop {
            fn drop(&mut self) {
                let _ =
                    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"", self.0));
            }
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                if count == 0 {
                    return;
                }
                let packet = Packet::parse(&buffer[..count]).unwrap();
                let question = &packet.questions[0];
                let (rcode, records) = answer(&question.qname.to_string(), question.qtype);
                let mut reply = packet.clone().into_reply();
                *reply.rcode_mut() = rcode;
                reply.answers = records;
                let mut forged = reply.clone();
                forged.set_id(packet.id().wrapping_add(1));
                forged.answers = vec![a("registry.test", "6.6.6.6")];
                socket
                    .send_to(&forged.build_bytes_vec().unwrap(), from)
                    .unwrap();
                socket
                    .send_to(&reply.build_bytes_vec().unwrap(), from)
                    .unwrap();
            }
        });
        (address.port(), Stop(address))
    }

    fn a(name: &'static str, address: &str) -> ResourceRecord<'static> {
        let address = address.parse::<Ipv4Addr>().unwrap().to_bits();
        ResourceRecord::new(
            Name::new(name).unwrap(),
            CLASS::IN,
            60,
            RData::A(A { address }),
        )
    }

    fn resolver(port: u16) -> (tempfile::TempDir, FilesAndDns) {
        let folder = tempfile::tempdir().unwrap();
        let (hosts, servers) = (
            folder.path().join("hosts"),
            folder.path().join("resolv.conf"),
        );
        fs::write(&hosts, "10.1.1.1 by-file.test\n").unwrap();
        fs::write(
            &servers,
            "nameserver 127.0.0.1\nsearch domain.test\noptions timeout:1 attempts:1",
        )
        .unwrap();
        (
            folder,
            FilesAndDns {
                hosts,
                servers,
                port,
            },
        )
    }

    #[test]
    fn names_are_found_in_the_file_at_the_server_and_through_aliases() {
        let (port, _stop) = serve(|name, kind| match (name, kind) {
            ("registry.test", QTYPE::TYPE(TYPE::A)) => {
                let alias = CNAME(Name::new("real.test").unwrap());
                let name = Name::new("registry.test").unwrap();
                let alias = ResourceRecord::new(name, CLASS::IN, 60, RData::CNAME(alias));
                (
                    RCODE::NoError,
                    vec![a("real.test", "10.0.0.9"), alias, a("evil.test", "6.6.6.6")],
                )
            }
            ("registry.test", QTYPE::TYPE(TYPE::AAAA)) => {
                let address = "fd00::9".parse::<Ipv6Addr>().unwrap().to_bits();
                let name = Name::new("registry.test").unwrap();
                let record =
                    ResourceRecord::new(name, CLASS::IN, 60, RData::AAAA(AAAA { address }));
                (RCODE::NoError, vec![record])
            }
            ("short.domain.test", QTYPE::TYPE(TYPE::A)) => {
                (RCODE::NoError, vec![a("short.domain.test", "10.0.0.7")])
            }
            ("broken.test", _) => (RCODE::ServerFailure, vec![]),
            _ => (RCODE::NameError, vec![]),
        });
        let (_folder, resolver) = resolver(port);
        let found = |name: &str| resolver.look_up(name, Some(Duration::from_secs(5)));
        let mut addresses = found("Registry.Test").unwrap();
        addresses.sort();
        assert_eq!(
            addresses,
            [
                "10.0.0.9".parse::<IpAddr>().unwrap(),
                "fd00::9".parse().unwrap()
            ]
        );
        assert_eq!(
            found("by-file.test").unwrap(),
            ["10.1.1.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(
            found("short").unwrap(),
            ["10.0.0.7".parse::<IpAddr>().unwrap()]
        );
        assert!(found("absent.test").unwrap().is_empty());
        assert!(found("localhost").unwrap().iter().all(IpAddr::is_loopback));
        assert!(found("broken.test").is_err());
        assert!(found("not a name").is_err() || found("not a name").unwrap().is_empty());
    }

    #[test]
    fn a_server_that_does_not_answer_ends_in_time() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (_folder, resolver) = resolver(silent.local_addr().unwrap().port());
        let started = Instant::now();
        let error = resolver
            .look_up("registry.test", Some(Duration::from_millis(300)))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn no_files_and_no_packets_make_it_fail(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Settings::parse(&text);
            let _ = addresses_in_hosts(&text, "a");
            if let Ok(packet) = Packet::parse(&bytes) {
                let _ = addresses_in(&packet, "a.test");
            }
        }
    }
}
