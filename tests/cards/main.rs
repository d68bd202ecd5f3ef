//! Virtual machines on networks, beside containers.

#![forbid(unsafe_code)]

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use isle_tests::{Level, Need, World, wait_for};

isle_tests::stories! {
    only Level::Vm;
    a_machine_and_a_container_share_a_network_names_and_ports [Need::Isle],
    cards_come_and_go_while_the_machine_runs [Need::Isle],
    a_machine_reaches_what_its_policy_lets_it_and_cannot_pretend [Need::Isle],
    more_networks_than_cards_are_refused [Need::Isle],
}

const SLEEP: [&str; 2] = ["sleep", "1000"];
const CONTAINER: [&str; 2] = ["--isolation", "container"];

fn serve<'a>(text: &'a str, script: &'a mut String) -> [&'a str; 3] {
    *script = format!("mkdir /w && echo {text} > /w/index.html && httpd -f -p 80 -h /w");
    ["sh", "-c", script]
}

fn network(world: &World, name: &str, flags: &[&str]) {
    world
        .isle(["network", "create"])
        .arguments(flags)
        .arguments([name])
        .succeeds();
}

fn address(world: &World, instance: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    let address = world.isle(["inspect", "-f", &format, instance]).succeeds();
    address.trim().to_owned()
}

/// What a web server says to an instance; empty when it says nothing.
fn page(world: &World, instance: &str, from: &str) -> String {
    let url = format!("http://{from}/");
    let outcome = world
        .isle(["exec", instance, "timeout", "5", "wget", "-qO-", &url])
        .run();
    outcome.stdout().trim().to_owned()
}

/// Whether something on the host answers at a port of 127.0.0.1.
fn answers(world: &World, port: u16) -> bool {
    world.in_host(|| {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let mut byte = [0];
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .is_ok()
            && std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_exact(&mut byte).is_ok()
    })
}

fn a_machine_and_a_container_share_a_network_names_and_ports(world: &World) {
    world.use_own_host("nameserver 127.0.0.1\n");
    network(world, "front", &["--ipv6"]);
    network(world, "back", &[]);
    let mut script = String::new();
    let front = ["--network", "front"];
    world.background(
        "machine",
        &[&front[..], &["-p", "8080:80"]].concat(),
        &serve("from-a-machine", &mut script),
    );
    world.background(
        "container",
        &[&front[..], &CONTAINER].concat(),
        &serve("from-a-container", &mut script),
    );
    world.background(
        "stranger",
        &[&["--network", "back"][..], &CONTAINER].concat(),
        &SLEEP,
    );
    wait_for("the machine serves", || {
        page(world, "container", "machine") == "from-a-machine"
    });
    assert_eq!(page(world, "machine", "container"), "from-a-container");
    // By IPv6, and by the published port: from another network and from itself.
    let six = world
        .isle([
            "exec",
            "container",
            "ping",
            "-6",
            "-c",
            "1",
            "-W",
            "10",
            "machine",
        ])
        .run();
    assert_eq!(six.code(), 0, "{}", six.stdout());
    assert!(answers(world, 8080));
    let gateway = world
        .isle([
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            "back",
        ])
        .succeeds();
    let published = format!("{}:8080", gateway.trim());
    assert_eq!(page(world, "stranger", &published), "from-a-machine");
    let own = world
        .isle([
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            "front",
        ])
        .succeeds();
    let published = format!("{}:8080", own.trim());
    assert_eq!(page(world, "machine", &published), "from-a-machine");
    // Not directly.
    let direct = address(world, "machine", "front");
    let refused = world
        .isle([
            "exec",
            "stranger",
            "timeout",
            "1",
            "wget",
            "-qO-",
            &format!("http://{direct}/"),
        ])
        .run();
    assert_ne!(refused.code(), 0);
}

