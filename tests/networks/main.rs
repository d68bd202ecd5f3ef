//! Instances on networks: who reaches whom, by which way, and what happens when somebody interferes.

#![forbid(unsafe_code)]

mod egress;
mod faults;
mod ports;
mod reach;
mod site;
#[path = "../../bin/isle-netd/tests/house/upstream.rs"]
mod upstream;

use isle_tests::{Level, Need, World};
use serde_json::Value;

use egress::{
    a_guarded_instance_is_reached_and_cannot_pretend,
    a_policy_holds_for_addresses_subnets_and_ports, names_open_the_way_to_what_they_mean,
    what_was_refused_is_told,
};
use faults::{
    a_supervisor_that_was_killed_loses_no_connection, flushed_rules_and_deleted_links_come_back,
    kills_at_every_moment_leave_nothing,
};
use ports::{
    a_port_on_loopback_is_the_hosts_alone, a_published_port_is_reached_by_every_way,
    a_taken_port_is_refused_before_anything_starts, datagrams_are_passed_on_both_ways,
    dockers_forms_are_understood, one_port_more_is_one_element_more, ports_change_while_it_runs,
};
use reach::{address, network, reaches, refused, serve};
use site::a_site_is_spread_over_the_levels;

isle_tests::stories! {
    neighbours_reach_each_other_and_nobody_else_does [Need::Isle],
    an_internal_network_leads_nowhere [Need::Isle],
    an_instance_is_connected_and_disconnected_while_it_runs [Need::Isle],
    a_stopped_instance_is_connected_at_its_next_start [Need::Isle],
    addresses_are_as_asked_for_and_stay [Need::Isle],
    networks_are_listed_inspected_and_pruned [Need::Isle],
    what_cannot_be_a_network_is_refused [Need::Isle],
    a_full_network_says_so [Need::Isle],
    neighbours_of_six_bytes_reach_each_other [Need::Isle],
    a_network_can_be_shared_or_the_hosts [Need::Isle, Need::Only(Level::Container)],
    instances_without_icc_do_not_reach_each_other [Need::Isle],
    macvlan_instances_are_on_the_hosts_wire [Need::Isle],
    rates_are_in_the_kernel [Need::Isle],
    many_starts_leave_nothing [Need::Isle],
    a_published_port_is_reached_by_every_way [Need::Isle],
    a_port_on_loopback_is_the_hosts_alone [Need::Isle],
    dockers_forms_are_understood [Need::Isle],
    datagrams_are_passed_on_both_ways [Need::Isle],
    a_taken_port_is_refused_before_anything_starts [Need::Isle],
    ports_change_while_it_runs [Need::Isle],
    one_port_more_is_one_element_more [Need::Isle],
    a_policy_holds_for_addresses_subnets_and_ports [Need::Isle],
    names_open_the_way_to_what_they_mean [Need::Isle],
    what_was_refused_is_told [Need::Isle],
    a_guarded_instance_is_reached_and_cannot_pretend [Need::Isle],
    a_site_is_spread_over_the_levels [Need::Isle, Need::Only(Level::Vm)],
    flushed_rules_and_deleted_links_come_back [Need::Isle],
    a_supervisor_that_was_killed_loses_no_connection [Need::Isle],
    kills_at_every_moment_leave_nothing [Need::Isle],
}

fn neighbours_reach_each_other_and_nobody_else_does(world: &World) {
    world.use_own_host("");
    network(world, "front", &[]);
    network(world, "back", &[]);
    serve(world, "web", &["--network", "front"]);
    world.background("near", &["--network", "front"], &["sleep", "1000"]);
    world.background("far", &["--network", "back"], &["sleep", "1000"]);
    world.background(
        "both",
        &["--network", "front", "--network", "back"],
        &["sleep", "1000"],
    );
    let web = address(world, "web", "front");
    assert_eq!(reaches(world, "near", "web"), "web");
    assert_eq!(reaches(world, "both", &web), "web");
    assert_eq!(reaches(world, "far", &web), "");
    // The host does, another host does not, even with a route.
    assert_eq!(reach::from_host(world, &web, 80), "web");
    assert_eq!(reach::from_neighbour_by_route(world, &web, 80), "");
    let outside = reach::serve_at_neighbour(world, 8000, "outside");
    assert_eq!(
        reach::reaches_port(world, "near", isle_tests::NEIGHBOUR[0], 8000),
        "outside"
    );
    // It came from the host's address.
    assert_eq!(outside.last_client(), isle_tests::ON_WIRE[0]);
}

