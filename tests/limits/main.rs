//! Limits: memory, processes, CPU, descriptors, files. What neighbours and supervisor must not feel.

#![forbid(unsafe_code)]

use isle_tests::{Level, Need, World, wait_for};

isle_tests::stories! {
    out_of_memory_is_137_and_said_so [Need::CgroupMemory],
    lack_of_memory_is_told_when_it_happens [Need::Isle, Need::CgroupMemory],
    the_memory_limit_is_the_kernels [Need::CgroupMemory],
    a_fork_bomb_stays_inside [Need::CgroupPids],
    cpu_limits_are_the_kernels [Need::CgroupCpu, Need::Only(Level::Container)],
    resource_limits_are_as_asked [Need::Isle],
    shared_memory_has_the_size_asked_for,
    a_tmpfs_that_is_full_is_full_inside_only,
    // Of a virtual machine: machines, `a_full_disk_is_full_inside_only`.
    a_writable_layer_has_the_size_asked_for [Need::Isle, Need::ProjectQuotas, Need::Only(Level::Container)],
    a_volume_has_the_size_asked_for [Need::Isle, Need::ProjectQuotas],
    a_size_that_cannot_be_enforced_is_refused [Need::Isle, Need::Only(Level::Container)],
    stats_show_what_is_used [Need::CgroupMemory],
    the_oom_score_is_as_asked,
}

fn out_of_memory_is_137_and_said_so(world: &World) {
    let image = world.busybox();
    // tail keeps its last line, which never ends, in memory.
    world
        .isle([
            "run",
            "--name",
            "n",
            "-m",
            "32m",
            "--memory-swap",
            "32m",
            &image,
            "tail",
            "/dev/zero",
        ])
        .exits_with(137);
    let state = &world.inspect("n")["State"];
    assert_eq!(state["OOMKilled"], true, "{state}");
    assert_eq!(state["ExitCode"], 137);
}

fn lack_of_memory_is_told_when_it_happens(world: &World) {
    let image = world.busybox();
    // The one that is killed is not the first process, which goes on.
    let script = "tail /dev/zero; echo survived; sleep 1000";
    world
        .isle([
            "run",
            "-d",
            "--name",
            "n",
            "-m",
            "32m",
            "--memory-swap",
            "32m",
        ])
        .arguments([&image, "sh", "-c", script])
        .succeeds();
    world.wait_for_log("n", "survived");
    wait_for("the event", || {
        world
            .isle(["events", "--since", "0", "--until", "0s"])
            .arguments([
                "--filter",
                "event=oom",
                "--format",
                "{{.Actor.Attributes.name}}",
            ])
            .succeeds()
            == "n"
    });
    assert_eq!(world.status("n"), "running");
}

