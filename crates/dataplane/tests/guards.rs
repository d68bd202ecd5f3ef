//! What guarded instances may reach, and that they cannot pretend to be others.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use isle_dataplane::{Allowed, Bridge, Destination, Endpoint, Guard, Protocol, Publication};
use isle_netlink::packet_log;
use support::{Host, Namespace, at, bridge, endpoint, eventually, ip, is_skipped, net};

fn guard(endpoint: &Endpoint, allowed: Vec<Allowed>) -> Guard {
    Guard {
        link: endpoint.link.clone(),
        mac: endpoint.mac,
        addresses: endpoint.addresses.iter().map(|net| net.addr()).collect(),
        allowed,
    }
}

fn all_of(text: &str) -> Allowed {
    Allowed {
        to: Destination::Net(net(text)),
        protocol: None,
        ports: None,
    }
}

struct Scene {
    host: Host,
    network: Bridge,
    endpoint: Endpoint,
    guarded: Namespace,
}

impl Scene {
    fn new(allowed: Vec<Allowed>) -> Self {
        let mut host = Host::new();
        let network = bridge(1);
        let endpoint = endpoint(&network, 2);
        host.with(|dataplane| {
            dataplane.ensure_bridge(&network).unwrap();
            dataplane.guard(&guard(&endpoint, allowed)).unwrap();
        });
        let guarded = host.instance(&network, 2);
        Self {
            host,
            network,
            endpoint,
            guarded,
        }
    }

    fn is_refused(&self, to: &str) -> bool {
        self.guarded
            .ask(at(to))
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }
}

#[test]
fn a_guarded_instance_reaches_its_neighbours_and_names_alone() {
    if is_skipped("guard") {
        return;
    }
    let mut scene = Scene::new(Vec::new());
    let neighbour = scene.host.instance(&scene.network, 3);
    let outside = scene.host.outside.greet(at("[::]:80"), "outside");
    let _neighbour = neighbour.greet(at("[::]:80"), "neighbour");
    let _guarded = scene.guarded.greet(at("[::]:80"), "guarded");
    let _host = scene.host.host.greet(at("[::]:81"), "host");
    let _names = scene.host.host.greet(at("10.1.0.1:53"), "names");
    let ask = |to: &str| scene.guarded.ask(at(to)).unwrap();
    assert_eq!(ask("10.1.0.3:80"), "neighbour ::ffff:10.1.0.2");
    assert_eq!(ask("[fd00:1::3]:80"), "neighbour fd00:1::2");
    assert_eq!(ask("10.1.0.1:53"), "names 10.1.0.2");
    for to in [
        "192.0.2.9:80",
        "[2001:db8::9]:80",
        "10.1.0.1:81",
        "[fd00:1::1]:81",
        "192.0.2.1:81",
    ] {
        assert!(
            scene.is_refused(to),
            "{to}: {:?}",
            scene.guarded.ask(at(to))
        );
    }
    // A neighbour is not guarded, and who is reached answers.
    assert!(neighbour.ask(at("192.0.2.9:80")).is_ok());
    let publication = Publication {
        protocol: Protocol::Tcp,
        host: None,
        host_port: 8080,
        to: ip("10.1.0.2"),
        to_port: 80,
    };
    let dataplane = |host: &mut Host| host.with(|dataplane| dataplane.publish(&[publication]));
    dataplane(&mut scene.host).unwrap();
    assert!(scene.host.outside.ask(at("192.0.2.1:8080")).is_ok());
    assert!(scene.host.host.ask(at("10.1.0.2:80")).is_ok());

    let guard = guard(&scene.endpoint, Vec::new());
    scene
        .host
        .with(|dataplane| dataplane.unguard(&guard))
        .unwrap();
    assert!(scene.guarded.ask(at("192.0.2.9:80")).is_ok());
    scene
        .host
        .with(|dataplane| dataplane.unguard(&guard))
        .unwrap();
    drop(outside);
}

#[test]
fn a_guard_lets_through_what_its_list_says() {
    if is_skipped("guard list") {
        return;
    }
    let mut scene = Scene::new(vec![
        Allowed {
            to: Destination::Net(net("192.0.2.9/32")),
            protocol: Some(Protocol::Tcp),
            ports: Some((80, 81)),
        },
        Allowed {
            ports: Some((85, 85)),
            ..all_of("2001:db8::/32")
        },
    ]);
    let servers = [80, 81, 82, 85].map(|port| {
        let address = std::net::SocketAddr::new(ip("::"), port);
        scene.host.outside.greet(address, "outside")
    });
    assert!(scene.guarded.ask(at("192.0.2.9:80")).is_ok());
    assert!(scene.guarded.ask(at("192.0.2.9:81")).is_ok());
    assert!(scene.is_refused("192.0.2.9:82"));
    assert!(scene.is_refused("192.0.2.9:85"));
    assert!(scene.is_refused("192.0.2.1:80"));
    assert!(scene.guarded.ask(at("[2001:db8::9]:85")).is_ok());
    assert!(scene.is_refused("[2001:db8::9]:80"));

    // Another list in its place; what goes on is ended when that is wanted.
    let stricter = guard(&scene.endpoint, vec![all_of("192.0.2.9/32")]);
    scene
        .host
        .with(|dataplane| dataplane.guard(&stricter))
        .unwrap();
    assert!(scene.guarded.ask(at("192.0.2.9:82")).is_ok());
    assert!(scene.is_refused("[2001:db8::9]:85"));
    drop(servers);
}

