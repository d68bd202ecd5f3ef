//! Ports of the host that lead to instances.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use isle_tests::{ON_WIRE, World};

use crate::reach::{address, from_host, from_neighbour, reaches_port, refused, serve};

pub fn a_published_port_is_reached_by_every_way(world: &World) {
    world.use_own_host("");
    serve(world, "web", &["-p", "8080:80"]);
    world.background("near", &[], &["sleep", "1000"]);
    crate::network(world, "back", &[]);
    world.background("far", &["--network", "back"], &["sleep", "1000"]);
    let gateway = "172.17.0.1";
    assert_eq!(from_neighbour(world, ON_WIRE[0], 8080), "web");
    assert_eq!(from_host(world, "127.0.0.1", 8080), "web");
    assert_eq!(from_host(world, "::1", 8080), "web");
    assert_eq!(from_host(world, ON_WIRE[0], 8080), "web");
    assert_eq!(from_host(world, gateway, 8080), "web");
    // From instances by the host's address: a neighbour, itself, one of another network.
    for instance in ["near", "web", "far"] {
        assert_eq!(
            reaches_port(world, instance, ON_WIRE[0], 8080),
            "web",
            "{instance}"
        );
    }
    let stats = ["stats", "--no-stream", "--format", "{{.NetIO}}", "web"];
    let carried = world.isle(stats).succeeds();
    assert!(
        carried.contains("kB / ") && !carried.contains(" 0B"),
        "{carried}"
    );
    let line = world
        .isle(["ps", "--format", "{{.Ports}}", "--filter", "name=web"])
        .succeeds();
    assert_eq!(line, "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
    world.isle(["stop", "-t", "0", "web"]).succeeds();
    assert_eq!(from_host(world, "127.0.0.1", 8080), "");
    assert_eq!(world.isle(["port", "web"]).succeeds(), "");
    world.isle(["start", "web"]).succeeds();
    isle_tests::wait_for("it answers again", || {
        from_host(world, "127.0.0.1", 8080) == "web"
    });
}

pub fn a_port_on_loopback_is_the_hosts_alone(world: &World) {
    world.use_own_host("");
    serve(world, "web", &["-p", "127.0.0.1:8080:80"]);
    assert_eq!(from_host(world, "127.0.0.1", 8080), "web");
    assert_eq!(from_host(world, "::1", 8080), "");
    assert_eq!(from_neighbour(world, ON_WIRE[0], 8080), "");
    // A packet for 127.0.0.1 that comes over the wire.
    let sneaked = crate::reach::from_neighbour_by_route(world, "127.0.0.1", 8080);
    assert_eq!(sneaked, "");
}

pub fn dockers_forms_are_understood(world: &World) {
    world.use_own_host("");
    world.background(
        "web",
        &[
            "-p",
            "8000-8002:80-82",
            "-p",
            "127.0.0.1::90",
            "-p",
            "9000-9010:91/udp",
            "-p",
            "[::1]:9100:92",
            "--expose",
            "7000",
        ],
        &["sleep", "1000"],
    );
    let port = |wanted: &str| world.isle(["port", "web", wanted]).succeeds();
    assert_eq!(port("81"), "0.0.0.0:8001\n[::]:8001");
    assert_eq!(port("91/udp"), "0.0.0.0:9000\n[::]:9000");
    assert_eq!(port("92"), "[::1]:9100");
    let random = port("90/tcp");
    let number: u16 = random
        .strip_prefix("127.0.0.1:")
        .and_then(|n| n.parse().ok())
        .expect("a port");
    assert!((32768..=60999).contains(&number));
    let line = world.isle(["ps", "--format", "{{.Ports}}"]).succeeds();
    assert!(line.starts_with("0.0.0.0:8000-8002->80-82/tcp, "), "{line}");
    assert!(line.ends_with("7000/tcp"), "{line}");
    refused(world.isle(["port", "web", "7000"])).complains("does not publish");
    let asked = &world.inspect("web")["HostConfig"]["PortBindings"]["90/tcp"][0];
    assert_eq!(
        (&asked["HostIp"], &asked["HostPort"]),
        (&"127.0.0.1".into(), &"".into())
    );
    // The next one gets the next of the range.
    world.background(
        "second",
        &["-p", "9000-9010:91/udp", "-P", "--expose", "7000-7001"],
        &["sleep", "1000"],
    );
    assert_eq!(
        world.isle(["port", "second", "91/udp"]).succeeds(),
        "0.0.0.0:9001\n[::]:9001"
    );
    assert_eq!(world.isle(["port", "second"]).succeeds().lines().count(), 6);
}

pub fn datagrams_are_passed_on_both_ways(world: &World) {
    world.use_own_host("");
    let script = "import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(('::', 53))
while True:
    data, peer = s.recvfrom(2048)
    s.sendto(data, peer)";
    crate::network(world, "both", &["--ipv6"]);
    let flags = ["--network", "both", "-p", "5353:53/udp"];
    world
        .isle(["run", "-d", "--name", "echo"])
        .arguments(flags)
        .arguments([world.image("python").as_str(), "python3", "-c", script])
        .succeeds();
    let ask = |host: &str| {
        let any = if host.contains(':') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("a time");
        let mut buffer = [0; 64];
        for _ in 0..20 {
            let _ = socket.send_to(b"hello", (host, 5353));
            if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                assert_eq!(from.port(), 5353);
                return String::from_utf8_lossy(&buffer[..count]).into_owned();
            }
        }
        String::new()
    };
    for loopback in ["127.0.0.1", "::1"] {
        assert_eq!(world.in_host(|| ask(loopback)), "hello", "{loopback}");
    }
    for on_wire in ON_WIRE {
        assert_eq!(world.in_neighbour(|| ask(on_wire)), "hello", "{on_wire}");
    }
}

