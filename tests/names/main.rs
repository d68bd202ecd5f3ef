//! Instances find each other by name, at every level and across levels.

#![forbid(unsafe_code)]

#[path = "../../bin/isle-netd/tests/house/upstream.rs"]
mod upstream;

use std::net::IpAddr;

use isle_tests::{Level, Need, World, wait_for};

isle_tests::stories! {
    instances_find_each_other_by_name_alias_and_backwards [Need::Isle],
    several_instances_of_one_alias_are_all_found [Need::Isle],
    names_of_other_networks_are_not_known [Need::Isle],
    the_world_is_asked_for_other_names_but_not_from_internal_networks [Need::Isle],
    names_follow_connect_disconnect_and_rename [Need::Isle],
    a_container_and_a_virtual_machine_find_each_other [Need::Isle, Need::Only(Level::Vm)],
    the_keeper_comes_back_when_it_is_killed_and_goes_with_the_last_instance [Need::Isle],
}

const LOCALHOST: &str = "nameserver 127.0.0.1\n";
const SLEEP: [&str; 2] = ["sleep", "1000"];

fn address(world: &World, instance: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    world
        .isle(["inspect", "-f", &format, instance])
        .succeeds()
        .trim()
        .to_owned()
}

fn network(world: &World, name: &str, flags: &[&str]) {
    world
        .isle(["network", "create"])
        .arguments(flags)
        .arguments([name])
        .succeeds();
}

/// The addresses that a name has for an instance, in order; empty when it has none.
fn look_up(world: &World, instance: &str, name: &str) -> Vec<String> {
    let outcome = world
        .isle(["exec", instance, "nslookup", "-type=a", name])
        .run();
    let text = outcome.stdout().to_owned();
    // The server's own address comes first.
    let answer = text.split("\n\n").skip(1).collect::<String>();
    let addresses = answer
        .lines()
        .filter_map(|line| line.strip_prefix("Address: "));
    let mut found: Vec<String> = addresses.map(|address| address.trim().to_owned()).collect();
    found.sort();
    found
}

fn instances_find_each_other_by_name_alias_and_backwards(world: &World) {
    world.use_own_host(LOCALHOST);
    network(world, "front", &[]);
    world.background(
        "web",
        &["--network", "front", "--network-alias", "www"],
        &SLEEP,
    );
    world.background("other", &["--network", "front"], &SLEEP);
    let web = address(world, "web", "front");
    for name in ["web", "WWW", "web.front"] {
        assert_eq!(look_up(world, "other", name), [web.as_str()], "{name}");
    }
    let id = world.isle(["inspect", "-f", "{{.Id}}", "web"]).succeeds();
    assert_eq!(look_up(world, "other", &id[..12]), [web.as_str()]);
    // It finds itself.
    assert_eq!(look_up(world, "web", "web"), [web.as_str()]);
    let backwards = world.isle(["exec", "other", "nslookup", &web]).succeeds();
    assert!(backwards.contains("web.front"), "{backwards}");
    // By the library that programs use.
    world
        .isle(["exec", "other", "ping", "-c", "1", "-W", "10", "www"])
        .succeeds();
    // On the default network too.
    world.background("left", &[], &SLEEP);
    world.background("right", &[], &SLEEP);
    world
        .isle(["exec", "left", "ping", "-c", "1", "-W", "10", "right"])
        .succeeds();
    assert_eq!(look_up(world, "left", "web"), Vec::<String>::new());
}

fn several_instances_of_one_alias_are_all_found(world: &World) {
    world.use_own_host(LOCALHOST);
    network(world, "front", &[]);
    let names = ["one", "two", "three"];
    for name in names {
        world.background(
            name,
            &["--network", "front", "--network-alias", "service"],
            &SLEEP,
        );
    }
    let mut all = names.map(|name| address(world, name, "front"));
    all.sort();
    assert_eq!(look_up(world, "one", "service"), all);
    world.isle(["rm", "-f", "two"]).succeeds();
    wait_for("its address is gone", || {
        look_up(world, "one", "service").len() == 2
    });
}

fn names_of_other_networks_are_not_known(world: &World) {
    world.use_own_host(LOCALHOST);
    network(world, "front", &[]);
    network(world, "back", &["--internal"]);
    world.background("web", &["--network", "front"], &SLEEP);
    world.background("app", &["--network", "front", "--network", "back"], &SLEEP);
    world.background("db", &["--network", "back"], &SLEEP);
    assert_eq!(look_up(world, "app", "db"), [address(world, "db", "back")]);
    assert_eq!(
        look_up(world, "app", "web"),
        [address(world, "web", "front")]
    );
    assert_eq!(look_up(world, "db", "app"), [address(world, "app", "back")]);
    assert_eq!(look_up(world, "db", "web"), Vec::<String>::new());
    assert_eq!(look_up(world, "web", "db"), Vec::<String>::new());
}