fn an_internal_network_leads_nowhere(world: &World) {
    world.use_own_host("");
    network(world, "cellar", &["--internal"]);
    serve(world, "web", &["--network", "cellar"]);
    world.background("near", &["--network", "cellar"], &["sleep", "1000"]);
    let _outside = reach::serve_at_neighbour(world, 8000, "outside");
    assert_eq!(reaches(world, "near", "web"), "web");
    assert_eq!(
        reach::reaches_port(world, "near", isle_tests::NEIGHBOUR[0], 8000),
        ""
    );
    let routes = world.isle(["exec", "near", "ip", "route"]).succeeds();
    assert!(!routes.contains("default"), "{routes}");
}

fn an_instance_is_connected_and_disconnected_while_it_runs(world: &World) {
    world.use_own_host("");
    network(world, "front", &[]);
    network(world, "back", &["--subnet", "10.77.0.0/24"]);
    serve(world, "web", &["--network", "front"]);
    world.background("far", &["--network", "back"], &["sleep", "1000"]);
    assert_eq!(reaches(world, "far", "web"), "");
    world
        .isle([
            "network",
            "connect",
            "--ip",
            "10.77.0.80",
            "--alias",
            "www",
            "back",
            "web",
        ])
        .succeeds();
    assert_eq!(address(world, "web", "back"), "10.77.0.80");
    assert_eq!(reaches(world, "far", "www"), "web");
    let links = world.isle(["exec", "web", "ip", "addr"]).succeeds();
    assert!(
        links.contains("eth1") && links.contains("10.77.0.80/24"),
        "{links}"
    );
    refused(world.isle(["network", "connect", "back", "web"])).complains("already");
    world
        .isle(["network", "disconnect", "back", "web"])
        .succeeds();
    assert_eq!(reaches(world, "far", "10.77.0.80"), "");
    let links = world.isle(["exec", "web", "ip", "addr"]).succeeds();
    assert!(!links.contains("eth1"), "{links}");
    refused(world.isle(["network", "disconnect", "back", "web"])).complains("not connected");
    // The way out is by the next network when that of the first has gone.
    let way_out = || {
        let routes = world.isle(["exec", "web", "ip", "route"]).succeeds();
        let mut routes = routes.lines().map(str::to_owned);
        routes.find(|line| line.starts_with("default"))
    };
    world.isle(["network", "connect", "back", "web"]).succeeds();
    assert!(way_out().expect("a way out").contains("eth0"));
    world
        .isle(["network", "disconnect", "front", "web"])
        .succeeds();
    let now = way_out().expect("a way out");
    assert!(now.contains("10.77.0.1 ") && now.contains("eth1"), "{now}");
    world
        .isle(["network", "connect", "front", "web"])
        .succeeds();
    world
        .isle(["network", "disconnect", "back", "web"])
        .succeeds();
    assert!(way_out().expect("a way out").contains("eth0"));
    // It is known for the next start too.
    world.isle(["restart", "-t", "0", "web"]).succeeds();
    assert_eq!(
        world.inspect("web")["NetworkSettings"]["Networks"]["back"],
        Value::Null
    );
    let events = world
        .isle(["events", "--since", "1h", "--until", "0s"])
        .succeeds();
    assert!(events.contains("network create"), "{events}");
}

fn a_stopped_instance_is_connected_at_its_next_start(world: &World) {
    world.use_own_host("");
    network(world, "back", &[]);
    world.background("web", &[], &["sleep", "1000"]);
    world.isle(["stop", "-t", "0", "web"]).succeeds();
    world.isle(["network", "connect", "back", "web"]).succeeds();
    world.isle(["start", "web"]).succeeds();
    let networks = world.inspect("web")["NetworkSettings"]["Networks"].clone();
    let names: Vec<&String> = networks.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["back", "bridge"]);
    world
        .isle(["network", "disconnect", "bridge", "web"])
        .succeeds();
    let links = world.isle(["exec", "web", "ip", "addr"]).succeeds();
    assert!(!links.contains("eth0") && links.contains("eth1"), "{links}");
}

