//! Network namespaces for a test, and what runs in them.

#![allow(clippy::unwrap_used, reason = "these are tests")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use isle_dataplane::{Bridge, Dataplane, Endpoint, Rate, Realm};
use isle_sys::namespace::in_network;

pub const WAIT: Duration = Duration::from_secs(5);

/// Says why a test is not run, when it cannot be.
pub fn is_skipped(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped {test}: network namespaces need root");
        return true;
    }
    for program in ["nft", "ip", "unshare"] {
        if Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            eprintln!("skipped {test}: no {program}");
            return true;
        }
    }
    false
}

/// A network namespace; it goes with the last descriptor and what is in it.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
        let namespace = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        Self(namespace)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Runs something there.
    pub fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        in_network(self.fd(), run).unwrap()
    }

    /// Runs a program there; what it said.
    pub fn program(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = self.run(|| {
            Command::new(words.next().unwrap())
                .args(words)
                .output()
                .unwrap()
        });
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.program(line)).unwrap()
    }

    pub fn write(&self, setting: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap());
    }

    /// A TCP server that greets with a text and the address that it sees its client at.
    pub fn greet(&self, at: impl Into<SocketAddr>, text: &'static str) -> Greeter {
        let at = at.into();
        let listener = self.run(|| TcpListener::bind(at).unwrap());
        let stop = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                if write!(stream, "{text} {}", from.ip()).is_err() {
                    break;
                }
            }
        });
        Greeter {
            stop,
            thread: Some(thread),
        }
    }

    /// What a TCP server says.
    pub fn ask(&self, to: impl Into<SocketAddr>) -> io::Result<String> {
        self.ask_within(to, WAIT)
    }

    /// Whether nothing answers: for refusals by silence.
    pub fn is_silent(&self, to: impl Into<SocketAddr>) -> bool {
        let answer = self.ask_within(to, Duration::from_millis(300));
        answer.is_err_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
            )
        })
    }

    fn ask_within(&self, to: impl Into<SocketAddr>, wait: Duration) -> io::Result<String> {
        let to = to.into();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, wait)?;
            stream.set_read_timeout(Some(wait))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    pub fn udp(&self, at: impl Into<SocketAddr>) -> UdpSocket {
        let at = at.into();
        let socket = self.run(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket
    }

    /// Names of all links but the loopback interface and those that the kernel makes by itself.
    pub fn links(&self) -> Vec<String> {
        let links = self.json("ip -j link show");
        let names = links.as_array().unwrap().iter();
        names
            .map(|link| link["ifname"].as_str().unwrap().to_owned())
            .filter(|name| name != "lo" && !name.starts_with("ifb"))
            .collect()
    }
}

pub struct Greeter {
    stop: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Greeter {
    fn drop(&mut self) {
        // accept(2) of a socket that is shut down fails.
        let _ = rustix::net::shutdown(&self.stop, rustix::net::Shutdown::Both);
        let _ = self.thread.take().unwrap().join();
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A host with a network namespace of its own, and another one outside that it has a cable to:
/// 192.0.2.1 here, 192.0.2.9 there, and 2001:db8::1 and 2001:db8::9.
pub struct Host {
    pub host: Namespace,
    pub outside: Namespace,
    pub dataplane: Dataplane,
}

impl Host {
    pub fn new() -> Self {
        let host = Namespace::new();
        let outside = Namespace::new();
        host.program("ip link set lo up");
        outside.program("ip link set lo up");
        host.run(|| {
            use isle_netlink::link::{Kind, Link};
            let mut batch = isle_netlink::Batch::default();
            let peer = Link {
                name: Some("wan"),
                namespace: Some(outside.fd()),
                ..Link::default()
            };
            let link = Link {
                name: Some("wan"),
                ..Link::default()
            };
            batch.create_link(&link, Kind::Veth(&peer));
            isle_netlink::Socket::route().unwrap().send(&batch).unwrap();
        });
        for (namespace, last) in [(&host, "1"), (&outside, "9")] {
            namespace.program(&format!("ip address add 192.0.2.{last}/24 dev wan"));
            namespace.program(&format!("ip address add 2001:db8::{last}/64 dev wan nodad"));
            namespace.program("ip link set wan up");
        }
        for namespace in [&host, &outside] {
            // The kernel may take a second to notice that both ends are up, unless it is asked.
            namespace.program("ip link show wan");
        }
        Self {
            host,
            outside,
            dataplane: Dataplane::new(Realm::new("isle_test")),
        }
    }

    /// Does something as the host.
    pub fn with<T: Send>(&mut self, run: impl FnOnce(&mut Dataplane) -> T + Send) -> T {
        let dataplane = &mut self.dataplane;
        self.host.run(|| run(dataplane))
    }

    /// An instance on a bridge: `10.<network>.0.<number>` and `fd00:<network>::<number>`.
    pub fn instance(&mut self, bridge: &Bridge, number: u8) -> Namespace {
        let namespace = Namespace::new();
        let endpoint = endpoint(bridge, number);
        self.with(|dataplane| dataplane.attach_namespace(&endpoint, namespace.fd()))
            .unwrap();
        namespace
    }
}

/// A network that masquerades: `10.<number>.0.0/24` and `fd00:<number>::/64`.
pub fn bridge(number: u8) -> Bridge {
    Bridge {
        addresses: vec![
            net(&format!("10.{number}.0.1/24")),
            net(&format!("fd00:{number}::1/64")),
        ],
        masquerade: true,
        ..Bridge::new(&format!("isl-{number}"))
    }
}

pub fn endpoint(bridge: &Bridge, number: u8) -> Endpoint {
    let mut addresses = Vec::new();
    let mut mac = [0x02, 0x42, 0, 0, 0, number];
    for gateway in &bridge.addresses {
        let address = match gateway.addr() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                mac[2..5].copy_from_slice(&[a, b, c]);
                Ipv4Addr::from([a, b, c, number]).into()
            }
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !0xffff;
                std::net::Ipv6Addr::from_bits(
                    prefix | u128::from_str_radix(&number.to_string(), 16).unwrap(),
                )
                .into()
            }
        };
        addresses.push(IpNet::new(address, gateway.prefix_len()).unwrap());
    }
    Endpoint {
        link: format!("ie{}{number}", bridge.link.replace("isl-", "")),
        bridge: bridge.link.clone(),
        is_isolated: bridge.is_isolated,
        interface: "eth0".to_owned(),
        mac,
        addresses,
        gateways: match bridge.is_internal {
            true => Vec::new(),
            false => bridge.addresses.iter().map(|net| net.addr()).collect(),
        },
        routes: Vec::new(),
        mtu: None,
        rate: Rate::default(),
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
