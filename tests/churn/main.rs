//! Many containers come and go; the framework then looks for what they left behind.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use isle_tests::{Level, Need, World, wait_for};

isle_tests::stories! {
    only Level::Container;
    a_thousand_containers_leave_nothing_behind [Need::Isle],
    a_thousand_containers_on_a_network_leave_nothing_behind [Need::Isle],
    starting_and_stopping_one_container_often_leaves_nothing_behind [Need::Isle],
}

/// `ISLE_TEST_CHURN` says how many; 200 when it is not set, 1000 for the promise.
fn count() -> usize {
    std::env::var("ISLE_TEST_CHURN")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(200)
}

fn a_thousand_containers_leave_nothing_behind(world: &World) {
    come_and_go(world, &["--network", "none"]);
}

/// Neither do they leave links, elements of tables, addresses or ports. What is left of a network nobody is on any more the
/// framework looks for.
fn a_thousand_containers_on_a_network_leave_nothing_behind(world: &World) {
    world.use_own_host("");
    world.isle(["network", "create", "front"]).succeeds();
    // Stays, so that nothing is taken away as a whole.
    let flags = [
        "--network",
        "front",
        "--network-alias",
        "service",
        "-p",
        "80",
    ];
    world.background("witness", &flags, &["sleep", "1000"]);
    let before = kernel(world);
    come_and_go(world, &flags);
    let begin = Instant::now();
    while kernel(world) != before && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(kernel(world), before);
    world.isle(["rm", "-f", "witness"]).succeeds();
    world.isle(["network", "rm", "front"]).succeeds();
}

/// The links, and the tables without what they have counted.
fn kernel(world: &World) -> Vec<String> {
    let links = world.on_host(["ip", "-brief", "link"]).succeeds();
    let name = |line: &str| line.split(['@', ' ']).next().unwrap_or_default().to_owned();
    let tables = world
        .on_host(["nft", "--stateless", "list", "ruleset"])
        .succeeds();
    links
        .lines()
        .map(name)
        .chain(tables.lines().map(str::to_owned))
        .collect()
}

fn come_and_go(world: &World, flags: &[&str]) {
    let image = world.busybox();
    let total = count();
    let mut names = Vec::new();
    // Half are removed by themselves, half by `rm -f` while they run.
    for first in (0..total).step_by(8) {
        let running: Vec<_> = (first..(first + 8).min(total))
            .map(|number| {
                if number % 2 == 0 {
                    world
                        .isle(["run", "--rm"])
                        .arguments(flags)
                        .arguments([image.as_str(), "true"])
                        .spawn()
                } else {
                    let name = format!("c{number}");
                    names.push(name.clone());
                    world
                        .isle(["run", "-d", "--name", &name])
                        .arguments(flags)
                        .arguments([image.as_str(), "sleep", "1000"])
                        .spawn()
                }
            })
            .collect();
        for running in running {
            let outcome = running.wait();
            assert_eq!(outcome.code(), 0, "{outcome}");
        }
    }
    let others = usize::from(flags.contains(&"front"));
    let running = world.isle(["ps", "-q"]).succeeds().lines().count();
    assert_eq!(running, names.len() + others);
    let namespaces = world.namespaces_of(&names);
    let ids = world.isle(["ps", "-q", "--no-trunc"]).succeeds();
    let ids = ids.lines().map(str::to_owned).collect();
    let held = isle_tests::namespaces_held(&namespaces, &ids);
    assert!(held.len() >= names.len(), "each has some of its own");
    let mut arguments = vec!["rm".to_owned(), "-f".to_owned()];
    arguments.extend(names.iter().cloned());
    world.isle(&arguments).succeeds();
    assert_eq!(world.isle(["ps", "-aq"]).succeeds().lines().count(), others);
    wait_for("their namespaces are gone", || {
        isle_tests::namespaces_held(&namespaces, &ids).is_empty()
    });
}

fn starting_and_stopping_one_container_often_leaves_nothing_behind(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create",
            "--name",
            "n",
            &image,
            "sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 0.02; done",
        ])
        .succeeds();
    for _ in 0..30 {
        world.isle(["start", "n"]).succeeds();
        world.isle(["stop", "-t", "0", "n"]).succeeds();
    }
    assert_eq!(world.status("n"), "exited");
}
