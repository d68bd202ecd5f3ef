//! Many containers come and go; the framework then looks for what they left behind.

#![forbid(unsafe_code)]

use isle_tests::{Level, Need, World};

isle_tests::stories! {
    only Level::Container;
    a_thousand_containers_leave_nothing_behind [Need::Isle],
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
    let image = world.busybox();
    let total = count();
    let mut names = Vec::new();
    // Half are removed by themselves, half by `rm -f` while they run.
    for first in (0..total).step_by(8) {
        let running: Vec<_> = (first..(first + 8).min(total))
            .map(|number| {
                if number % 2 == 0 {
                    world
                        .isle(["run", "--rm", "--network", "none", &image, "true"])
                        .spawn()
                } else {
                    let name = format!("c{number}");
                    names.push(name.clone());
                    world
                        .isle([
                            "run",
                            "-d",
                            "--name",
                            &name,
                            "--network",
                            "none",
                            &image,
                            "sleep",
                            "1000",
                        ])
                        .spawn()
                }
            })
            .collect();
        for running in running {
            let outcome = running.wait();
            assert_eq!(outcome.code(), 0, "{outcome}");
        }
    }
    assert_eq!(
        world.isle(["ps", "-q"]).succeeds().lines().count(),
        names.len()
    );
    let namespaces = world.namespaces_of(&names);
    let ids = world.isle(["ps", "-q", "--no-trunc"]).succeeds();
    let ids = ids.lines().map(str::to_owned).collect();
    let held = isle_tests::namespaces_held(&namespaces, &ids);
    assert!(held.len() >= names.len(), "each has some of its own");
    let mut arguments = vec!["rm".to_owned(), "-f".to_owned()];
    arguments.extend(names.iter().cloned());
    world.isle(&arguments).succeeds();
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
    isle_tests::wait_for("their namespaces are gone", || {
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
