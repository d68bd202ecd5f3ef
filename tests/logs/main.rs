//! `logs`: what was written, when, by which stream; following; rotation.

#![forbid(unsafe_code)]

use isle_tests::{Need, World, wait_for};

isle_tests::stories! {
    both_streams_are_kept_apart,
    following_ends_with_the_instance,
    the_last_lines_and_those_since_a_time [Need::Isle],
    timestamps_are_rfc3339,
    a_log_is_rotated_and_bounded [Need::Isle],
    the_log_file_is_dockers_json_file [Need::Isle],
    without_a_log_logs_says_so [Need::Isle],
    a_log_flood_does_not_stop_the_program [Need::Isle],
    lines_of_all_lengths_come_back_whole,
}

fn both_streams_are_kept_apart(world: &World) {
    world
        .script(&["--name", "n"], "echo out; echo err >&2; printf last")
        .exits_with(0);
    let outcome = world.isle(["logs", "n"]).exits_with(0);
    assert_eq!(outcome.stdout(), "out\nlast");
    assert_eq!(outcome.stderr(), "err\n");
}

fn following_ends_with_the_instance(world: &World) {
    world.background(
        "n",
        &[],
        &[
            "sh",
            "-c",
            "echo first; until [ -e /go ]; do sleep 0.02; done; echo second",
        ],
    );
    let follower = world.isle(["logs", "-f", "n"]).spawn();
    follower.wait_for_output("first");
    // It may be ended with the instance, which it makes end.
    let _ = world.isle(["exec", "n", "touch", "/go"]).run();
    let outcome = follower.wait();
    assert_eq!(outcome.code(), 0);
    assert_eq!(outcome.stdout(), "first\nsecond\n");
}

fn the_last_lines_and_those_since_a_time(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--name", "n", &image, "seq", "1", "100"])
        .exits_with(0);
    assert_eq!(
        world.isle(["logs", "--tail", "2", "n"]).succeeds(),
        "99\n100"
    );
    assert_eq!(world.isle(["logs", "--tail", "0", "n"]).succeeds(), "");
    assert_eq!(
        world
            .isle(["logs", "--tail", "all", "n"])
            .succeeds()
            .lines()
            .count(),
        100
    );
    assert_eq!(
        world
            .isle(["logs", "--since", "10m", "n"])
            .succeeds()
            .lines()
            .count(),
        100
    );
    assert_eq!(
        world
            .isle(["logs", "--since", "2099-01-01T00:00:00Z", "n"])
            .succeeds(),
        ""
    );
    assert_eq!(
        world
            .isle(["logs", "--until", "2001-01-01T00:00:00Z", "n"])
            .succeeds(),
        ""
    );
    let outcome = world.isle(["logs", "--since", "yesterday-ish", "n"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
}

fn timestamps_are_rfc3339(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--name", "n", &image, "echo", "x"])
        .exits_with(0);
    let line = world.isle(["logs", "-t", "n"]).succeeds();
    let (time, text) = line.split_once(' ').expect("a time and a text");
    assert_eq!(text, "x");
    assert!(
        time.starts_with("20") && time.as_bytes()[10] == b'T' && time.len() >= 20,
        "{time}"
    );
}

fn a_log_is_rotated_and_bounded(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "run",
            "--name",
            "n",
            "--log-opt",
            "max-size=20k",
            "--log-opt",
            "max-file=3",
            &image,
            "seq",
            "1",
            "20000",
        ])
        .exits_with(0);
    let text = world.isle(["logs", "n"]).succeeds();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"20000"));
    // Older files are gone; what is left is a run without a gap.
    let first: u32 = lines[0].parse().expect("a number");
    assert!(first > 1, "nothing was dropped");
    assert_eq!(lines.len(), (20000 - first + 1) as usize);
    let total: u64 = walk(&world.root())
        .iter()
        .filter(|path| is_log(path))
        .map(|path| std::fs::symlink_metadata(path).map_or(0, |data| data.len()))
        .sum();
    assert!(total < 100 << 10, "{total} bytes of logs");
}

fn the_log_file_is_dockers_json_file(world: &World) {
    world
        .script(&["--name", "n"], "echo out; echo 'e\"r' >&2")
        .exits_with(0);
    let path = world.inspect("n")["LogPath"]
        .as_str()
        .expect("a path")
        .to_owned();
    let text = std::fs::read_to_string(path).expect("the log can be read");
    let entries: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(entries.len(), 2);
    let of = |stream: &str| {
        entries
            .iter()
            .find(|entry| entry["stream"] == stream)
            .expect("both streams")
            .clone()
    };
    assert_eq!(of("stdout")["log"], "out\n");
    assert_eq!(of("stderr")["log"], "e\"r\n");
    assert!(
        entries[0]["time"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
}

fn without_a_log_logs_says_so(world: &World) {
    let image = world.busybox();
    let outcome = world
        .isle([
            "run",
            "--name",
            "n",
            "--log-driver",
            "none",
            &image,
            "echo",
            "x",
        ])
        .exits_with(0);
    assert_eq!(outcome.stdout(), "x\n");
    let outcome = world.isle(["logs", "n"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    outcome.complains("none");
}

fn a_log_flood_does_not_stop_the_program(world: &World) {
    // 20 MB through a log of 3 MB at most.
    world
        .script(
            &[
                "-d",
                "--name",
                "n",
                "--log-opt",
                "max-size=1m",
                "--log-opt",
                "max-file=3",
            ],
            "yes 0123456789012345678901234567890123456789 | head -c 20000000; echo done >&2",
        )
        .succeeds();
    wait_for("the program has ended", || world.status("n") == "exited");
    assert_eq!(world.isle(["wait", "n"]).succeeds(), "0");
    let total: u64 = walk(&world.root())
        .iter()
        .filter(|path| is_log(path))
        .map(|path| std::fs::symlink_metadata(path).map_or(0, |data| data.len()))
        .sum();
    assert!(total < 4 << 20, "{total} bytes");
}

fn lines_of_all_lengths_come_back_whole(world: &World) {
    world
        .script(
            &["--name", "n"],
            "head -c 100000 /dev/zero | tr '\\0' x; echo; echo; echo end",
        )
        .exits_with(0);
    let text = world.isle(["logs", "n"]).succeeds();
    assert_eq!(text, format!("{}\n\nend", "x".repeat(100_000)));
}

/// A log of an instance, and nothing else that belongs to it.
fn is_log(path: &std::path::Path) -> bool {
    let path = path.to_string_lossy();
    path.contains("instances") && path.contains("-json.log")
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}
