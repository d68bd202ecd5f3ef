//! What others take away comes back.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use isle_dataplane::{Disturbance, Guard, Protocol, Publication, Rate, Wanted, Watch};
use support::{Host, at, bridge, endpoint, eventually, ip, is_skipped};

fn wanted() -> Wanted {
    let network = bridge(1);
    let mut endpoints = vec![endpoint(&network, 2), endpoint(&network, 3)];
    endpoints[1].rate = Rate {
        into: None,
        out_of: Some(1 << 20),
    };
    Wanted {
        publications: vec![Publication {
            protocol: Protocol::Tcp,
            host: None,
            host_port: 8080,
            to: ip("10.1.0.2"),
            to_port: 80,
        }],
        guards: vec![Guard {
            link: endpoints[1].link.clone(),
            mac: endpoints[1].mac,
            addresses: endpoints[1]
                .addresses
                .iter()
                .map(|net| net.addr())
                .collect(),
            allowed: Vec::new(),
        }],
        bridges: vec![network],
        endpoints,
    }
}

#[test]
fn a_flushed_ruleset_and_a_deleted_bridge_are_made_again() {
    if is_skipped("repair") {
        return;
    }
    let mut host = Host::new();
    let wanted = wanted();
    host.with(|dataplane| {
        dataplane.ensure_bridge(&wanted.bridges[0]).unwrap();
        dataplane.guard(&wanted.guards[0]).unwrap();
        dataplane.publish(&wanted.publications).unwrap();
    });
    let server = host.instance(&wanted.bridges[0], 2);
    let guarded = host.instance(&wanted.bridges[0], 3);
    let _server = server.greet(at("[::]:80"), "server");
    let _outside = host.outside.greet(at("[::]:80"), "outside");
    let realm = host.dataplane.realm().clone();
    let watch = host.host.run(|| Watch::open(&realm)).unwrap();
    host.with(|dataplane| assert!(!dataplane.repair(&wanted).unwrap().is_anything()));
    assert!(host.with(|dataplane| dataplane.is_whole()).unwrap());
    watch.read().unwrap();
    let tables = |host: &Host| {
        let text = host.host.program("nft -s list ruleset");
        // Elements are listed in no certain order.
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = tables(&host);
    let works = |host: &Host| {
        assert!(host.outside.ask(at("192.0.2.1:8080")).is_ok());
        assert!(host.outside.is_silent(at("10.1.0.2:80")));
        assert!(server.ask(at("192.0.2.9:80")).is_ok());
        assert!(guarded.ask(at("192.0.2.9:80")).is_err());
    };
    host.outside
        .program("ip route add 10.1.0.0/24 via 192.0.2.1");
    works(&host);

    for damage in [
        "nft flush ruleset",
        "nft flush chain inet isle_test forward",
        "nft delete table bridge isle_test",
    ] {
        host.host.program(damage);
        assert!(!host.with(|dataplane| dataplane.is_whole()).unwrap());
        assert_eq!(watch.read().unwrap(), [Disturbance::Tables], "{damage}");
        let repaired = host.with(|dataplane| dataplane.repair(&wanted)).unwrap();
        assert!(repaired.tables && repaired.ports.is_empty(), "{damage}");
        watch.read().unwrap();
        assert_eq!(tables(&host), before);
        works(&host);
    }
    // An element alone.
    host.host.program("nft flush map inet isle_test published4");
    assert!(host.outside.ask(at("192.0.2.1:8080")).is_err());
    host.with(|dataplane| dataplane.repair(&wanted)).unwrap();
    works(&host);

    host.host.program("ip link delete isl-1");
    let told = watch.read().unwrap();
    assert!(
        told.contains(&Disturbance::LinkGone("isl-1".to_owned())),
        "{told:?}"
    );
    let repaired = host.with(|dataplane| dataplane.repair(&wanted)).unwrap();
    assert_eq!(repaired.bridges, ["isl-1"]);
    assert_eq!(repaired.ports, ["ie12", "ie13"]);
    works(&host);

    watch.read().unwrap();
    host.host.program("ip link set ie12 nomaster");
    let told = watch.read().unwrap();
    assert!(
        told.contains(&Disturbance::LinkLoose("ie12".to_owned())),
        "{told:?}"
    );
    assert_eq!(
        host.with(|dataplane| dataplane.repair(&wanted))
            .unwrap()
            .ports,
        ["ie12"]
    );
    works(&host);

    host.host.program("ip link delete ie12");
    let repaired = host.with(|dataplane| dataplane.repair(&wanted)).unwrap();
    assert_eq!(repaired.lost, ["ie12"]);
    let attached =
        host.with(|dataplane| dataplane.attach_namespace(&wanted.endpoints[0], server.fd()));
    attached.unwrap();
    works(&host);
}

#[test]
fn nothing_is_left_of_what_is_taken_away() {
    if is_skipped("nothing is left") {
        return;
    }
    let mut host = Host::new();
    let links = host.host.links();
    let wanted = wanted();
    for _ in 0..2 {
        host.with(|dataplane| {
            dataplane.repair(&wanted).unwrap();
            let namespace = support::Namespace::new();
            let endpoint = &wanted.endpoints[1];
            dataplane
                .attach_namespace(endpoint, namespace.fd())
                .unwrap();
            let from: Vec<_> = endpoint.addresses.iter().map(|net| net.addr()).collect();
            let time = std::time::Duration::from_millis(100);
            dataplane.allow(&from, 3, &from, time).unwrap();
            dataplane.unpublish(&wanted.publications).unwrap();
            dataplane.unguard(&wanted.guards[0]).unwrap();
            for endpoint in &wanted.endpoints {
                dataplane.detach(&endpoint.link).unwrap();
                dataplane.unlimit(&endpoint.link).unwrap();
            }
            dataplane.remove_bridge(&wanted.bridges[0]).unwrap();
        });
        assert_eq!(host.host.links(), links);
        eventually("no element is left", || {
            let ruleset = host.host.program("nft list ruleset");
            assert!(!ruleset.contains("egress_"), "{ruleset}");
            !ruleset.contains("elements")
        });
    }
    host.with(|dataplane| dataplane.forget()).unwrap();
    assert_eq!(host.host.program("nft list ruleset"), "");
    host.with(|dataplane| dataplane.forget()).unwrap();
}
