//! How instances are connected: how fast, how many, and what is said when it cannot be.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use isle_dataplane::{Bridge, Endpoint, Error, MacvlanMode, Protocol, Publication, Rate};
use isle_sys::tun::Offloads;
use support::{Host, Namespace, at, bridge, endpoint, eventually, ip, is_skipped, net};

/// Bytes a second from one instance to another.
fn speed(from: &Namespace, to: &Namespace, at: std::net::SocketAddr) -> f64 {
    let listener = to.run(|| TcpListener::bind(at).unwrap());
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 16];
        let begin = Instant::now();
        let mut total = 0;
        while begin.elapsed() < Duration::from_millis(1500) {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => total += count,
            }
        }
        total as f64 / begin.elapsed().as_secs_f64()
    });
    let mut stream = from.run(|| TcpStream::connect(at).unwrap());
    let chunk = vec![0; 1 << 16];
    while stream.write_all(&chunk).is_ok() && !receiver.is_finished() {}
    drop(stream);
    receiver.join().unwrap()
}

#[test]
fn a_rate_holds_in_both_directions_and_can_be_changed() {
    if is_skipped("rate") {
        return;
    }
    const LIMIT: u64 = 2 << 20;
    let mut host = Host::new();
    let network = bridge(1);
    host.with(|dataplane| dataplane.ensure_bridge(&network))
        .unwrap();
    let free = host.instance(&network, 3);
    let limited = Namespace::new();
    let mut endpoint = endpoint(&network, 2);
    endpoint.rate = Rate {
        into: Some(LIMIT),
        out_of: Some(LIMIT),
    };
    host.with(|dataplane| dataplane.attach_namespace(&endpoint, limited.fd()))
        .unwrap();
    let into = speed(&free, &limited, at("10.1.0.2:5000"));
    // What was not sent for a second may be sent at once.
    speed(&limited, &free, at("10.1.0.3:4999"));
    let out_of = speed(&limited, &free, at("10.1.0.3:5000"));
    // What may go at once counts in so short a time.
    let most = LIMIT as f64 * 1.35;
    assert!(into < most && into > LIMIT as f64 * 0.5, "into: {into}");
    assert!(
        out_of < most && out_of > LIMIT as f64 * 0.3,
        "out of: {out_of}"
    );

    endpoint.rate = Rate::default();
    host.with(|dataplane| dataplane.change_rate(&endpoint))
        .unwrap();
    let into = speed(&free, &limited, at("10.1.0.2:5001"));
    let out_of = speed(&limited, &free, at("10.1.0.3:5001"));
    assert!(into > most * 4.0 && out_of > most * 4.0, "{into} {out_of}");
    host.with(|dataplane| dataplane.change_rate(&endpoint))
        .unwrap();
}

#[test]
fn endpoints_of_an_isolated_bridge_reach_the_host_and_not_each_other() {
    if is_skipped("isolated") {
        return;
    }
    let mut host = Host::new();
    let network = Bridge {
        is_isolated: true,
        ..bridge(1)
    };
    host.with(|dataplane| dataplane.ensure_bridge(&network))
        .unwrap();
    let a = host.instance(&network, 2);
    let b = host.instance(&network, 3);
    let _server = b.greet(at("[::]:80"), "b");
    let _host = host.host.greet(at("10.1.0.1:81"), "host");
    assert!(a.ask(at("10.1.0.1:81")).is_ok());
    assert!(a.ask(at("10.1.0.3:80")).is_err());
    assert!(host.host.ask(at("10.1.0.3:80")).is_ok());
}

#[test]
fn a_macvlan_is_on_the_parents_network() {
    if is_skipped("macvlan") {
        return;
    }
    let mut host = Host::new();
    let instance = Namespace::new();
    let endpoint = Endpoint {
        addresses: vec![net("192.0.2.77/24"), net("2001:db8::77/64")],
        gateways: vec![ip("192.0.2.9")],
        ..endpoint(&bridge(1), 2)
    };
    host.with(|dataplane| {
        dataplane.attach_macvlan("wan", MacvlanMode::Bridge, &endpoint, instance.fd())
    })
    .unwrap();
    let _outside = host.outside.greet(at("[::]:80"), "outside");
    let answer = instance.ask(at("192.0.2.9:80")).unwrap();
    assert_eq!(answer, "outside ::ffff:192.0.2.77");
    let link = instance.json("ip -j link show eth0");
    assert_eq!(link[0]["address"], "02:42:0a:01:00:02");
    host.with(|dataplane| dataplane.detach_macvlan("eth0", instance.fd()))
        .unwrap();
    assert!(instance.links().is_empty());
    host.with(|dataplane| dataplane.detach_macvlan("eth0", instance.fd()))
        .unwrap();
    let missing = host.with(|dataplane| {
        dataplane.attach_macvlan("nowhere", MacvlanMode::Bridge, &endpoint, instance.fd())
    });
    assert!(matches!(missing, Err(Error::NoLink { link, .. }) if link == "nowhere"));
}