fn addresses_are_as_asked_for_and_stay(world: &World) {
    world.use_own_host("");
    network(
        world,
        "lab",
        &[
            "--subnet",
            "10.77.0.0/24",
            "--ip-range",
            "10.77.0.128/25",
            "--gateway",
            "10.77.0.254",
            "--aux-address",
            "printer=10.77.0.128",
        ],
    );
    world.background("a", &["--network", "lab"], &["sleep", "1000"]);
    assert_eq!(address(world, "a", "lab"), "10.77.0.129");
    world.background(
        "b",
        &[
            "--network",
            "lab",
            "--ip",
            "10.77.0.7",
            "--mac-address",
            "02:00:00:00:00:07",
        ],
        &["sleep", "1000"],
    );
    let of_b = world.inspect("b")["NetworkSettings"]["Networks"]["lab"].clone();
    assert_eq!(of_b["IPAddress"], "10.77.0.7");
    assert_eq!(of_b["MacAddress"], "02:00:00:00:00:07");
    assert_eq!(of_b["Gateway"], "10.77.0.254");
    let inside = world.isle(["exec", "b", "ip", "addr"]).succeeds();
    assert!(
        inside.contains("02:00:00:00:00:07") && inside.contains("10.77.0.7/24"),
        "{inside}"
    );
    let route = world.isle(["exec", "b", "ip", "route"]).succeeds();
    assert!(route.contains("default via 10.77.0.254"), "{route}");
    for (address, reason) in [
        ("10.77.0.7", "belongs to instance"),
        ("10.77.0.254", "gateway"),
        ("10.77.0.128", "printer"),
        ("10.78.0.1", "10.77.0.0/24"),
    ] {
        world
            .script(&["--rm", "--network", "lab", "--ip", address], "true")
            .exits_with(125)
            .complains(reason);
    }
    // It comes back to where it was.
    world.isle(["stop", "-t", "0", "a"]).succeeds();
    world.background("c", &["--network", "lab"], &["sleep", "1000"]);
    assert_eq!(address(world, "c", "lab"), "10.77.0.130");
    world.isle(["start", "a"]).succeeds();
    assert_eq!(address(world, "a", "lab"), "10.77.0.129");
    let hosts = world.isle(["exec", "a", "cat", "/etc/hosts"]).succeeds();
    assert!(hosts.contains("10.77.0.129"), "{hosts}");
}

fn networks_are_listed_inspected_and_pruned(world: &World) {
    world.use_own_host("");
    let id = world
        .isle([
            "network",
            "create",
            "--label",
            "tier=db",
            "--subnet",
            "10.77.0.0/24",
            "lab",
        ])
        .succeeds();
    network(world, "spare", &["--internal"]);
    world.background("a", &["--network", "lab"], &["sleep", "1000"]);
    let names = |flags: &[&str]| {
        world
            .isle(["network", "ls", "--format", "{{.Name}}"])
            .arguments(flags)
            .succeeds()
            .replace('\n', " ")
    };
    assert_eq!(names(&["--filter", "label=tier=db"]), "lab");
    assert_eq!(names(&["--filter", "dangling=true"]), "spare");
    assert_eq!(names(&["--filter", "type=builtin"]), "bridge");
    assert_eq!(
        world
            .isle(["network", "ls", "-q", "--no-trunc", "--filter", "name=lab"])
            .succeeds(),
        id
    );
    let text = world.isle(["network", "inspect", &id[..6]]).succeeds();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value[0]["Name"], "lab");
    assert_eq!(value[0]["IPAM"]["Config"][0]["Gateway"], "10.77.0.1");
    let members = value[0]["Containers"].as_object().expect("an object");
    let member = members.values().next().expect("one is on it");
    assert_eq!(
        (&member["Name"], &member["IPv4Address"]),
        (&"a".into(), &"10.77.0.2/24".into())
    );
    let filtered = world
        .isle([
            "ps",
            "-q",
            "--filter",
            "network=lab",
            "--format",
            "{{.Names}}",
        ])
        .succeeds();
    assert_eq!(filtered, "a");
    refused(world.isle(["network", "rm", "lab"]))
        .complains("a")
        .complains("disconnect");
    let pruned = world.isle(["network", "prune", "--force"]).succeeds();
    assert!(
        pruned.contains("spare") && !pruned.contains("lab"),
        "{pruned}"
    );
    world.isle(["rm", "-f", "a"]).succeeds();
    assert_eq!(world.isle(["network", "rm", "lab"]).succeeds(), "lab");
    world.isle(["network", "rm", "--force", "lab"]).succeeds();
    refused(world.isle(["network", "inspect", "lba"])).complains("no such network");
}

