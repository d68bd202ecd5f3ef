//! Health checks: verdicts, their log, what happens when an instance is unhealthy.

#![forbid(unsafe_code)]

use isle_tests::{Need, World, wait_for};

isle_tests::stories! {
    it_is_starting_then_healthy_then_unhealthy [Need::Isle],
    the_images_check_is_used_and_can_be_switched_off [Need::Isle],
    a_check_that_takes_too_long_has_failed [Need::Isle],
    an_unhealthy_instance_can_be_restarted [Need::Isle],
    failures_of_the_start_period_do_not_count [Need::Isle],
}

fn health(world: &World, name: &str) -> String {
    world
        .isle(["inspect", "--format", "{{.State.Health.Status}}", name])
        .run()
        .stdout()
        .trim()
        .to_owned()
}

fn it_is_starting_then_healthy_then_unhealthy(world: &World) {
    world.background(
        "n",
        &[
            "--health-cmd",
            "echo looked; test -e /good",
            "--health-interval",
            "100ms",
            "--health-retries",
            "2",
        ],
        &["sleep", "1000"],
    );
    assert_eq!(health(world, "n"), "starting");
    world.isle(["exec", "n", "touch", "/good"]).succeeds();
    wait_for("healthy", || health(world, "n") == "healthy");
    assert!(world.isle(["ps"]).succeeds().contains("(healthy)"));
    world.isle(["exec", "n", "rm", "/good"]).succeeds();
    wait_for("unhealthy", || health(world, "n") == "unhealthy");
    let log = &world.inspect("n")["State"]["Health"];
    assert!(
        log["FailingStreak"]
            .as_u64()
            .is_some_and(|streak| streak >= 2),
        "{log}"
    );
    let last = log["Log"]
        .as_array()
        .and_then(|log| log.last())
        .expect("results");
    assert_eq!(last["ExitCode"], 1);
    assert_eq!(last["Output"], "looked\n");
    assert_eq!(world.status("n"), "running");
}

fn the_images_check_is_used_and_can_be_switched_off(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "source", &image])
        .succeeds();
    world
        .isle([
            "commit",
            "-c",
            "HEALTHCHECK --interval=100ms --retries=1 CMD true",
            "-c",
            "CMD [\"sleep\", \"1000\"]",
            "source",
            "checked",
        ])
        .succeeds();
    world
        .isle(["run", "-d", "--name", "n", "checked"])
        .succeeds();
    wait_for("healthy", || health(world, "n") == "healthy");
    world
        .isle(["run", "-d", "--name", "off", "--no-healthcheck", "checked"])
        .succeeds();
    assert!(
        world.inspect("off")["State"]
            .get("Health")
            .is_none_or(serde_json::Value::is_null)
    );
}

fn a_check_that_takes_too_long_has_failed(world: &World) {
    world.background(
        "n",
        &[
            "--health-cmd",
            "sleep 1000",
            "--health-interval",
            "50ms",
            "--health-timeout",
            "200ms",
            "--health-retries",
            "1",
        ],
        &["sleep", "1000"],
    );
    wait_for("unhealthy", || health(world, "n") == "unhealthy");
    // The check's process was not left behind, but for one that may run just now.
    let processes = world.isle(["top", "n"]).succeeds();
    assert!(processes.matches("sleep 1000").count() <= 3, "{processes}");
}

fn an_unhealthy_instance_can_be_restarted(world: &World) {
    world.background(
        "n",
        &[
            "--health-cmd",
            "test -e /proc/1/cwd/good",
            "--health-interval",
            "100ms",
            "--health-retries",
            "1",
            "--health-on-failure",
            "restart",
            "--stop-timeout",
            "0",
        ],
        &["sh", "-c", "echo begun; sleep 1000"],
    );
    wait_for("it was started again", || {
        world.isle(["logs", "n"]).succeeds().lines().count() >= 2
    });
}

fn failures_of_the_start_period_do_not_count(world: &World) {
    world.background(
        "n",
        &[
            "--health-cmd",
            "echo x >> /checks; false",
            "--health-interval",
            "50ms",
            "--health-start-period",
            "1h",
            "--health-start-interval",
            "50ms",
            "--health-retries",
            "1",
        ],
        &["sleep", "1000"],
    );
    wait_for("several checks were made", || {
        world
            .isle(["exec", "n", "cat", "/checks"])
            .run()
            .stdout()
            .lines()
            .count()
            >= 4
    });
    assert_eq!(health(world, "n"), "starting");
}