#[test]
fn a_tap_carries_frames_and_can_be_parked() {
    if is_skipped("tap") {
        return;
    }
    let mut host = Host::new();
    let (one, two) = (bridge(1), bridge(2));
    let first = endpoint(&one, 2);
    let second = endpoint(&two, 2);
    let offloads = Offloads { has_header: false };
    let tap = host.with(|dataplane| {
        dataplane.ensure_bridge(&one).unwrap();
        dataplane.ensure_bridge(&two).unwrap();
        dataplane.attach_tap(&first, offloads).unwrap()
    });
    let mut tap = std::fs::File::from(tap);
    // Who has 10.1.0.1, asks 10.1.0.2.
    let mut arp = vec![0xff; 6];
    arp.extend(first.mac);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(first.mac);
    arp.extend([10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1]);
    tap.write_all(&arp).unwrap();
    let mut frame = [0; 2048];
    loop {
        let count = tap.read(&mut frame).unwrap();
        if count >= 42 && frame[..6] == first.mac && frame[12..14] == [8, 6] {
            break;
        }
    }
    assert_eq!(frame[28..32], [10, 1, 0, 1]);

    let masters = |host: &Host| {
        let links = host.host.json("ip -j link show type tun");
        let links = links.as_array().unwrap().iter();
        links
            .map(|link| format!("{} {}", link["ifname"], link["master"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    assert_eq!(masters(&host), ["ie12 isl-1"]);
    host.with(|dataplane| {
        assert!(!dataplane.attach_parked("ip0", &second).unwrap());
        dataplane.park(&first.link, "ip0").unwrap();
    });
    assert_eq!(masters(&host), ["ip0 null"]);
    assert!(
        host.with(|dataplane| dataplane.attach_parked("ip0", &second))
            .unwrap()
    );
    assert_eq!(masters(&host), ["ie22 isl-2"]);
    drop(tap);
    eventually("the tap is gone", || masters(&host).is_empty());
}

#[test]
fn what_cannot_be_is_said_and_leaves_nothing() {
    if is_skipped("errors") {
        return;
    }
    let mut host = Host::new();
    let network = bridge(1);
    let before = host.host.links();
    let namespace = Namespace::new();
    let endpoint = endpoint(&network, 2);
    let attach = |host: &mut Host, endpoint: &Endpoint| {
        host.with(|dataplane| dataplane.attach_namespace(endpoint, namespace.fd()))
    };
    let error = attach(&mut host, &endpoint).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot connect \"ie12\" to bridge \"isl-1\": there is no link \"isl-1\""
    );
    host.with(|dataplane| dataplane.ensure_bridge(&network))
        .unwrap();
    // A gateway that cannot be reached.
    let wrong = Endpoint {
        gateways: vec![ip("10.77.0.1")],
        ..endpoint.clone()
    };
    let error = attach(&mut host, &wrong).unwrap_err();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains("gateway"), "{text}");
    assert!(namespace.links().is_empty());
    // What a killed process left is replaced.
    host.host.program("ip link add ie12 type bridge");
    attach(&mut host, &endpoint).unwrap();
    let port = Publication {
        protocol: Protocol::Tcp,
        host: None,
        host_port: 80,
        to: ip("10.1.0.2"),
        to_port: 80,
    };
    let other = Publication {
        to_port: 81,
        ..port
    };
    let crossed = Publication {
        host: Some(ip("::1")),
        ..port
    };
    host.with(|dataplane| {
        dataplane.publish(&[port]).unwrap();
        assert!(matches!(
            dataplane.publish(&[other]),
            Err(Error::Published { .. })
        ));
        assert!(matches!(
            dataplane.publish(&[crossed]),
            Err(Error::Families { .. })
        ));
        // Another's is not taken away.
        dataplane.unpublish(&[other]).unwrap();
        assert!(matches!(
            dataplane.publish(&[other]),
            Err(Error::Published { .. })
        ));
        dataplane.unpublish(&[port]).unwrap();
        dataplane.publish(&[other]).unwrap();
        dataplane.detach("ie12").unwrap();
        dataplane.remove_bridge(&network).unwrap();
        dataplane.remove_bridge(&network).unwrap();
    });
    assert_eq!(host.host.links(), before);
    // Without the right to.
    let not_permitted = host.host.run(|| {
        rustix::thread::set_capabilities(
            None,
            rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            },
        )
        .unwrap();
        isle_dataplane::Dataplane::new(isle_dataplane::Realm::new("isle_test"))
            .ensure_bridge(&network)
    });
    let error = not_permitted.unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--network"));
}

#[test]
fn a_bridge_takes_as_many_as_the_kernel_lets_it_and_all_go_again() {
    if is_skipped("many") {
        return;
    }
    let mut host = Host::new();
    let network = Bridge {
        addresses: vec![net("10.1.0.1/16")],
        ..bridge(1)
    };
    host.with(|dataplane| dataplane.ensure_bridge(&network))
        .unwrap();
    // All in one namespace: a thousand would need a thousand processes' worth of memory.
    let namespace = Namespace::new();
    let before = host.host.links();
    let nth = |number: u16| Endpoint {
        link: format!("ie{number}"),
        interface: format!("eth{number}"),
        mac: [2, 0x42, 10, 1, (number >> 8) as u8, number as u8],
        addresses: Vec::new(),
        gateways: Vec::new(),
        ..endpoint(&network, 2)
    };
    let begin = Instant::now();
    let mut most = 0;
    let error = host.with(|dataplane| {
        loop {
            match dataplane.attach_namespace(&nth(most), namespace.fd()) {
                Ok(()) => most += 1,
                Err(error) => break error,
            }
        }
    });
    eprintln!("{most} endpoints in {:?}", begin.elapsed());
    assert_eq!(most, 1023);
    assert!(matches!(error, Error::BridgeFull { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("1,023"));
    assert_eq!(host.host.links().len(), before.len() + 1023);
    // With the namespace its ends of the cables go, and with them the host's.
    drop(namespace);
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.host.links() != before {
        assert!(Instant::now() < deadline, "links are left");
        std::thread::sleep(Duration::from_millis(50));
    }
    host.with(|dataplane| {
        for number in 0..1023 {
            dataplane.detach(&nth(number).link).unwrap();
        }
    });
}
