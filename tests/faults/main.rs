//! Faults: killed supervisors and clients, full disks, roots that cannot be used. After each, the state
//! tells the truth and nothing is left.

#![forbid(unsafe_code)]

use std::fs;
use std::time::Duration;

use isle_tests::{Invocation, Need, World, wait_for};
use rustix::process::{Pid, Signal, kill_process};

isle_tests::stories! {
    after_kill_of_a_supervisor_the_state_tells_the_truth [Need::Isle],
    after_kill_of_a_supervisor_the_instance_can_be_started_again [Need::Isle],
    a_killed_client_does_not_end_a_detached_instance [Need::Isle],
    a_killed_client_of_a_foreground_instance_leaves_it_to_its_supervisor [Need::Isle],
    kills_at_every_moment_of_run_leave_nothing [Need::Isle],
    a_full_disk_is_said_and_leaves_nothing [Need::Isle],
    a_root_that_cannot_be_used_is_named [Need::Isle],
    a_damaged_state_file_is_named [Need::Isle],
    a_failed_start_leaves_nothing_running [Need::Isle],
    many_clients_at_once_agree [Need::Isle],
}

fn kill(pid: i64) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid");
    kill_process(pid, Signal::KILL).expect("it is there");
}

fn pid(world: &World, name: &str) -> i64 {
    world.inspect(name)["State"]["Pid"]
        .as_i64()
        .expect("it runs")
}

/// A process that nobody has waited for yet is dead all the same.
fn is_alive(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn supervisor(world: &World, name: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid(world, name))).expect("it runs");
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .expect("a parent");
    let parent: i64 = parent.trim().parse().expect("a number");
    let comm = fs::read_to_string(format!("/proc/{parent}/comm")).expect("it runs");
    assert_eq!(comm.trim(), "isle-shim");
    parent
}

fn sleeper(world: &World, name: &str) {
    world.background(name, &[], &["sleep", "1000"]);
}

fn after_kill_of_a_supervisor_the_state_tells_the_truth(world: &World) {
    sleeper(world, "n");
    let first = pid(world, "n");
    kill(supervisor(world, "n"));
    // Either it runs on, under a new supervisor, or it has ended; never "running" without a process.
    wait_for("the state is true", || {
        let is_alive = is_alive(first);
        match world.status("n").as_str() {
            "running" => is_alive,
            "exited" => !is_alive,
            _ => false,
        }
    });
    let outcome = world.isle(["stop", "-t", "0", "n"]).run();
    assert_eq!(outcome.code(), 0, "{outcome}");
    wait_for("it has ended", || world.status("n") == "exited");
    wait_for("its process is gone", || !is_alive(first));
    world.isle(["rm", "n"]).succeeds();
}

fn after_kill_of_a_supervisor_the_instance_can_be_started_again(world: &World) {
    sleeper(world, "n");
    let (first, guard) = (pid(world, "n"), supervisor(world, "n"));
    kill(guard);
    kill(first);
    wait_for("the end is noticed", || world.status("n") == "exited");
    world.isle(["start", "n"]).succeeds();
    assert_eq!(world.status("n"), "running");
    assert_ne!(pid(world, "n"), first);
    world.isle(["exec", "n", "true"]).exits_with(0);
}

fn a_killed_client_does_not_end_a_detached_instance(world: &World) {
    sleeper(world, "n");
    let mut running = world.isle(["attach", "n"]).spawn();
    wait_for("it is attached", || !running.has_ended());
    running.signal(Signal::KILL);
    let _ = running.wait();
    assert_eq!(world.status("n"), "running");
    world.isle(["exec", "n", "true"]).exits_with(0);
}

fn a_killed_client_of_a_foreground_instance_leaves_it_to_its_supervisor(world: &World) {
    let running = world
        .script(
            &["--name", "n"],
            "echo up; until [ -e /go ]; do sleep 0.02; done; echo more; sleep 0.3; exit 4",
        )
        .spawn();
    running.wait_for_output("up");
    running.signal(Signal::KILL);
    let _ = running.wait();
    assert_eq!(world.status("n"), "running");
    world.isle(["exec", "n", "touch", "/go"]).succeeds();
    assert_eq!(world.isle(["wait", "n"]).succeeds(), "4");
    assert_eq!(world.isle(["logs", "n"]).succeeds(), "up\nmore");
}