fn cards_come_and_go_while_the_machine_runs(world: &World) {
    world.use_own_host("nameserver 127.0.0.1\n");
    for name in ["one", "two", "three"] {
        network(world, name, &[]);
        let mut script = String::new();
        world.background(
            &format!("at-{name}"),
            &[&["--network", name][..], &CONTAINER].concat(),
            &serve(name, &mut script),
        );
    }
    // Its first card has a tap from the start, its second one has none.
    world.background("with", &["--network", "one"], &SLEEP);
    let change = |verb: &str, network: &str, instance: &str| {
        world.isle(["network", verb, network, instance]).succeeds();
    };
    let reaches = |instance: &str, network: &str| {
        page(
            world,
            instance,
            &address(world, &format!("at-{network}"), network),
        ) == network
    };
    assert!(reaches("with", "one"));
    change("connect", "two", "with");
    assert!(reaches("with", "one") && reaches("with", "two"));
    change("disconnect", "one", "with");
    assert!(!reaches("with", "one") && reaches("with", "two"));
    // The same tap, on another bridge.
    change("connect", "three", "with");
    assert!(reaches("with", "two") && reaches("with", "three"));
    let full = world.isle(["network", "connect", "one", "with"]).run();
    assert_ne!(full.code(), 0);
    assert!(
        full.stderr().contains("2 network cards"),
        "{}",
        full.stderr()
    );
    change("disconnect", "two", "with");
    change("disconnect", "three", "with");
    let links = world
        .isle(["exec", "with", "ls", "/sys/class/net"])
        .succeeds();
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["lo"]);
    change("connect", "one", "with");
    assert!(reaches("with", "one"));
    // It has a name there, and a way out.
    let route = world.isle(["exec", "with", "ip", "route"]).succeeds();
    assert!(route.contains("default via"), "{route}");
}

fn a_machine_reaches_what_its_policy_lets_it_and_cannot_pretend(world: &World) {
    world.use_own_host("nameserver 127.0.0.1\n");
    network(world, "front", &[]);
    let mut script = String::new();
    world.background(
        "neighbour",
        &[&["--network", "front"][..], &CONTAINER].concat(),
        &serve("neighbour", &mut script),
    );
    world.background(
        "guarded",
        &[
            "--network",
            "front",
            "--egress",
            "deny",
            "--cap-add",
            "NET_ADMIN",
        ],
        &SLEEP,
    );
    let neighbour = address(world, "neighbour", "front");
    assert_eq!(page(world, "guarded", &neighbour), "neighbour");
    let outside = world
        .isle([
            "exec",
            "guarded",
            "timeout",
            "5",
            "wget",
            "-qO-",
            "http://198.51.100.1/",
        ])
        .run();
    assert_ne!(outside.code(), 0);
    // With another address of the network nobody hears it.
    let own = address(world, "guarded", "front");
    let other = format!("{}.200", own.rsplit_once('.').expect("an address").0);
    world
        .isle(["exec", "guarded", "ip", "address", "add"])
        .arguments([format!("{other}/24").as_str(), "dev", "eth0"])
        .succeeds();
    let ping = |from: &str| {
        let arguments = ["exec", "guarded", "ping", "-c", "1", "-W", "2", "-I", from];
        world
            .isle(arguments)
            .arguments([neighbour.as_str()])
            .run()
            .code()
    };
    assert_eq!(ping(&own), 0);
    assert_ne!(ping(&other), 0);
}

fn more_networks_than_cards_are_refused(world: &World) {
    world.use_own_host("nameserver 127.0.0.1\n");
    let mut flags = Vec::new();
    for name in ["one", "two", "three"] {
        network(world, name, &[]);
        flags.extend(["--network", name]);
    }
    let refused = world
        .isle(["run", "--rm"])
        .arguments(&flags)
        .arguments([world.busybox().as_str(), "true"])
        .run();
    assert_eq!(refused.code(), 125);
    assert!(
        refused.stderr().contains("two network cards"),
        "{}",
        refused.stderr()
    );
}