fn what_cannot_be_a_network_is_refused(world: &World) {
    world.use_own_host("");
    network(world, "lab", &["--subnet", "10.77.0.0/24"]);
    world
        .on_host(["ip", "link", "add", "other", "type", "bridge"])
        .succeeds();
    world
        .on_host(["ip", "addr", "add", "10.99.0.1/24", "dev", "other"])
        .succeeds();
    world
        .on_host(["ip", "link", "set", "other", "up"])
        .succeeds();
    for (arguments, reason) in [
        (&["lab"][..], "exists already"),
        (&["bridge"], "every host has"),
        (&["host"], "every host has"),
        (&["a b"], "not a name"),
        (&["--subnet", "10.77.0.128/25", "x"], "overlaps"),
        (&["--subnet", "10.99.0.0/16", "x"], "the host has a route"),
        (&["--subnet", "10.78.0.1/24", "x"], "10.78.0.0/24"),
        (
            &["--subnet", "10.78.0.0/24", "--gateway", "10.79.0.1", "x"],
            "in no --subnet",
        ),
        (&["--driver", "overlay", "x"], "no driver"),
        (&["--driver", "macvlan", "x"], "parent"),
        (
            &["--driver", "macvlan", "--opt", "parent=nope", "x"],
            "no link",
        ),
        (&["--opt", "speed=1", "x"], "no option"),
    ] {
        refused(world.isle(["network", "create"]).arguments(arguments)).complains(reason);
    }
    refused(world.isle(["network", "rm", "bridge"])).complains("cannot be removed");
    world
        .isle(["run", "--rm", "--network", "lba", &world.busybox(), "true"])
        .exits_with(125)
        .complains("did you mean \"lab\"");
    // A chosen subnet is beside all that the host has.
    world
        .on_host(["ip", "route", "add", "172.16.0.0/12", "dev", "other"])
        .succeeds();
    let id = world.isle(["network", "create", "free"]).succeeds();
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    let subnet = world
        .isle(["network", "inspect", "--format", format, &id])
        .succeeds();
    assert_eq!(subnet, "192.168.0.0/20");
}

fn a_full_network_says_so(world: &World) {
    world.use_own_host("");
    network(world, "small", &["--subnet", "10.77.0.0/29"]);
    for number in 0..5 {
        world.background(
            &format!("i{number}"),
            &["--network", "small"],
            &["sleep", "1000"],
        );
    }
    world
        .script(&["--rm", "--network", "small"], "true")
        .exits_with(125)
        .complains("no free address");
    world.isle(["rm", "-f", "i2"]).succeeds();
    world
        .script(&["--rm", "--network", "small"], "true")
        .succeeds();
    isle_tests::wait_for("four links", || {
        let left = world.on_host(["ip", "-brief", "link"]).succeeds();
        left.lines().filter(|line| line.starts_with("ie")).count() == 4
    });
}

fn neighbours_of_six_bytes_reach_each_other(world: &World) {
    world.use_own_host("");
    network(world, "six", &["--ipv6", "--subnet", "fd00:77::/64"]);
    serve(
        world,
        "web",
        &["--network", "six", "--ip6", "fd00:77::80", "-p", "8080:80"],
    );
    world.background("near", &["--network", "six"], &["sleep", "1000"]);
    assert_eq!(reaches(world, "near", "fd00:77::80"), "web");
    assert_eq!(reach::from_host(world, "fd00:77::80", 80), "web");
    assert_eq!(reach::from_host(world, "::1", 8080), "web", "by ::1");
    assert_eq!(
        reach::from_neighbour(world, isle_tests::ON_WIRE[1], 8080),
        "web",
        "from another host"
    );
    let _outside = reach::serve_at_neighbour(world, 8000, "outside");
    assert_eq!(
        reach::reaches_port(world, "near", isle_tests::NEIGHBOUR[2], 8000),
        "outside"
    );
}

fn a_network_can_be_shared_or_the_hosts(world: &World) {
    world.use_own_host("");
    serve(world, "web", &[]);
    let shared = world
        .script(
            &["--rm", "--network", "container:web"],
            "ip addr; printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 80",
        )
        .succeeds();
    assert!(
        shared.contains(&address(world, "web", "bridge")) && shared.ends_with("web"),
        "{shared}"
    );
    let hosts = world
        .script(&["--rm", "--network", "host"], "ip addr")
        .succeeds();
    assert!(hosts.contains("isle0"), "{hosts}");
    let none = world
        .script(&["--rm", "--network", "none"], "ip addr")
        .succeeds();
    assert!(!none.contains("eth0"), "{none}");
    for flags in [
        &["--network", "host", "-p", "80:80"][..],
        &["--network", "none", "--ip", "10.0.0.2"],
    ] {
        world
            .script(flags, "true")
            .exits_with(125)
            .complains("needs a network");
    }
    world.background("lonely", &["--network", "none"], &["sleep", "1000"]);
    refused(world.isle(["network", "connect", "bridge", "lonely"])).complains("--network none");
}