fn kills_at_every_moment_of_run_leave_nothing(world: &World) {
    let image = world.busybox();
    // What is made once is there: that its makers can be killed is shown elsewhere.
    world.isle(["run", "--rm", &image, "true"]).succeeds();
    for delay_us in (0..30_000).step_by(1_500) {
        let running = world.isle(["run", "--rm", &image, "true"]).spawn();
        std::thread::sleep(Duration::from_micros(delay_us));
        running.signal(Signal::KILL);
        let _ = running.wait();
    }
    // What was only created stays, as after a killed `create`; all else is gone or ends by itself.
    wait_for("nothing runs", || {
        world.isle(["ps", "-q"]).succeeds().is_empty()
    });
    world.isle(["run", "--rm", &image, "true"]).exits_with(0);
}

fn a_full_disk_is_said_and_leaves_nothing(world: &World) {
    let image = world.busybox();
    let archive = world
        .files()
        .join("busybox.tar")
        .to_string_lossy()
        .into_owned();
    world.isle(["save", "-o", &archive, &image]).succeeds();
    // A root of one and a half MiB: the layer does not fit. A mount namespace of its own keeps the
    // mount away from the host.
    let script = r#"
mount -t tmpfs -o size=1500k none "$1" || exit 99
export ISLE_ROOT="$1" ISLE_RUN="$1/run"
"$2" load -i "$3"; echo "load: $?"
"$2" images -q; echo "images: $?"
find "$1/blobs" "$1/layers" "$1/tmp" -type f 2>/dev/null | wc -l
"#;
    let root = world.files().join("small");
    fs::create_dir(&root).expect("own folder");
    let program = std::env::var("ISLE_BIN").unwrap_or_else(|_| {
        world
            .isle(["version"])
            .text()
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    let mut command = std::process::Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(&root)
        .args([program, archive]);
    let outcome = Invocation::new(command).run();
    assert_eq!(outcome.code(), 0, "{outcome}");
    let text = outcome.stdout();
    assert!(!text.contains("load: 0"), "{outcome}");
    assert!(text.contains("images: 0"), "{outcome}");
    assert!(
        text.trim_end().ends_with("\n0"),
        "files are left: {outcome}"
    );
    outcome.complains("no space left");
}

fn a_root_that_cannot_be_used_is_named(world: &World) {
    let file = world.file("not-a-folder", "");
    let outcome = world
        .isle(["run", "--rm", "busybox", "true"])
        .env("ISLE_ROOT", &file)
        .run();
    assert_eq!(outcome.code(), 125, "{outcome}");
    outcome.complains(&file);
    let outcome = world.isle(["ps"]).env("ISLE_ROOT", "/proc/nowhere").run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    outcome.complains("/proc/nowhere");
}

fn a_damaged_state_file_is_named(world: &World) {
    world.busybox();
    let root = world.files().join("damaged");
    fs::create_dir(&root).expect("own folder");
    fs::write(root.join("isle.db"), b"this is not a database ".repeat(500)).expect("own folder");
    let outcome = world
        .isle(["ps"])
        .env("ISLE_ROOT", &root)
        .env("ISLE_RUN", root.join("run"))
        .run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    outcome.complains("isle.db");
    assert!(!outcome.stderr().contains("panicked"), "{outcome}");
}

fn a_failed_start_leaves_nothing_running(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "n", &image, "no-such-program"])
        .succeeds();
    for _ in 0..3 {
        let outcome = world.isle(["start", "n"]).run();
        assert_ne!(outcome.code(), 0, "{outcome}");
        let state = &world.inspect("n")["State"];
        assert_eq!(state["ExitCode"], 127, "{state}");
        assert!(
            state["Error"]
                .as_str()
                .is_some_and(|text| text.contains("no-such-program")),
            "{state}"
        );
        assert_eq!(state["Running"], false);
    }
}

fn many_clients_at_once_agree(world: &World) {
    sleeper(world, "n");
    let running: Vec<_> = (0..16)
        .map(|number| match number % 4 {
            0 => world.isle(["stop", "-t", "0", "n"]).spawn(),
            1 => world.isle(["start", "n"]).spawn(),
            2 => world.isle(["ps", "-a"]).spawn(),
            _ => world.isle(["inspect", "n"]).spawn(),
        })
        .collect();
    for running in running {
        let outcome = running.wait();
        assert!(!outcome.stderr().contains("panicked"), "{outcome}");
    }
    let names: Vec<_> = (0..8)
        .map(|_| world.isle(["create", "--name", "same", "busybox"]).spawn())
        .collect();
    let codes: Vec<i32> = names
        .into_iter()
        .map(|running| running.wait().code())
        .collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
}
