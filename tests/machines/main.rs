//! What only a virtual machine has: a hypervisor, a kernel of its own, memory that it gives back. How each of them ends,
//! and what is said then.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use isle_tests::{Level, Need, World};
use rustix::process::{Pid, Signal, kill_process};

isle_tests::stories! {
    only Level::Vm;
    whose_memory_ran_out_is_said [Need::Isle, Need::CgroupMemory],
    a_killed_hypervisor_is_said_and_leaves_nothing [Need::Isle],
    a_panic_of_the_guest_is_said_in_its_words [Need::Isle],
    a_guest_that_hangs_can_be_ended [Need::Isle],
    a_full_disk_is_full_inside_only [Need::Isle],
    a_damaged_block_image_is_made_again [Need::Isle],
    without_qemu_it_is_said_what_to_install [Need::Isle],
}

fn hypervisor(world: &World, name: &str) -> i32 {
    let pid = world.inspect(name)["State"]["Pid"].as_i64();
    i32::try_from(pid.expect("it runs")).expect("a pid")
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("it is there");
}

/// The file of a process's control group that limits its memory.
fn memory_limit(pid: i32) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (
            fields.next().expect("controllers"),
            fields.next().expect("a path"),
        );
        let path = path.trim_start_matches('/');
        let of_v1 = Path::new("/sys/fs/cgroup/memory").join(path);
        if controllers.split(',').any(|name| name == "memory") {
            return of_v1.join("memory.limit_in_bytes");
        }
        let of_v2 = Path::new("/sys/fs/cgroup").join(path).join("memory.max");
        if controllers.is_empty() && of_v2.exists() {
            return of_v2;
        }
    }
    panic!("no control group limits its memory: {groups}");
}

fn whose_memory_ran_out_is_said(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--name", "own", "-m", "32m", &image])
        .arguments(["tail", "/dev/zero"])
        .exits_with(137)
        .complains("--memory");
    let state = &world.inspect("own")["State"];
    assert_eq!(state["OutOfMemory"], "instance", "{state}");

    // The guest has room for what it writes; its hypervisor is not given it.
    let script =
        "until [ -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/dev/shm/x bs=1M count=200";
    let flags = ["--shm-size", "250m", "-m", "300m"];
    world.background("other", &flags, &["sh", "-c", script]);
    let limit = memory_limit(hypervisor(world, "other"));
    fs::write(limit, (96 << 20).to_string()).expect("its limit can be lowered");
    world.isle(["exec", "other", "touch", "/go"]).succeeds();
    world.wait_for_status("other", "exited");
    let state = &world.inspect("other")["State"];
    assert_eq!(state["OutOfMemory"], "hypervisor", "{state}");
    assert_eq!(state["OOMKilled"], true, "{state}");
    assert_eq!(state["ExitCode"], 137, "{state}");
    world
        .isle([
            "ps",
            "-a",
            "--filter",
            "name=other",
            "--format",
            "{{.Status}}",
        ])
        .run()
        .prints("out of memory: hypervisor");
}

fn a_killed_hypervisor_is_said_and_leaves_nothing(world: &World) {
    world.background("n", &[], &["sleep", "1000"]);
    signal(hypervisor(world, "n"), Signal::KILL);
    world.wait_for_status("n", "exited");
    let state = &world.inspect("n")["State"];
    assert_eq!(state["ExitCode"], 255, "{state}");
    assert_eq!(state["OOMKilled"], false, "{state}");
    let error = state["Error"].as_str().expect("a text");
    assert!(error.contains("signal 9"), "{error}");
    // What it had written is there, and it runs again.
    world.isle(["start", "n"]).succeeds();
    assert_eq!(
        world.isle(["exec", "n", "echo", "again"]).succeeds(),
        "again"
    );
}

fn a_panic_of_the_guest_is_said_in_its_words(world: &World) {
    let script = "echo c > /proc/sysrq-trigger; sleep 1000";
    world.background("n", &["--privileged"], &["sh", "-c", script]);
    world.wait_for_status("n", "exited");
    let state = &world.inspect("n")["State"];
    assert_eq!(state["ExitCode"], 255, "{state}");
    let error = state["Error"].as_str().expect("a text");
    assert!(error.contains("kernel has panicked"), "{error}");
}

fn a_guest_that_hangs_can_be_ended(world: &World) {
    for verb in ["kill", "rm"] {
        world.background("n", &[], &["sleep", "1000"]);
        // Nothing inside goes on, and nothing answers.
        signal(hypervisor(world, "n"), Signal::STOP);
        match verb {
            "kill" => {
                world.isle(["kill", "n"]).succeeds();
                world.wait_for_status("n", "exited");
                assert_eq!(world.inspect("n")["State"]["ExitCode"], 137);
                world.isle(["rm", "n"]).succeeds();
            }
            _ => drop(world.isle(["rm", "-f", "n"]).succeeds()),
        }
    }
}

fn a_full_disk_is_full_inside_only(world: &World) {
    let image = world.busybox();
    let fill = "dd if=/dev/zero of=/full bs=1M count=200; echo then $?; rm /full; echo room > /left && cat /left";
    let outcome = world
        .isle(["run", "--rm", "--storage-opt", "size=64m", &image])
        .arguments(["sh", "-c", fill])
        .run();
    assert!(outcome.stdout().contains("then 1"), "{}", outcome.stdout());
    assert!(
        outcome.stdout().trim_end().ends_with("room"),
        "{}",
        outcome.stdout()
    );
    outcome.complains("No space left on device");
}

fn a_damaged_block_image_is_made_again(world: &World) {
    let image = world.busybox();
    let run = || {
        world
            .isle(["run", "--rm", &image, "echo", "whole"])
            .succeeds()
    };
    assert_eq!(run(), "whole");
    let folder = world.root().join("block-images");
    let files: Vec<PathBuf> = walk(&folder);
    let [file] = &files[..] else {
        panic!("one image, one file: {files:?}");
    };
    let length = fs::metadata(file).expect("it is there").len();
    fs::File::options()
        .write(true)
        .open(file)
        .and_then(|file| file.set_len(length / 2))
        .expect("it can be cut");
    assert_eq!(run(), "whole");
    fs::remove_file(&walk(&folder)[0]).expect("it is there");
    assert_eq!(run(), "whole");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().expect("it is there").is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

fn without_qemu_it_is_said_what_to_install(world: &World) {
    let image = world.busybox();
    // One that says that it is older than what the machines need.
    let name = "qemu-system-x86_64";
    let old = world.file(name, "#!/bin/sh\necho QEMU emulator version 5.2.0\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&old, mode).expect("our own file");
    let path = std::env::var("PATH").unwrap_or_default();
    let outcome = world
        .isle(["run", "--rm", &image, "true"])
        .env("PATH", format!("{}:{path}", world.files().display()))
        .exits_with(125);
    outcome.complains("5.2.0");
    outcome.complains("hint");
}