fn the_world_is_asked_for_other_names_but_not_from_internal_networks(world: &World) {
    world.use_own_host(LOCALHOST);
    let (host, own) = world.in_host(|| {
        let localhost: IpAddr = [127, 0, 0, 1].into();
        (
            upstream::start(localhost, 1),
            upstream::start([127, 0, 0, 2].into(), 2),
        )
    });
    network(world, "inside", &["--internal"]);
    world.background("web", &[], &SLEEP);
    world.background("shy", &["--network", "inside"], &SLEEP);
    world.background(
        "picky",
        &["--dns", "127.0.0.2", "--dns-search", "corp.example"],
        &SLEEP,
    );
    assert_eq!(look_up(world, "web", "www.example.org"), ["192.0.2.1"]);
    let before = host.get();
    assert_eq!(
        look_up(world, "shy", "www.example.org"),
        Vec::<String>::new()
    );
    assert_eq!(host.get(), before, "nothing was asked");
    assert_eq!(look_up(world, "picky", "www.example.org"), ["192.0.2.2"]);
    assert!(own.get() > 0);
    let file = world
        .isle(["exec", "picky", "cat", "/etc/resolv.conf"])
        .succeeds();
    assert!(file.contains("search corp.example"), "{file}");
}

fn names_follow_connect_disconnect_and_rename(world: &World) {
    world.use_own_host(LOCALHOST);
    network(world, "front", &[]);
    world.background("web", &["--network", "front"], &SLEEP);
    world.background("late", &[], &SLEEP);
    assert_eq!(look_up(world, "web", "late"), Vec::<String>::new());
    world
        .isle(["network", "connect", "--alias", "guest", "front", "late"])
        .succeeds();
    let late = address(world, "late", "front");
    assert_eq!(look_up(world, "web", "late"), [late.as_str()]);
    assert_eq!(look_up(world, "web", "guest"), [late.as_str()]);
    assert_eq!(
        look_up(world, "late", "web"),
        [address(world, "web", "front")]
    );
    world.isle(["rename", "late", "early"]).succeeds();
    wait_for("the new name", || {
        look_up(world, "web", "early") == [late.as_str()]
    });
    wait_for("the old name is gone", || {
        look_up(world, "web", "late").is_empty()
    });
    world
        .isle(["network", "disconnect", "front", "early"])
        .succeeds();
    wait_for("the name is gone", || {
        look_up(world, "web", "early").is_empty()
    });
}

fn a_container_and_a_virtual_machine_find_each_other(world: &World) {
    world.use_own_host(LOCALHOST);
    network(world, "front", &[]);
    world.background("machine", &["--network", "front"], &SLEEP);
    world
        .isle([
            "container",
            "run",
            "-d",
            "--isolation",
            "container",
            "--name",
            "box",
            "--network",
            "front",
        ])
        .arguments([&world.busybox()])
        .arguments(SLEEP)
        .succeeds();
    for (from, to) in [("machine", "box"), ("box", "machine")] {
        assert_eq!(look_up(world, from, to), [address(world, to, "front")]);
        world
            .isle(["exec", from, "ping", "-c", "1", "-W", "10", to])
            .succeeds();
    }
}

/// The keeper of this world.
fn keeper(world: &World) -> Option<i32> {
    let root = world.root().into_os_string().into_encoded_bytes();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        (words.next()? == b"isle-netd" && words.next()? == root).then_some(pid)
    })
}

fn the_keeper_comes_back_when_it_is_killed_and_goes_with_the_last_instance(world: &World) {
    world.use_own_host(LOCALHOST);
    assert_eq!(keeper(world), None);
    world.background("web", &[], &SLEEP);
    world.background("other", &[], &SLEEP);
    let first = keeper(world).expect("somebody is on a network");
    let pid = rustix::process::Pid::from_raw(first).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("root");
    // Traffic does not need it.
    let web = address(world, "web", "bridge");
    world
        .isle(["exec", "other", "ping", "-c", "1", "-W", "10", &web])
        .succeeds();
    wait_for("another keeper", || {
        keeper(world).is_some_and(|now| now != first)
    });
    wait_for("names", || look_up(world, "other", "web") == [web.as_str()]);
    world.isle(["rm", "-f", "web", "other"]).succeeds();
    wait_for("it has gone", || keeper(world).is_none());
    assert!(!world.run().join("network").exists());
}
