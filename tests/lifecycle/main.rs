//! Create, start, stop, kill, restart, pause, rename, update, wait, remove, and what `ps` says.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use isle_tests::{Need, World, wait_for};

isle_tests::stories! {
    created_started_stopped_started_removed [Need::Isle],
    stop_asks_first_and_kills_later,
    the_stop_signal_and_time_out_can_be_chosen,
    stop_twice_and_start_twice_are_harmless,
    kill_of_a_stopped_instance_is_refused,
    a_paused_instance_does_nothing_until_it_is_resumed,
    a_running_instance_is_removed_only_by_force,
    unknown_instances_are_named_and_the_others_still_done [Need::Isle],
    an_instance_is_found_by_name_id_and_unique_prefix,
    rename_moves_the_name [Need::Isle],
    wait_prints_the_exit_code_of_each,
    restart_always_starts_again_until_stopped,
    restart_on_failure_gives_up_after_so_many,
    restart_is_refused_together_with_rm,
    ps_shows_what_docker_shows,
    ps_formats_and_filters [Need::Isle],
    events_tell_what_happened [Need::Isle],
    top_lists_the_processes,
    start_with_attach_gives_output_and_exit_code,
    update_changes_limits_of_a_running_instance [Need::Isle, Need::CgroupMemory],
    prune_removes_what_is_stopped [Need::Isle],
    a_supervisor_says_nothing_to_the_terminal_that_started_it,
}

fn sleeper(world: &World, name: &str) -> String {
    let image = world.busybox();
    world
        .isle(["run", "-d", "--name", name, &image, "sleep", "1000"])
        .succeeds()
}

/// Ends at once on SIGTERM.
fn obedient(world: &World, name: &str) {
    world.background(
        name,
        &[],
        &[
            "sh",
            "-c",
            "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done",
        ],
    );
    world.wait_for_log(name, "up");
}

fn created_started_stopped_started_removed(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create",
            "--name",
            "n",
            &image,
            "sh",
            "-c",
            "echo run; trap 'exit 0' TERM; while :; do sleep 0.05; done",
        ])
        .succeeds();
    assert_eq!(world.status("n"), "created");
    for round in 1..=2 {
        assert_eq!(world.isle(["start", "n"]).succeeds(), "n");
        wait_for("it runs", || {
            world.isle(["logs", "n"]).succeeds() == vec!["run"; round].join("\n")
        });
        assert_eq!(world.status("n"), "running");
        assert_eq!(world.isle(["stop", "n"]).succeeds(), "n");
        assert_eq!(world.status("n"), "exited");
    }
    assert_eq!(world.isle(["rm", "n"]).succeeds(), "n");
    world.isle(["inspect", "n"]).exits_with(1);
}

fn stop_asks_first_and_kills_later(world: &World) {
    obedient(world, "good");
    let begin = Instant::now();
    world.isle(["stop", "good"]).succeeds();
    assert!(begin.elapsed() < Duration::from_secs(8));
    assert_eq!(world.isle(["wait", "good"]).succeeds(), "0");
    // sleep as the first process does not see SIGTERM, which has no handler.
    sleeper(world, "deaf");
    world.isle(["stop", "-t", "1", "deaf"]).succeeds();
    assert_eq!(world.isle(["wait", "deaf"]).succeeds(), "137");
}

fn the_stop_signal_and_time_out_can_be_chosen(world: &World) {
    world.background(
        "n",
        &["--stop-signal", "SIGUSR1", "--stop-timeout", "20"],
        &[
            "sh",
            "-c",
            "trap 'exit 33' USR1; echo up; while :; do sleep 0.05; done",
        ],
    );
    world.wait_for_log("n", "up");
    world.isle(["stop", "n"]).succeeds();
    assert_eq!(world.isle(["wait", "n"]).succeeds(), "33");
    let config = &world.inspect("n")["Config"];
    assert!(
        config["StopSignal"] == "SIGUSR1" || config["StopSignal"] == 10,
        "{config}"
    );
}

fn stop_twice_and_start_twice_are_harmless(world: &World) {
    obedient(world, "n");
    world.isle(["start", "n"]).succeeds();
    let pid = world.inspect("n")["State"]["Pid"].clone();
    world.isle(["start", "n"]).succeeds();
    assert_eq!(world.inspect("n")["State"]["Pid"], pid);
    world.isle(["stop", "n"]).succeeds();
    world.isle(["stop", "n"]).succeeds();
    assert_eq!(world.status("n"), "exited");
}