fn instances_without_icc_do_not_reach_each_other(world: &World) {
    world.use_own_host("");
    network(
        world,
        "apart",
        &["--opt", "com.docker.network.bridge.enable_icc=false"],
    );
    serve(world, "web", &["--network", "apart"]);
    world.background("near", &["--network", "apart"], &["sleep", "1000"]);
    assert_eq!(reaches(world, "near", &address(world, "web", "apart")), "");
    let _outside = reach::serve_at_neighbour(world, 8000, "outside");
    assert_eq!(
        reach::reaches_port(world, "near", isle_tests::NEIGHBOUR[0], 8000),
        "outside"
    );
}

fn macvlan_instances_are_on_the_hosts_wire(world: &World) {
    world.use_own_host("");
    let outside = reach::serve_at_neighbour(world, 8000, "outside");
    let flags = [
        "--driver",
        "macvlan",
        "--opt",
        "parent=wire",
        "--subnet",
        "192.0.2.0/24",
        "--gateway",
        "192.0.2.1",
    ];
    network(world, "lan", &flags);
    world.background(
        "a",
        &["--network", "lan", "--ip", "192.0.2.40"],
        &["sleep", "1000"],
    );
    assert_eq!(
        reach::reaches_port(world, "a", isle_tests::NEIGHBOUR[0], 8000),
        "outside"
    );
    assert_eq!(outside.last_client(), "192.0.2.40");
    world.isle(["restart", "-t", "0", "a"]).succeeds();
    assert_eq!(
        reach::reaches_port(world, "a", isle_tests::NEIGHBOUR[0], 8000),
        "outside"
    );
    world
        .script(&["--rm", "--network", "lan", "--egress", "deny"], "true")
        .exits_with(125)
        .complains("macvlan");
    world.isle(["network", "disconnect", "lan", "a"]).succeeds();
    let inside = world.isle(["exec", "a", "ip", "link"]).succeeds();
    assert!(!inside.contains("eth0"), "{inside}");
    world.isle(["rm", "-f", "a"]).succeeds();
    let links = world.on_host(["ip", "-brief", "link"]).succeeds();
    assert!(!links.contains("@wire"), "{links}");
}

fn rates_are_in_the_kernel(world: &World) {
    world.use_own_host("");
    world.background(
        "slow",
        &["--net-rate", "in=1mb,out=2mb"],
        &["sleep", "1000"],
    );
    let qdisc = world.on_host(["tc", "qdisc"]).succeeds();
    assert!(
        qdisc.contains("tbf") && qdisc.contains("rate 8388608bit")
            || qdisc.contains("rate 8388Kbit"),
        "{qdisc}"
    );
    let rules = world.on_host(["nft", "list", "ruleset"]).succeeds();
    assert!(
        rules.contains("2 mbytes/second") || rules.contains("2097152 bytes/second"),
        "{rules}"
    );
    world.isle(["rm", "-f", "slow"]).succeeds();
}

fn many_starts_leave_nothing(world: &World) {
    world.use_own_host("");
    network(world, "front", &[]);
    world.background("stays", &["--network", "front"], &["sleep", "1000"]);
    let state = || {
        let links = world.on_host(["ip", "-brief", "link"]).succeeds();
        let rules = world
            .on_host(["nft", "--stateless", "list", "ruleset"])
            .succeeds();
        format!("{links}\n{rules}")
    };
    let before = state();
    for _ in 0..40 {
        world
            .script(
                &["--rm", "--network", "front", "-p", "80", "--egress", "deny"],
                "true",
            )
            .succeeds();
    }
    let begin = std::time::Instant::now();
    while state() != before {
        let is_late = begin.elapsed().as_secs() > 10;
        assert!(!is_late, "before:\n{before}\nafter:\n{}", state());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let text = world.isle(["network", "inspect", "front"]).succeeds();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        value[0]["Containers"].as_object().map(serde_json::Map::len),
        Some(1)
    );
}