#[test]
fn a_name_is_allowed_for_a_time() {
    if is_skipped("guard by name") {
        return;
    }
    let named = |number, port| Allowed {
        to: Destination::Named(number),
        protocol: Some(Protocol::Tcp),
        ports: Some((port, port)),
    };
    let mut scene = Scene::new(vec![named(0, 80), named(1, 81)]);
    let servers = [80, 81].map(|port| {
        let address = std::net::SocketAddr::new(ip("::"), port);
        scene.host.outside.greet(address, "outside")
    });
    assert!(scene.is_refused("192.0.2.9:80"));
    let from = [ip("10.1.0.2"), ip("fd00:1::2")];
    let to = [ip("192.0.2.9"), ip("2001:db8::9")];
    let allow = |scene: &mut Scene, time| {
        scene
            .host
            .with(|dataplane| dataplane.allow(&from, 0, &to, time))
            .unwrap();
    };
    allow(&mut scene, Duration::from_millis(700));
    assert!(scene.guarded.ask(at("192.0.2.9:80")).is_ok());
    assert!(scene.guarded.ask(at("[2001:db8::9]:80")).is_ok());
    assert!(scene.is_refused("192.0.2.9:81"));
    // Its time begins anew.
    allow(&mut scene, Duration::from_secs(100));
    std::thread::sleep(Duration::from_millis(1000));
    assert!(scene.guarded.ask(at("192.0.2.9:80")).is_ok());
    allow(&mut scene, Duration::from_millis(100));
    eventually("the time is over", || scene.is_refused("192.0.2.9:80"));
    // The list is shown in nft's own words.
    let table = scene.host.host.program("nft list table inet isle_test");
    assert!(table.contains("@named4"), "{table}");
    drop(servers);
}

#[test]
fn what_is_refused_is_logged() {
    if is_skipped("refusals are logged") {
        return;
    }
    let scene = Scene::new(Vec::new());
    let group = scene.host.dataplane.realm().log_group();
    let log = scene
        .host
        .host
        .run(|| packet_log::open(group, 128))
        .unwrap();
    assert!(scene.is_refused("192.0.2.9:443"));
    let mut seen = Vec::new();
    eventually("a logged packet", || {
        let read = log.receive(|kind, payload| {
            if let Some(logged) = packet_log::parse(kind, payload) {
                assert_eq!(logged.prefix, "egress");
                seen.push(logged.packet.to_vec());
            }
        });
        read.unwrap() && !seen.is_empty()
    });
    let packet = &seen[0];
    assert_eq!(packet[12..20], [10, 1, 0, 2, 192, 0, 2, 9]);
    assert_eq!(packet[22..24], 443_u16.to_be_bytes());
    // A second reader is told that there is one.
    let second = scene.host.host.run(|| packet_log::open(group, 128));
    assert_eq!(
        second.unwrap_err().error.kind(),
        ErrorKind::PermissionDenied
    );
}

#[test]
fn a_guarded_instance_cannot_pretend_to_be_another() {
    if is_skipped("spoofing") {
        return;
    }
    let mut scene = Scene::new(Vec::new());
    let outside = scene.host.outside.udp(at("192.0.2.9:5000"));
    outside
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let neighbour = scene.host.instance(&scene.network, 3);
    let mut buffer = [0; 16];
    // The neighbour may.
    let socket = neighbour.udp(at("10.1.0.3:5000"));
    socket.send_to(b"mine", at("192.0.2.9:5000")).unwrap();
    assert_eq!(outside.recv(&mut buffer).unwrap(), 4);
    // With the neighbour's address, or one of nobody.
    for address in ["10.1.0.3", "10.1.0.77"] {
        scene
            .guarded
            .program(&format!("ip address add {address}/24 dev eth0"));
        let socket = scene
            .guarded
            .udp(std::net::SocketAddr::new(ip(address), 6000));
        socket.send_to(b"not mine", at("192.0.2.9:5000")).unwrap();
        assert!(outside.recv(&mut buffer).is_err(), "{address}");
        scene
            .guarded
            .program(&format!("ip address delete {address}/24 dev eth0"));
    }
    // With another hardware address.
    let _server = neighbour.greet(at("10.1.0.3:80"), "neighbour");
    assert!(scene.guarded.ask(at("10.1.0.3:80")).is_ok());
    scene
        .guarded
        .program("ip link set eth0 address 02:00:00:00:00:99");
    assert!(scene.guarded.is_silent(at("10.1.0.3:80")));
    let table = scene.host.host.program("nft list table bridge isle_test");
    assert!(
        !table.contains("counter packets 0 bytes 0 drop\n\t}\n}"),
        "{table}"
    );
}