fn kill_of_a_stopped_instance_is_refused(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--name", "n", &image, "true"])
        .succeeds();
    let outcome = world.isle(["kill", "n"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    let outcome = world.isle(["pause", "n"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    let outcome = world.isle(["exec", "n", "true"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    let outcome = world.isle(["kill", "-s", "NOPE", "n"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
}

fn a_paused_instance_does_nothing_until_it_is_resumed(world: &World) {
    world.background(
        "n",
        &[],
        &[
            "sh",
            "-c",
            "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done",
        ],
    );
    world.wait_for_log("n", "2");
    world.isle(["pause", "n"]).succeeds();
    assert_eq!(world.status("n"), "paused");
    let count = || world.isle(["logs", "n"]).succeeds().lines().count();
    // What was written before is in the log once two looks agree.
    let mut before = count();
    wait_for("the log stands still", || {
        let now = count();
        std::mem::replace(&mut before, now) == now
    });
    let outcome = world.isle(["pause", "n"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    world.isle(["unpause", "n"]).succeeds();
    assert_eq!(world.status("n"), "running");
    wait_for("it goes on", || count() > before);
    // A paused instance can be removed by force.
    world.isle(["pause", "n"]).succeeds();
    world.isle(["rm", "-f", "n"]).succeeds();
}

fn a_running_instance_is_removed_only_by_force(world: &World) {
    sleeper(world, "n");
    let outcome = world.isle(["rm", "n"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert_eq!(world.status("n"), "running");
    world.isle(["rm", "-f", "n"]).succeeds();
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

fn unknown_instances_are_named_and_the_others_still_done(world: &World) {
    let image = world.busybox();
    world.isle(["create", "--name", "a", &image]).succeeds();
    world.isle(["create", "--name", "b", &image]).succeeds();
    let outcome = world.isle(["rm", "a", "nosuch", "b"]).exits_with(1);
    outcome.complains("nosuch");
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
    for verb in [
        "start", "stop", "kill", "restart", "pause", "unpause", "wait", "logs", "top", "port",
    ] {
        if verb == "port" {
            continue;
        }
        let outcome = world.isle([verb, "nosuch"]).run();
        assert_ne!(outcome.code(), 0, "{outcome}");
        outcome.complains("nosuch");
    }
}

fn an_instance_is_found_by_name_id_and_unique_prefix(world: &World) {
    let image = world.busybox();
    let id = world.isle(["create", "--name", "n", &image]).succeeds();
    for word in ["n", &id, &id[..12], &id[..6]] {
        let found = world
            .isle(["inspect", "--format", "{{.Id}}", word])
            .succeeds();
        assert_eq!(found, id);
    }
}

fn rename_moves_the_name(world: &World) {
    let image = world.busybox();
    // No id begins like these.
    world.isle(["create", "--name", "old", &image]).succeeds();
    world.isle(["create", "--name", "taken", &image]).succeeds();
    world.isle(["rename", "old", "new"]).succeeds();
    assert_eq!(world.status("new"), "created");
    assert_eq!(world.status("old"), "");
    let outcome = world.isle(["rename", "new", "taken"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
}

fn wait_prints_the_exit_code_of_each(world: &World) {
    world.background("a", &[], &["sh", "-c", "sleep 0.3; exit 3"]);
    world.background("b", &[], &["true"]);
    assert_eq!(world.isle(["wait", "a", "b"]).succeeds(), "3\n0");
}

fn restart_always_starts_again_until_stopped(world: &World) {
    world.background(
        "n",
        &["--restart", "always"],
        &["sh", "-c", "echo once; sleep 0.05"],
    );
    wait_for("it ran three times", || {
        world.isle(["logs", "n"]).succeeds().lines().count() >= 3
    });
    world.isle(["stop", "n"]).succeeds();
    assert_eq!(world.status("n"), "exited");
    let count = world.isle(["logs", "n"]).succeeds().lines().count();
    // Nothing is left that would start it: the supervisor of a stopped instance has ended.
    world.isle(["wait", "n"]).succeeds();
    assert_eq!(world.isle(["logs", "n"]).succeeds().lines().count(), count);
}

fn restart_on_failure_gives_up_after_so_many(world: &World) {
    world.background(
        "n",
        &["--restart", "on-failure:2"],
        &["sh", "-c", "echo try; exit 5"],
    );
    wait_for("it has given up", || {
        world.status("n") == "exited" && world.isle(["logs", "n"]).succeeds().lines().count() == 3
    });
    assert_eq!(world.inspect("n")["RestartCount"], 2);
    assert_eq!(world.isle(["wait", "n"]).succeeds(), "5");
    world.background("ok", &["--restart", "on-failure"], &["true"]);
    world.wait_for_status("ok", "exited");
    assert_eq!(world.inspect("ok")["RestartCount"], 0);
}

fn restart_is_refused_together_with_rm(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--rm", "--restart", "always", &image, "true"])
        .exits_with(125);
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

fn ps_shows_what_docker_shows(world: &World) {
    sleeper(world, "up");
    world.script(&["--name", "down"], "exit 3").exits_with(3);
    let running = world.isle(["ps"]).succeeds();
    let header = running.lines().next().unwrap_or_default();
    for column in [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ] {
        assert!(header.contains(column), "{header}");
    }
    assert!(
        running.contains("Up ") && !running.contains("down"),
        "{running}"
    );
    let all = world.isle(["ps", "-a"]).succeeds();
    assert!(all.contains("Exited (3)"), "{all}");
}

fn ps_formats_and_filters(world: &World) {
    sleeper(world, "one");
    let image = world.busybox();
    world
        .isle(["create", "--name", "two", "-l", "x=y", &image])
        .succeeds();
    let ask = |arguments: &[&str]| {
        let mut all = vec!["ps", "-a", "--format", "{{.Names}}"];
        all.extend(arguments);
        world.isle(all).succeeds()
    };
    // Newest first.
    assert_eq!(ask(&[]), "two\none");
    assert_eq!(ask(&["--filter", "status=running"]), "one");
    assert_eq!(ask(&["--filter", "name=tw"]), "two");
    assert_eq!(ask(&["--filter", "label=x"]), "two");
    assert_eq!(ask(&["--filter", "ancestor=busybox"]), "two\none");
    assert_eq!(ask(&["--filter", "status=exited"]), "");
    let outcome = world.isle(["ps", "--filter", "colour=red"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    let outcome = world
        .isle(["ps", "-a", "--format", "{{.NoSuchField}}"])
        .run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert_eq!(
        world
            .isle([
                "ps",
                "-a",
                "--format",
                "{{.Names}}\t{{.Image}}",
                "-f",
                "name=one"
            ])
            .succeeds()
            .split('\t')
            .next(),
        Some("one")
    );
}

fn events_tell_what_happened(world: &World) {
    world.script(&["--name", "n"], "exit 2").exits_with(2);
    world.isle(["rm", "n"]).succeeds();
    let text = world
        .isle([
            "events",
            "--since",
            "10m",
            "--until",
            "0s",
            "--format",
            "{{.Action}}",
        ])
        .succeeds();
    let actions: Vec<&str> = text.lines().collect();
    let mut at = 0;
    for action in ["create", "start", "die", "destroy"] {
        let found = actions[at..].iter().position(|seen| *seen == action);
        at += found.unwrap_or_else(|| panic!("no {action} after {at} in {actions:?}"));
    }
}

fn top_lists_the_processes(world: &World) {
    sleeper(world, "n");
    let text = world.isle(["top", "n"]).succeeds();
    assert!(
        text.contains("PID") && text.contains("sleep 1000"),
        "{text}"
    );
    let text = world.isle(["top", "n", "-eo", "pid,comm"]).succeeds();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[3]), ("PID", "COMMAND", "sleep"));
    assert_eq!(words.len(), 4, "{text}");
    let text = world.isle(["top", "n", "aux"]).succeeds();
    assert!(
        text.contains("RSS") && text.contains("sleep 1000"),
        "{text}"
    );
    world.isle(["top", "n", "-eo", "comm"]).exits_with(1);
}

fn start_with_attach_gives_output_and_exit_code(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create",
            "--name",
            "n",
            &image,
            "sh",
            "-c",
            "echo hello; exit 9",
        ])
        .succeeds();
    let outcome = world.isle(["start", "-a", "n"]).exits_with(9);
    assert_eq!(outcome.stdout(), "hello\n");
    world
        .isle(["create", "-i", "--name", "m", &image, "cat"])
        .succeeds();
    let outcome = world
        .isle(["start", "-a", "-i", "m"])
        .stdin("in\n")
        .exits_with(0);
    assert_eq!(outcome.stdout(), "in\n");
}

fn update_changes_limits_of_a_running_instance(world: &World) {
    sleeper(world, "n");
    world
        .isle([
            "update",
            "--memory",
            "96m",
            "--memory-swap",
            "96m",
            "--restart",
            "on-failure:1",
            "n",
        ])
        .succeeds();
    let host = &world.inspect("n")["HostConfig"];
    assert_eq!(host["Memory"], 96 << 20);
    let limit = world
        .isle(["exec", "n", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"])
        .succeeds();
    assert_eq!(limit, (96 << 20).to_string());
}

fn prune_removes_what_is_stopped(world: &World) {
    sleeper(world, "up");
    let image = world.busybox();
    world
        .isle(["run", "--name", "down", &image, "true"])
        .succeeds();
    world.isle(["container", "prune", "-f"]).succeeds();
    assert_eq!(
        world
            .isle(["ps", "-a", "--format", "{{.Names}}"])
            .succeeds(),
        "up"
    );
}

fn a_supervisor_says_nothing_to_the_terminal_that_started_it(world: &World) {
    // `run -d` returns and nobody holds its output open: `succeeds` would wait for the end of it.
    let begin = Instant::now();
    sleeper(world, "n");
    assert!(begin.elapsed() < Duration::from_secs(20));
}
