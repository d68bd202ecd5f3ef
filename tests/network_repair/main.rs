//! What somebody else takes away from the networks comes back while instances are on them.

#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use isle_tests::{Level, Need, World, wait_for};

isle_tests::stories! {
    a_firewall_that_is_flushed_publishes_again [Need::Isle],
    a_bridge_that_is_deleted_carries_again [Need::Isle],
    a_cable_that_is_deleted_is_laid_again [Need::Isle, Need::Only(Level::Container)],
    a_published_port_answers_on_all_loopback_addresses [Need::Isle],
}

const SERVE: &str = "mkdir /www && echo hello >/www/index.html && exec httpd -f -p 80 -h /www";

/// A web server, and somebody beside it.
fn two(world: &World, flags: &[&str]) {
    world.use_own_host("nameserver 127.0.0.1\n");
    world
        .isle(["network", "create"])
        .arguments(flags)
        .arguments(["front"])
        .succeeds();
    world.background(
        "web",
        &["--network", "front", "-p", "8080:80"],
        &["sh", "-c", SERVE],
    );
    world.background("other", &["--network", "front"], &["sleep", "1000"]);
    wait_for("the server serves", || is_served(world, "127.0.0.1"));
}

fn is_served(world: &World, address: &str) -> bool {
    let to = format!("{address}:8080").parse().expect("an address");
    let answer = world.in_host(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    answer.is_ok_and(|answer| answer.ends_with("hello\n"))
}

fn is_neighbour(world: &World) -> bool {
    let url = "http://web/";
    let outcome = world
        .isle(["exec", "other", "wget", "-q", "-O", "-", url])
        .run();
    outcome.stdout() == "hello\n"
}

fn is_told(world: &World, what: &str) -> bool {
    let events = world
        .isle(["events", "--since", "1h", "--until", "0s"])
        .succeeds();
    let mut lines = events
        .lines()
        .filter(|line| line.contains("network_repair"));
    lines.any(|line| line.contains(what))
}

fn a_firewall_that_is_flushed_publishes_again(world: &World) {
    two(world, &[]);
    world.on_host(["nft", "flush", "ruleset"]).succeeds();
    wait_for("the port is published again", || {
        is_served(world, "127.0.0.1")
    });
    wait_for("it is told", || is_told(world, "nf_tables"));
    assert!(is_neighbour(world));
}

fn a_bridge_that_is_deleted_carries_again(world: &World) {
    two(world, &[]);
    let bridge = bridge(world);
    world.on_host(["ip", "link", "delete", &bridge]).succeeds();
    wait_for("the neighbour, by its name", || is_neighbour(world));
    wait_for("the port", || is_served(world, "127.0.0.1"));
    wait_for("it is told", || is_told(world, &bridge));
}

/// The name of the only bridge.
fn bridge(world: &World) -> String {
    let links = world
        .on_host(["ip", "-brief", "link", "show", "type", "bridge"])
        .succeeds();
    links
        .split_whitespace()
        .next()
        .expect("there is one")
        .to_owned()
}

fn a_cable_that_is_deleted_is_laid_again(world: &World) {
    two(world, &[]);
    let links = world
        .on_host(["ip", "-brief", "link", "show", "type", "veth"])
        .succeeds();
    let cables: Vec<&str> = links
        .lines()
        .filter_map(|line| line.split(['@', ' ']).next())
        .collect();
    assert_eq!(cables.len(), 2, "{links}");
    for cable in cables {
        world.on_host(["ip", "link", "delete", cable]).succeeds();
    }
    wait_for("the neighbour, by its name", || is_neighbour(world));
    wait_for("the port", || is_served(world, "127.0.0.1"));
    wait_for("it is told", || is_told(world, "front"));
}

fn a_published_port_answers_on_all_loopback_addresses(world: &World) {
    // The server listens on IPv4 alone.
    two(world, &["--ipv6"]);
    assert!(is_served(world, "127.0.0.1"));
    assert!(is_served(world, "[::1]"));
    world.isle(["rm", "-f", "web"]).succeeds();
    assert!(!is_served(world, "[::1]"));
    assert!(!is_served(world, "127.0.0.1"));
}
