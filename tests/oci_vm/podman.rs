//! Under Podman.

use std::fs;

use isle_tests::peers::Podman;
use isle_tests::{Invocation, World, wait_for};

struct Scene<'a> {
    world: &'a World,
    podman: Podman,
}

impl<'a> Scene<'a> {
    fn new(world: &'a World) -> Scene<'a> {
        let podman = Podman::new(&world.files().join("podman"), &world.oci_for_engines());
        let scene = Scene { world, podman };
        scene
            .podman(["import", "--quiet", &world.archive("busybox"), "bb"])
            .succeeds();
        scene
    }

    fn podman<'b>(&self, arguments: impl IntoIterator<Item = &'b str>) -> Invocation {
        Invocation::new(self.podman.command(arguments))
    }
}

pub fn it_runs_copies_executes_and_stops(world: &World) {
    let scene = Scene::new(world);
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let none = ["run", "--rm", "--network", "none", "bb"];
    let outcome = scene
        .podman(none)
        .arguments(["sh", "-c", "uname -r; echo e >&2; exit 6"])
        .exits_with(6);
    assert_ne!(outcome.stdout(), host);
    assert!(outcome.stderr().contains("e\n"));
    let folder = world.files().join("volume");
    fs::create_dir(&folder).unwrap();
    let volume = format!("{}:/v", folder.display());
    scene
        .podman([
            "run",
            "-d",
            "--name",
            "a",
            "--network",
            "none",
            "-m",
            "128m",
            "-v",
            &volume,
            "bb",
            "sh",
            "-c",
        ])
        .arguments(["echo up; touch /v/up; trap 'exit 4' TERM; while :; do sleep 0.1; done"])
        .succeeds();
    wait_for("it runs", || folder.join("up").exists());
    wait_for("its output is in the log", || {
        scene.podman(["logs", "a"]).run().stdout() == "up\n"
    });
    scene
        .podman(["exec", "a", "sh", "-c", "echo inside > /root/file; exit 5"])
        .exits_with(5);
    // What is copied goes by the stand-in's mount namespace, whose root is the container's and not the host's.
    let target = world.files().join("copied");
    scene
        .podman(["cp", "a:/root/file", target.to_str().unwrap()])
        .succeeds();
    assert_eq!(fs::read_to_string(&target).unwrap(), "inside\n");
    let source = world.file("to-copy", "from the host\n");
    scene
        .podman(["cp", &source, "a:/root/isle-test-copy"])
        .succeeds();
    assert!(!std::path::Path::new("/root/isle-test-copy").exists());
    let seen = scene
        .podman(["exec", "a", "cat", "/root/isle-test-copy"])
        .succeeds();
    assert_eq!(seen, "from the host");
    scene
        .podman(["diff", "a"])
        .exits_with(0)
        .prints("/root/file");
    scene.podman(["pause", "a"]).succeeds();
    scene.podman(["unpause", "a"]).succeeds();
    scene.podman(["stop", "-t", "20", "a"]).succeeds();
    let end = scene
        .podman([
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "a",
        ])
        .succeeds();
    assert_eq!(end, "exited 4");
    scene.podman(["start", "a"]).succeeds();
    scene.podman(["rm", "-f", "-t", "0", "a"]).succeeds();
    scene
        .podman(["run", "--rm", "--network", "host", "bb", "true"])
        .exits_with(126)
        .complains("host's network");
}

pub fn it_is_restarted_as_often_as_was_said(world: &World) {
    let scene = Scene::new(world);
    let file = scene.world.files().join("times");
    fs::create_dir(&file).unwrap();
    let volume = format!("{}:/v", file.display());
    scene
        .podman([
            "run",
            "-d",
            "--name",
            "a",
            "--network",
            "none",
            "--restart",
            "on-failure:2",
            "-v",
            &volume,
            "bb",
        ])
        .arguments(["sh", "-c", "echo again >> /v/times; exit 1"])
        .succeeds();
    let times = || {
        fs::read_to_string(file.join("times"))
            .unwrap_or_default()
            .lines()
            .count()
    };
    wait_for("it was restarted twice", || times() == 3);
    wait_for("it stays ended", || {
        scene
            .podman(["inspect", "--format", "{{.State.Status}}", "a"])
            .run()
            .stdout()
            == "exited\n"
    });
    assert_eq!(times(), 3);
    scene.podman(["rm", "-f", "a"]).succeeds();
}
