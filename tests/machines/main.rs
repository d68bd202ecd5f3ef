//! What only a virtual machine has: a hypervisor, a kernel of its own, memory that it gives back. How each of them ends,
//! and what is said then.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use isle_tests::{Level, Need, World, wait_for};
use rustix::process::{Pid, Signal, kill_process};

isle_tests::stories! {
    only Level::Vm;
    stats_and_inspect_show_what_it_costs_the_host [Need::Isle],
    memory_goes_to_a_host_that_is_short_and_comes_back [Need::Isle],
    memory_and_processors_change_within_the_machine [Need::Isle, Need::CgroupMemory],
    whose_memory_ran_out_is_said [Need::Isle, Need::CgroupMemory],
    a_killed_hypervisor_is_said_and_leaves_nothing [Need::Isle],
    without_the_server_of_its_folders_it_ends_and_says_so [Need::Isle],
    a_panic_of_the_guest_is_said_in_its_words [Need::Isle],
    a_guest_that_hangs_can_be_ended [Need::Isle],
    a_full_disk_is_full_inside_only [Need::Isle],
    a_damaged_block_image_is_made_again [Need::Isle],
    a_full_disk_of_the_host_is_an_error_inside [Need::Isle],
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

/// One reading of an instance, by a template.
fn stats(world: &World, name: &str, template: &str) -> String {
    world
        .isle(["stats", "--no-stream", "--format", template, name])
        .succeeds()
}

fn stats_and_inspect_show_what_it_costs_the_host(world: &World) {
    world.background("n", &[], &["sleep", "1000"]);
    let table = world.isle(["stats", "--no-stream", "n"]).succeeds();
    assert!(table.contains("HOST MEM"), "{table}");
    let machine = &world.inspect("n")["Machine"];
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    assert_eq!(machine["IsElastic"], true, "{machine}");
    assert_eq!(machine["GuestMemory"], machine["Memory"], "{machine}");
    let host = number(&machine["HostMemory"]["Proportional"]);
    // What it costs is neither nothing nor all that it could have.
    assert!(
        host > 1 << 20 && host < number(&machine["Memory"]),
        "{machine}"
    );
    assert!(
        number(&machine["HostMemory"]["Private"]) > 1 << 20,
        "{machine}"
    );
    // Paused, it cannot say what it uses, and the host can.
    world.isle(["pause", "n"]).succeeds();
    let paused = stats(world, "n", "{{.MemUsage}} {{.HostMem}} {{.CPUPerc}}");
    assert!(!paused.contains("--"), "{paused}");
    world.isle(["unpause", "n"]).succeeds();
    assert_ne!(stats(world, "n", "{{.PIDs}}"), "0");
}

/// `/proc/meminfo` of a host with so much of its memory available.
fn meminfo(available_percent: u64) -> String {
    let total = 16 << 20;
    let available = total / 100 * available_percent;
    format!("MemTotal: {total} kB\nMemFree: {available} kB\nMemAvailable: {available} kB\n")
}

fn memory_goes_to_a_host_that_is_short_and_comes_back(world: &World) {
    let image = world.busybox();
    // Its supervisor sees a host as we like it, in a mount namespace that ends with it.
    let host = world.file("meminfo", meminfo(50));
    let inside = r#"mount --make-rprivate / && mount --bind "$0" /proc/meminfo && exec "$@""#;
    world
        .isle(["run", "-d", "--name", "n", &image, "sleep", "1000"])
        .through(&["unshare", "--mount", "sh", "-c", inside, &host])
        .succeeds();
    let guest = || {
        let machine = world.inspect("n")["Machine"].clone();
        // While its size changes it may not be known for a moment.
        Some((
            machine["GuestMemory"].as_u64()?,
            machine["Memory"].as_u64()?,
        ))
    };
    let seen_inside = || -> u64 {
        let meminfo = world.isle(["exec", "n", "cat", "/proc/meminfo"]).succeeds();
        let number = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))
            .and_then(|rest| rest.split_whitespace().next())
            .expect("a number");
        number.parse().expect("a number")
    };
    let before = seen_inside();
    fs::write(&host, meminfo(1)).expect("our own file");
    wait_for("the guest has let go of half of what it had", || {
        guest().is_some_and(|(guest, machine)| guest <= machine / 2)
    });
    wait_for("the guest knows", || seen_inside() < before * 2 / 3);
    assert!(stats(world, "n", "{{.GuestMem}}").contains(" / "));
    fs::write(&host, meminfo(50)).expect("our own file");
    wait_for("the guest has it again", || {
        guest().is_some_and(|(guest, machine)| guest == machine)
    });
    wait_for("the guest knows", || seen_inside() > before * 9 / 10);
}