pub fn a_taken_port_is_refused_before_anything_starts(world: &World) {
    world.use_own_host("");
    let trace = world.files().join("ran");
    let mount = format!("{}:/out", world.files().display());
    let second = |port: &str| world.script(&["--rm", "-v", &mount, "-p", port], "touch /out/ran");
    serve(world, "web", &["-p", "8080:80"]);
    let id = world
        .isle(["inspect", "--format", "{{.Id}}", "web"])
        .succeeds();
    second("8080:80")
        .exits_with(125)
        .complains("8080/tcp")
        .complains(&id[..12]);
    second("127.0.0.1:8080:80")
        .exits_with(125)
        .complains("8080/tcp");
    let listener = world.in_host(|| TcpListener::bind("127.0.0.1:8090").expect("a free port"));
    second("8090:80").exits_with(125).complains("8090/tcp");
    assert!(!trace.exists());
    drop(listener);
    second("8090:80").succeeds();
    assert!(trace.exists());
    // And a program of the host is told that the port is taken.
    world.in_host(|| TcpListener::bind("127.0.0.1:8080").expect_err("it is published"));
    world.isle(["rm", "-f", "web"]).succeeds();
    world.in_host(|| TcpListener::bind("127.0.0.1:8080").expect("it is free again"));
}

pub fn ports_change_while_it_runs(world: &World) {
    world.use_own_host("");
    serve(world, "web", &["-p", "8080:80"]);
    let pid = world
        .isle(["inspect", "--format", "{{.State.Pid}}", "web"])
        .succeeds();
    world
        .isle([
            "update",
            "--publish-add",
            "9090:80",
            "--publish-rm",
            "8080:80",
            "web",
        ])
        .succeeds();
    assert_eq!(from_host(world, "127.0.0.1", 8080), "");
    assert_eq!(from_host(world, "127.0.0.1", 9090), "web");
    assert_eq!(from_host(world, "::1", 9090), "web");
    assert_eq!(
        world.isle(["port", "web"]).succeeds(),
        "80/tcp -> 0.0.0.0:9090\n80/tcp -> [::]:9090"
    );
    assert_eq!(
        world
            .isle(["inspect", "--format", "{{.State.Pid}}", "web"])
            .succeeds(),
        pid
    );
    refused(world.isle(["update", "--publish-rm", "8080:80", "web"])).complains("does not publish");
    serve(world, "other", &["-p", "8080:80"]);
    refused(world.isle(["update", "--publish-add", "8080:80", "web"])).complains("8080/tcp");
    // What was changed holds after a restart.
    world.isle(["restart", "-t", "0", "web"]).succeeds();
    isle_tests::wait_for("it answers again", || {
        from_host(world, "127.0.0.1", 9090) == "web"
    });
    assert_eq!(from_host(world, "127.0.0.1", 8080), "other");
    assert!(!address(world, "web", "bridge").is_empty());
}

pub fn one_port_more_is_one_element_more(world: &World) {
    world.use_own_host("");
    world.background(
        "many",
        &["-p", "20000-20199:20000-20199"],
        &["sleep", "1000"],
    );
    let rules = || {
        let text = world.on_host(["nft", "-s", "list", "ruleset"]).succeeds();
        let is_rule =
            |line: &&str| line.contains("dnat") || line.contains("accept") || line.contains("drop");
        text.lines().filter(is_rule).count()
    };
    let before = rules();
    world
        .isle(["update", "--publish-add", "30000:80", "many"])
        .succeeds();
    assert_eq!(rules(), before);
    assert_eq!(world.isle(["port", "many"]).succeeds().lines().count(), 402);
    let line = world.isle(["ps", "--format", "{{.Ports}}"]).succeeds();
    assert!(
        line.contains("0.0.0.0:20000-20199->20000-20199/tcp"),
        "{line}"
    );
}
