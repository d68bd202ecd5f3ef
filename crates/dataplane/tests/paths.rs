//! Which packets arrive, in network namespaces of their own, with the kernel's own tools as witnesses.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use isle_dataplane::{Bridge, Protocol, Publication};
use support::{Host, at, bridge, ip, is_skipped};

fn tcp(host: Option<&str>, host_port: u16, to: &str, to_port: u16) -> Publication {
    Publication {
        protocol: Protocol::Tcp,
        host: host.map(ip),
        host_port,
        to: ip(to),
        to_port,
    }
}

/// The whole way with frames of bridges passing the IP rules, and without.
fn both_ways(test: &str, run: impl Fn(&mut Host)) {
    if is_skipped(test) {
        return;
    }
    for is_filtered in ["1", "0"] {
        let mut host = Host::new();
        for setting in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            if host
                .host
                .run(|| std::path::Path::new("/proc/sys/net/bridge").exists())
            {
                host.host.write(&format!("bridge/{setting}"), is_filtered);
            }
        }
        eprintln!("{test}: bridges are filtered: {is_filtered}");
        run(&mut host);
    }
}

#[test]
fn instances_of_one_network_reach_each_other_and_the_host() {
    both_ways("same network", |host| {
        let network = bridge(1);
        host.with(|dataplane| dataplane.ensure_bridge(&network))
            .unwrap();
        let a = host.instance(&network, 2);
        let b = host.instance(&network, 3);
        let _server = b.greet(at("[::]:80"), "b");
        assert_eq!(a.ask(at("10.1.0.3:80")).unwrap(), "b ::ffff:10.1.0.2");
        assert_eq!(a.ask(at("[fd00:1::3]:80")).unwrap(), "b fd00:1::2");
        assert_eq!(
            host.host.ask(at("10.1.0.3:80")).unwrap(),
            "b ::ffff:10.1.0.1"
        );
        let _of_host = host.host.greet(at("10.1.0.1:81"), "host");
        assert_eq!(a.ask(at("10.1.0.1:81")).unwrap(), "host 10.1.0.2");
    });
}

#[test]
fn another_network_and_the_outside_do_not_reach_an_instance() {
    both_ways("other network", |host| {
        let (one, two) = (bridge(1), bridge(2));
        for network in [&one, &two] {
            host.with(|dataplane| dataplane.ensure_bridge(network))
                .unwrap();
        }
        let a = host.instance(&one, 2);
        let b = host.instance(&two, 2);
        let _server = b.greet(at("[::]:80"), "b");
        assert!(a.is_silent(at("10.2.0.2:80")));
        assert!(a.is_silent(at("[fd00:2::2]:80")));
        host.outside
            .program("ip route add 10.2.0.0/24 via 192.0.2.1");
        host.outside
            .program("ip route add fd00:2::/64 via 2001:db8::1");
        assert!(host.outside.is_silent(at("10.2.0.2:80")));
        assert!(host.outside.is_silent(at("[fd00:2::2]:80")));
        assert!(host.host.ask(at("10.2.0.2:80")).is_ok());
    });
}

#[test]
fn what_leaves_has_the_hosts_address() {
    both_ways("masquerade", |host| {
        let network = bridge(1);
        host.with(|dataplane| dataplane.ensure_bridge(&network))
            .unwrap();
        let a = host.instance(&network, 2);
        let _server = host.outside.greet(at("[::]:80"), "outside");
        assert_eq!(
            a.ask(at("192.0.2.9:80")).unwrap(),
            "outside ::ffff:192.0.2.1"
        );
        assert_eq!(
            a.ask(at("[2001:db8::9]:80")).unwrap(),
            "outside 2001:db8::1"
        );
    });
}