fn memory_and_processors_change_within_the_machine(world: &World) {
    world.background("n", &["-m", "256m"], &["sleep", "1000"]);
    let limit = || {
        world
            .isle(["exec", "n", "cat", "/sys/fs/cgroup/memory.max"])
            .succeeds()
    };
    let update = |flag: &str, value: &str| world.isle(["update", flag, value, "n"]).run();
    let guest = || world.inspect("n")["Machine"]["GuestMemory"].as_u64();
    assert_eq!(limit(), (256 << 20).to_string());
    for (memory, bytes) in [("128m", 128_u64 << 20), ("300m", 300 << 20)] {
        assert_eq!(update("--memory", memory).code(), 0);
        assert_eq!(limit(), bytes.to_string());
        let guest = guest().expect("a number");
        assert!(guest > bytes && guest < bytes + (80 << 20), "{guest}");
    }
    let refused = update("--memory", "2g");
    assert_eq!(refused.code(), 1);
    refused.complains("stop the instance");
    assert_eq!(limit(), (300 << 20).to_string());
    assert_eq!(update("--cpus", "0.5").code(), 0);
    let refused = update("--cpus", "1.5");
    assert_eq!(refused.code(), 1);
    refused.complains("processors (1)");
    assert_eq!(world.inspect("n")["HostConfig"]["NanoCpus"], 500_000_000);
    // As told: after the next start it has them.
    world.isle(["stop", "-t", "0", "n"]).succeeds();
    assert_eq!(update("--cpus", "1.5").code(), 0);
    world.isle(["start", "n"]).succeeds();
    assert_eq!(world.isle(["exec", "n", "nproc"]).succeeds(), "2");
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

fn without_the_server_of_its_folders_it_ends_and_says_so(world: &World) {
    let folder = world.files().display().to_string();
    let bind = format!("{folder}:/shared");
    world.background("n", &["-v", &bind], &["sleep", "1000"]);
    world.isle(["exec", "n", "touch", "/shared/x"]).succeeds();
    let pid = hypervisor(world, "n");
    let parent = |pid: i32| -> i32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    };
    let supervisor = parent(pid);
    let is_server = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end() == "isle-share" && parent(*pid) == supervisor
    };
    let server = fs::read_dir("/proc")
        .expect("there is one")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(is_server);
    signal(server.expect("its folders are served"), Signal::KILL);
    world.wait_for_status("n", "exited");
    let state = &world.inspect("n")["State"];
    assert_eq!(state["ExitCode"], 255, "{state}");
    assert!(
        state["Error"]
            .as_str()
            .expect("a text")
            .contains("isle-share"),
        "{state}"
    );
    world.isle(["start", "n"]).succeeds();
    assert_eq!(world.isle(["exec", "n", "ls", "/shared"]).succeeds(), "x");
    // One that ends by itself says nothing of it.
    world.isle(["stop", "-t", "1", "n"]).succeeds();
    assert_eq!(world.inspect("n")["State"]["Error"], "");
}

fn a_panic_of_the_guest_is_said_in_its_words(world: &World) {
    let script = "until [ -e /go ]; do sleep 0.1; done; echo c > /proc/sysrq-trigger; sleep 1000";
    world.background("n", &["--privileged"], &["sh", "-c", script]);
    world.isle(["exec", "n", "touch", "/go"]).succeeds();
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

fn a_full_disk_of_the_host_is_an_error_inside(world: &World) {
    let image = world.busybox();
    // Where its disk is there is less room than the disk has: in a mount namespace that ends with it.
    let folder = world.root().join("instances").display().to_string();
    let inside = r#"mkdir -p "$0" && mount --make-rprivate / && mount -t tmpfs -o size=16m none "$0" && exec "$@""#;
    let fill = "dd if=/dev/zero of=/full bs=1M count=64 conv=fsync; echo then $?";
    let outcome = world
        .isle(["run", "--name", "n", "--network", "none", &image])
        .arguments(["sh", "-c", fill])
        .through(&["unshare", "--mount", "sh", "-c", inside, &folder])
        .run();
    assert!(outcome.stdout().contains("then 1"), "{outcome}");
    outcome.complains("error");
    world.isle(["rm", "n"]).succeeds();
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
    // None, in a mount namespace that ends with the try.
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/bin".into()])
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|path| path.is_file());
    let qemu = found.expect("there is one").display().to_string();
    let hidden = r#"mount --make-rprivate / && mount --bind /dev/null "$0" && exec "$@""#;
    world
        .isle(["run", "--rm", &image, "true"])
        .through(&["unshare", "--mount", "sh", "-c", hidden, &qemu])
        .exits_with(125)
        .complains("there is no qemu-system-x86_64")
        .complains("qemu-system-x86");
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