fn the_memory_limit_is_the_kernels(world: &World) {
    let limit = world.script(&["--rm", "-m", "64m"], "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
        .succeeds();
    assert_eq!(limit, (64 << 20).to_string());
}

fn a_fork_bomb_stays_inside(world: &World) {
    let image = world.busybox();
    world.background(
        "bomb",
        &["--pids-limit", "40"],
        &[
            "sh",
            "-c",
            "for i in $(seq 1 200); do sleep 1000 & done; echo full; sleep 1000",
        ],
    );
    wait_for("the limit is reached", || {
        let outcome = world.isle(["logs", "bomb"]).run();
        (outcome.stderr() + &outcome.stdout()).contains("fork")
    });
    // A neighbour can still be started, and the bomb removed.
    world.isle(["run", "--rm", &image, "true"]).exits_with(0);
    world.isle(["rm", "-f", "bomb"]).succeeds();
}

fn cpu_limits_are_the_kernels(world: &World) {
    let text = world.script(&["--rm", "--cpus", "0.5", "--cpu-shares", "512"], "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/cpu.max")
        .succeeds();
    assert!(text == "50000\n512" || text == "50000 100000", "{text}");
}

fn resource_limits_are_as_asked(world: &World) {
    let text = world
        .script(
            &["--rm", "--ulimit", "nofile=64:128", "--ulimit", "core=0"],
            "ulimit -n; ulimit -Hn; ulimit -c",
        )
        .succeeds();
    assert_eq!(text, "64\n128\n0");
}

fn shared_memory_has_the_size_asked_for(world: &World) {
    let image = world.busybox();
    let size = |arguments: &[&str]| {
        let mut all = vec!["run", "--rm"];
        all.extend(arguments);
        all.extend([
            image.as_str(),
            "sh",
            "-c",
            "df -k /dev/shm | tail -1 | awk '{print $2}'",
        ]);
        world.isle(all).succeeds()
    };
    assert_eq!(size(&[]), (64 << 10).to_string());
    assert_eq!(size(&["--shm-size", "8m"]), (8 << 10).to_string());
}

fn a_tmpfs_that_is_full_is_full_inside_only(world: &World) {
    let outcome = world
        .script(
            &["--rm", "--tmpfs", "/t:size=1m"],
            "head -c 2000000 /dev/zero > /t/x; echo code $?",
        )
        .exits_with(0);
    outcome.prints("code 1");
}

/// A state root on an ext4 with project quotas, until it is dropped.
struct LimitedRoot(std::path::PathBuf);

impl LimitedRoot {
    fn mount(world: &World) -> LimitedRoot {
        let image = world.file("ext4", "");
        let root = world.root();
        let script = format!(
            "truncate -s 128M {image} && mkfs.ext4 -q -O quota,project {image} && \
             mount -o loop,prjquota {image} {}",
            root.display()
        );
        let made = std::process::Command::new("sh")
            .args(["-ec", &script])
            .status();
        assert!(made.is_ok_and(|status| status.success()), "{script}");
        LimitedRoot(root)
    }
}

impl Drop for LimitedRoot {
    fn drop(&mut self) {
        // What still uses it keeps it: the framework finds that.
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

fn a_writable_layer_has_the_size_asked_for(world: &World) {
    let root = LimitedRoot::mount(world);
    let image = world.busybox();
    let limited = |size: &str, script: &str| {
        world
            .isle(["run", "--rm", "--storage-opt", size, &image, "sh", "-c"])
            .arguments([script])
            .run()
    };
    let fill = "dd if=/dev/zero of=/big bs=1M count=20; du -k /big";
    let outcome = limited("size=5m", fill);
    outcome.complains("quota exceeded");
    let text = outcome.stdout();
    let kib: u64 = text
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .expect("du prints a number");
    assert!((4000..=5 << 10).contains(&kib), "{outcome}");
    // What is copied up from the image counts; a volume does not; nor does another instance.
    let copied = "cp /bin/busybox /bin/other && cat /bin/busybox >> /bin/other";
    assert_eq!(limited("size=5m", copied).code(), 0);
    world
        .isle([
            "run",
            "--rm",
            "--storage-opt",
            "size=5m",
            "-v",
            "/data",
            &image,
        ])
        .arguments(["dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=20"])
        .exits_with(0);
    world
        .isle([
            "create",
            "--name",
            "n",
            "--storage-opt",
            "size=5m",
            &image,
            "sh",
            "-c",
            fill,
        ])
        .succeeds();
    for _ in 0..2 {
        world
            .isle(["start", "-a", "n"])
            .run()
            .complains("quota exceeded");
    }
    world.isle(["rm", "n"]).succeeds();
    world.isle(["rmi", &image]).succeeds();
    drop(root);
}

fn a_volume_has_the_size_asked_for(world: &World) {
    let root = LimitedRoot::mount(world);
    world
        .isle(["volume", "create", "--opt", "size=4m", "small"])
        .succeeds();
    let image = world.busybox();
    for (megabytes, code) in [("2", 0), ("4", 1)] {
        let count = format!("count={megabytes}");
        world
            .isle(["run", "--rm", "-v", "small:/d", &image])
            .arguments(["dd", "if=/dev/zero", "of=/d/file", "bs=1M", &count])
            .exits_with(code);
    }
    world.isle(["volume", "rm", "small"]).succeeds();
    world.isle(["rmi", &image]).succeeds();
    drop(root);
}

fn a_size_that_cannot_be_enforced_is_refused(world: &World) {
    let image = world.busybox();
    let outcome = world
        .isle([
            "run",
            "--rm",
            "--storage-opt",
            "size=5m",
            "--tmpfs",
            "/x",
            &image,
        ])
        .arguments(["true"])
        .run();
    match outcome.code() {
        // /var/tmp of this host can.
        0 => {}
        code => {
            assert_eq!(code, 125);
            outcome.complains("prjquota");
        }
    }
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

fn stats_show_what_is_used(world: &World) {
    world.background("n", &["-m", "64m"], &["sleep", "1000"]);
    let text = world.isle(["stats", "--no-stream", "n"]).succeeds();
    assert!(text.contains("CPU %") && text.contains("PIDS"), "{text}");
    assert!(text.contains("64MiB") || text.contains("67.1"), "{text}");
}

fn the_oom_score_is_as_asked(world: &World) {
    let image = world.busybox();
    let score = world
        .isle([
            "run",
            "--rm",
            "--oom-score-adj",
            "321",
            &image,
            "cat",
            "/proc/self/oom_score_adj",
        ])
        .succeeds();
    assert_eq!(score, "321");
}