#[test]
fn an_internal_network_is_alone() {
    both_ways("internal", |host| {
        let internal = Bridge {
            is_internal: true,
            ..bridge(1)
        };
        let network = bridge(2);
        for bridge in [&internal, &network] {
            host.with(|dataplane| dataplane.ensure_bridge(bridge))
                .unwrap();
        }
        let a = host.instance(&internal, 2);
        let b = host.instance(&internal, 3);
        let c = host.instance(&network, 2);
        // Whoever may inside can give itself a way; it leads nowhere.
        a.program("ip route add default via 10.1.0.1");
        a.program("ip -6 route add default via fd00:1::1");
        let _outside = host.outside.greet(at("[::]:80"), "outside");
        let _b = b.greet(at("[::]:80"), "b");
        let _c = c.greet(at("[::]:80"), "c");
        assert_eq!(a.ask(at("10.1.0.3:80")).unwrap(), "b ::ffff:10.1.0.2");
        assert!(a.is_silent(at("192.0.2.9:80")));
        assert!(a.is_silent(at("[2001:db8::9]:80")));
        assert!(a.is_silent(at("10.2.0.2:80")));
        let publications = [
            tcp(None, 8080, "10.1.0.3", 80),
            tcp(None, 8081, "10.2.0.2", 80),
        ];
        host.with(|dataplane| dataplane.publish(&publications))
            .unwrap();
        assert!(host.outside.is_silent(at("192.0.2.1:8080")));
        assert!(a.is_silent(at("192.0.2.1:8081")));
        assert!(host.outside.ask(at("192.0.2.1:8081")).is_ok());
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    both_ways("published", |host| {
        let (one, two) = (bridge(1), bridge(2));
        for network in [&one, &two] {
            host.with(|dataplane| dataplane.ensure_bridge(network))
                .unwrap();
        }
        let server = host.instance(&one, 2);
        let neighbour = host.instance(&one, 3);
        let other = host.instance(&two, 2);
        let _server = server.greet(at("[::]:80"), "server");
        let publications = [
            tcp(None, 8080, "10.1.0.2", 80),
            tcp(None, 8080, "fd00:1::2", 80),
        ];
        host.with(|dataplane| dataplane.publish(&publications))
            .unwrap();

        let ask = |from: &support::Namespace, to| from.ask(at(to)).unwrap();
        assert_eq!(
            ask(&host.outside, "192.0.2.1:8080"),
            "server ::ffff:192.0.2.9"
        );
        assert_eq!(
            ask(&host.outside, "[2001:db8::1]:8080"),
            "server 2001:db8::9"
        );
        assert_eq!(ask(&host.host, "192.0.2.1:8080"), "server ::ffff:192.0.2.1");
        assert_eq!(ask(&host.host, "[2001:db8::1]:8080"), "server 2001:db8::1");
        assert_eq!(ask(&host.host, "127.0.0.1:8080"), "server ::ffff:10.1.0.1");
        assert_eq!(ask(&host.host, "10.1.0.1:8080"), "server ::ffff:10.1.0.1");
        for (from, name) in [
            (&neighbour, "neighbour"),
            (&server, "itself"),
            (&other, "other"),
        ] {
            for to in ["192.0.2.1:8080", "[2001:db8::1]:8080", "10.1.0.1:8080"] {
                let answer = from.ask(at(to));
                assert!(
                    answer.as_ref().is_ok_and(|text| text.starts_with("server")),
                    "{name} by {to}: {answer:?}"
                );
            }
        }
        host.with(|dataplane| dataplane.unpublish(&publications))
            .unwrap();
        assert!(host.outside.ask(at("192.0.2.1:8080")).is_err());
        host.with(|dataplane| dataplane.unpublish(&publications))
            .unwrap();
    });
}

#[test]
fn what_is_published_on_an_address_is_published_there_alone() {
    both_ways("published at", |host| {
        let network = bridge(1);
        host.with(|dataplane| dataplane.ensure_bridge(&network))
            .unwrap();
        let server = host.instance(&network, 2);
        let neighbour = host.instance(&network, 3);
        let _server = server.greet(at("[::]:80"), "server");
        let publications = [
            tcp(Some("127.0.0.1"), 8080, "10.1.0.2", 80),
            tcp(Some("192.0.2.1"), 8081, "10.1.0.2", 80),
            tcp(Some("2001:db8::1"), 8082, "fd00:1::2", 80),
        ];
        host.with(|dataplane| dataplane.publish(&publications))
            .unwrap();
        assert!(host.host.ask(at("127.0.0.1:8080")).is_ok());
        assert!(host.host.ask(at("192.0.2.1:8080")).is_err());
        assert!(host.outside.ask(at("192.0.2.1:8080")).is_err());
        assert!(host.outside.ask(at("192.0.2.1:8081")).is_ok());
        assert!(host.host.ask(at("127.0.0.1:8081")).is_err());
        // The first word on a cable of IPv6 may be lost while its end looks for the other.
        let six = || host.outside.ask(at("[2001:db8::1]:8082"));
        assert!((0..5).any(|_| six().is_ok()));

        // What listens there is the host's own affair too.
        let local = host.host.udp(at("127.0.0.1:90"));
        local
            .set_read_timeout(Some(std::time::Duration::from_millis(300)))
            .unwrap();
        // Someone on the same cable, and someone on the bridge, send to 127.0.0.1 of this host.
        for (from, gateway, link) in [
            (&host.outside, "192.0.2.1", "wan"),
            (&neighbour, "10.1.0.1", "eth0"),
        ] {
            from.write("ipv4/conf/all/route_localnet", "1");
            from.write(&format!("ipv4/conf/{link}/route_localnet"), "1");
            from.program("ip link set lo down");
            from.program("ip route flush table local");
            let own = if gateway == "192.0.2.1" {
                "192.0.2.9"
            } else {
                "10.1.0.3"
            };
            from.program(&format!("ip route add local {own} dev {link} table local"));
            from.program(&format!(
                "ip route add 127.0.0.1/32 via {gateway} dev {link} src {own}"
            ));
            assert!(from.is_silent(at("127.0.0.1:8080")), "{link}");
            let socket = from.udp(std::net::SocketAddr::new(ip(own), 7000));
            socket.send_to(b"hello", at("127.0.0.1:90")).unwrap();
            assert!(local.recv(&mut [0; 16]).is_err(), "{link}");
        }
    });
}

#[test]
fn datagrams_are_published_and_do_not_go_on_to_whoever_comes_next() {
    both_ways("udp", |host| {
        let network = bridge(1);
        host.with(|dataplane| dataplane.ensure_bridge(&network))
            .unwrap();
        let server = host.instance(&network, 2);
        let next = host.instance(&network, 3);
        let publication = |to: &str| Publication {
            protocol: Protocol::Udp,
            ..tcp(None, 5353, to, 53)
        };
        host.with(|dataplane| dataplane.publish(&[publication("10.1.0.2")]))
            .unwrap();
        let at_server = server.udp(at("10.1.0.2:53"));
        let at_next = next.udp(at("10.1.0.3:53"));
        let client = host.outside.udp(at("192.0.2.9:4000"));
        client.send_to(b"one", at("192.0.2.1:5353")).unwrap();
        let mut buffer = [0; 16];
        let (count, from) = at_server.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..count], from),
            (&b"one"[..], at("192.0.2.9:4000"))
        );
        at_server.send_to(b"answer", from).unwrap();
        let (count, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..count], from),
            (&b"answer"[..], at("192.0.2.1:5353"))
        );

        host.with(|dataplane| dataplane.unpublish(&[publication("10.1.0.2")]))
            .unwrap();
        host.with(|dataplane| dataplane.publish(&[publication("10.1.0.3")]))
            .unwrap();
        client.send_to(b"two", at("192.0.2.1:5353")).unwrap();
        let (count, _) = at_next.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"two");
    });
}
