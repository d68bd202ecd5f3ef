//! `exec`: a further process in a running instance.

#![forbid(unsafe_code)]

use isle_tests::{Need, World, wait_for};

isle_tests::stories! {
    exit_codes_are_those_of_the_program,
    streams_are_apart_and_input_is_passed,
    environment_directory_and_user_are_as_asked,
    it_is_in_every_namespace_of_the_instance,
    detached_it_goes_on_by_itself,
    it_ends_with_the_instance,
    many_at_once_do_not_mix,
    capabilities_and_limits_are_those_of_the_instance [Need::Isle],
}

fn sleeper(world: &World) {
    world.background("n", &["-e", "OWN=1", "-w", "/tmp"], &["sleep", "1000"]);
}

fn exit_codes_are_those_of_the_program(world: &World) {
    sleeper(world);
    world.isle(["exec", "n", "true"]).exits_with(0);
    world
        .isle(["exec", "n", "sh", "-c", "exit 42"])
        .exits_with(42);
    world.isle(["exec", "n", "no-such-program"]).exits_with(127);
    world.isle(["exec", "n", "/etc/passwd"]).exits_with(126);
    world
        .isle(["exec", "n", "sh", "-c", "kill -KILL $$"])
        .exits_with(137);
    assert_eq!(world.status("n"), "running");
}

fn streams_are_apart_and_input_is_passed(world: &World) {
    sleeper(world);
    let outcome = world
        .isle(["exec", "-i", "n", "sh", "-c", "cat; echo err >&2"])
        .stdin("in\n")
        .exits_with(0);
    assert_eq!(outcome.stdout(), "in\n");
    assert_eq!(outcome.stderr(), "err\n");
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let outcome = world
        .isle(["exec", "-i", "n", "cat"])
        .stdin(bytes.clone())
        .exits_with(0);
    assert!(outcome.stdout_bytes() == bytes);
}

fn environment_directory_and_user_are_as_asked(world: &World) {
    sleeper(world);
    let ask = |arguments: &[&str]| {
        let mut all = vec!["exec"];
        all.extend(arguments);
        all.extend(["n", "sh", "-c", "echo $OWN $GIVEN; pwd; id -u"]);
        world.isle(all).succeeds()
    };
    assert_eq!(ask(&[]), "1\n/tmp\n0");
    assert_eq!(
        ask(&["-e", "GIVEN=2", "-w", "/etc", "-u", "user"]),
        "1 2\n/etc\n1000"
    );
}

fn it_is_in_every_namespace_of_the_instance(world: &World) {
    sleeper(world);
    let script = "for n in mnt pid net ipc uts cgroup user; do readlink /proc/$1/ns/$n; done";
    let first = world
        .isle(["exec", "n", "sh", "-c", script, "x", "1"])
        .succeeds();
    let own = world
        .isle(["exec", "n", "sh", "-c", script, "x", "self"])
        .succeeds();
    assert_eq!(first, own);
    let cgroup = |pid: &str| {
        world
            .isle(["exec", "n", "cat", &format!("/proc/{pid}/cgroup")])
            .succeeds()
    };
    assert_eq!(cgroup("1"), cgroup("self"));
}

fn detached_it_goes_on_by_itself(world: &World) {
    sleeper(world);
    world
        .isle(["exec", "-d", "n", "sh", "-c", "echo was here > /mark"])
        .succeeds();
    wait_for("it has written", || {
        world.isle(["exec", "n", "cat", "/mark"]).run().stdout() == "was here\n"
    });
}

fn it_ends_with_the_instance(world: &World) {
    sleeper(world);
    let running = world
        .isle(["exec", "n", "sh", "-c", "echo up; sleep 1000"])
        .spawn();
    running.wait_for_output("up");
    world.isle(["kill", "n"]).succeeds();
    let outcome = running.wait();
    assert_eq!(outcome.code(), 137, "{outcome}");
}

fn many_at_once_do_not_mix(world: &World) {
    sleeper(world);
    let running: Vec<_> = (0..12)
        .map(|number| {
            let text = format!("seq {number}000 {number}999; exit {number}");
            world.isle(["exec", "n", "sh", "-c", &text]).spawn()
        })
        .collect();
    for (number, running) in running.into_iter().enumerate() {
        let outcome = running.wait();
        assert_eq!(outcome.code(), number as i32, "{outcome}");
        let text = outcome.stdout();
        let expected: String = (0..1000)
            .map(|line| format!("{}\n", number * 1000 + line))
            .collect();
        assert!(text == expected, "{number}: {} bytes", text.len());
    }
}

fn capabilities_and_limits_are_those_of_the_instance(world: &World) {
    world.background(
        "n",
        &[
            "--cap-drop",
            "ALL",
            "--cap-add",
            "CHOWN",
            "--ulimit",
            "nofile=100:200",
        ],
        &["sleep", "1000"],
    );
    let text = world
        .isle([
            "exec",
            "n",
            "sh",
            "-c",
            "grep Cap /proc/self/status; ulimit -n; ulimit -Hn",
        ])
        .succeeds();
    assert!(text.contains("CapBnd:\t0000000000000001"), "{text}");
    assert!(text.contains("CapEff:\t0000000000000001"), "{text}");
    assert!(text.contains("CapInh:\t0000000000000000"), "{text}");
    assert!(text.ends_with("100\n200"), "{text}");
}
