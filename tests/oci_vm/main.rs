//! The vm level through the command line of the OCI runtime, by hand and under Podman.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod bundle;
mod podman;

use std::fs;
use std::path::Path;
use std::process::Command;

use isle_tests::{Invocation, Level, Need, World, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use bundle::{ASIDE, Bundle};
use podman::{it_is_restarted_as_often_as_was_said, it_runs_copies_executes_and_stops};

isle_tests::stories! {
    only Level::Vm;
    a_bundle_runs_on_a_kernel_of_its_own_with_the_files_of_the_host,
    it_is_created_and_started_killed_and_deleted,
    a_signal_to_the_pid_that_engines_know_reaches_the_program,
    what_cannot_be_executed_is_told_by_start_with_its_exit_code,
    further_processes_have_streams_and_exit_codes_of_their_own,
    it_stands_still_and_goes_on,
    limits_can_be_changed_and_use_is_told,
    a_terminal_is_a_terminal_and_follows_its_size,
    the_network_of_the_namespace_is_the_guests,
    hooks_are_told_of_a_process_in_the_namespaces,
    what_a_machine_cannot_do_is_refused_in_the_engines_log,
    an_annotation_can_ask_for_more_isolation_and_not_for_less,
    nothing_is_left_when_what_holds_it_is_killed,
    it_runs_copies_executes_and_stops [Need::Podman],
    it_is_restarted_as_often_as_was_said [Need::Podman],
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn a_bundle_runs_on_a_kernel_of_its_own_with_the_files_of_the_host(world: &World) {
    let bundle = Bundle::new(world);
    bundle.script("uname -r; cat; echo wrong >&2; echo written > /file; chown 5:6 /file; exit 7");
    let outcome = bundle.make("run", &[], "a").stdin("said\n").exits_with(7);
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let out = outcome.stdout();
    let mut lines = out.lines();
    assert_ne!(lines.next(), Some(host.trim_end()));
    assert_eq!(lines.next(), Some("said"));
    assert_eq!(outcome.stderr(), "wrong\n");
    let file = bundle.folder.join("rootfs/file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "written\n");
    let about = fs::metadata(&file).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((about.uid(), about.gid()), (5, 6));
    // A root that may only be read, and a folder of the host in it.
    let folder = bundle.world.files().join("shared");
    fs::create_dir(&folder).unwrap();
    bundle.set("/root/readonly", json!(true));
    bundle.config.borrow_mut()["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/shared", "type": "bind", "source": folder, "options": ["rbind", "rw", "rprivate"],
    }));
    bundle.script("echo in > /shared/there; echo no > /no; exit 3");
    bundle
        .make("run", &[], "b")
        .exits_with(3)
        .complains("Read-only file system");
    assert_eq!(fs::read_to_string(folder.join("there")).unwrap(), "in\n");
}

fn it_is_created_and_started_killed_and_deleted(world: &World) {
    let bundle = Bundle::new(world);
    bundle.script("touch /up; trap 'exit 3' TERM; while :; do sleep 0.1; done");
    let pid_file = world.files().join("pid");
    let flags = ["--pid-file", pid_file.to_str().unwrap()];
    bundle.make_detached("create", &flags, "a");
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let state = bundle.state("a");
    assert_eq!(
        (&state["status"], &state["pid"]),
        (&json!("created"), &json!(pid))
    );
    assert!(!bundle.folder.join("rootfs/up").exists());
    world.oci(["start", "a"]).succeeds();
    wait_for("it has written a file", || {
        bundle.folder.join("rootfs/up").exists()
    });
    assert_eq!(bundle.state("a")["status"], "running");
    world
        .oci(["start", "a"])
        .exits_with(1)
        .complains("running already");
    world
        .oci(["delete", "a"])
        .exits_with(1)
        .complains("it is running");
    world.oci(["kill", "a", "TERM"]).succeeds();
    bundle.wait_for_status("a", "stopped");
    world
        .oci(["kill", "a"])
        .exits_with(1)
        .complains("not running");
    world.oci(["delete", "a"]).succeeds();
    world
        .oci(["state", "a"])
        .exits_with(1)
        .complains("does not exist");
    // One that was never started, and one that does not listen.
    bundle.make_detached("create", &[], "b");
    world.oci(["delete", "b"]).succeeds();
    bundle.background("c", "trap '' TERM; while :; do sleep 0.1; done");
    world.oci(["kill", "c", "TERM"]).succeeds();
    world.oci(["kill", "c", "KILL"]).succeeds();
    bundle.wait_for_status("c", "stopped");
}

fn a_signal_to_the_pid_that_engines_know_reaches_the_program(world: &World) {
    let bundle = Bundle::new(world);
    bundle
        .script("trap 'echo heard > /heard; exit 9' USR1; touch /up; while :; do sleep 0.1; done");
    let running = bundle.make("run", &[], "a").spawn();
    wait_for("it runs", || bundle.folder.join("rootfs/up").exists());
    let pid = bundle.state("a")["pid"].as_i64().unwrap() as i32;
    kill(pid, Signal::USR1);
    assert_eq!(running.wait().code(), 9);
    assert!(bundle.folder.join("rootfs/heard").exists());
    // One that is killed ends as a shell says it.
    fs::remove_file(bundle.folder.join("rootfs/up")).unwrap();
    let running = bundle.make("run", &[], "b").spawn();
    wait_for("it runs", || bundle.folder.join("rootfs/up").exists());
    world.oci(["kill", "b", "KILL"]).succeeds();
    assert_eq!(running.wait().code(), 128 + 9);
}

fn what_cannot_be_executed_is_told_by_start_with_its_exit_code(world: &World) {
    let bundle = Bundle::new(world);
    bundle.script("true");
    bundle.set("/process/args", json!(["/no/such"]));
    fs::write(
        bundle.folder.join("config.json"),
        bundle.config.borrow().to_string(),
    )
    .unwrap();
    bundle.make_detached("create", &[], "a");
    world
        .oci(["start", "a"])
        .exits_with(127)
        .complains("/no/such");
    // Engines expect it to have ended then.
    bundle.wait_for_status("a", "stopped");
    world.oci(["delete", "a"]).succeeds();
}

fn further_processes_have_streams_and_exit_codes_of_their_own(world: &World) {
    let bundle = Bundle::new(world);
    bundle.background("a", "sleep 1000");
    let outcome = world
        .oci(["exec", "--env", "A=b", "--user", "5:6", "--cwd", "/tmp", "a", "sh", "-c"])
        .arguments(["cat; echo $A $(id -u) $(id -g) $(pwd) $(tr '\\0' ' ' < /proc/1/cmdline); echo e >&2; exit 5"])
        .stdin("in\n")
        .exits_with(5);
    assert_eq!(outcome.stderr(), "e\n");
    assert!(
        outcome.stdout().starts_with("in\nb 5 6 /tmp sleep 1000"),
        "{outcome}"
    );
    world
        .oci(["exec", "a", "/no/such"])
        .exits_with(127)
        .complains("/no/such");
    // As engines call it: the process is described in a file, and its pid is waited for.
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "trap 'touch /told; exit' TERM; touch /there; while :; do sleep 0.1; done"],
        "cwd": "/", "env": ["PATH=/bin"]});
    let file = world.file("process.json", process.to_string());
    let pid_file = world.files().join("exec-pid");
    world
        .oci([
            "exec",
            "--detach",
            "--process",
            &file,
            "--pid-file",
            pid_file.to_str().unwrap(),
            "a",
        ])
        .through(&ASIDE)
        .succeeds();
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    wait_for("it runs", || bundle.folder.join("rootfs/there").exists());
    kill(pid, Signal::TERM);
    wait_for("it has ended", || !is_alive(pid));
    assert!(bundle.folder.join("rootfs/told").exists());
    // Its stand-in is killed: so is the process.
    fs::remove_file(bundle.folder.join("rootfs/there")).unwrap();
    world
        .oci([
            "exec",
            "--detach",
            "--process",
            &file,
            "--pid-file",
            pid_file.to_str().unwrap(),
            "a",
        ])
        .through(&ASIDE)
        .succeeds();
    wait_for("it runs", || bundle.folder.join("rootfs/there").exists());
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    kill(pid, Signal::KILL);
    wait_for("it has ended inside", || {
        !world
            .oci(["exec", "a", "ps"])
            .succeeds()
            .contains("touch /there")
    });
}

fn it_stands_still_and_goes_on(world: &World) {
    let bundle = Bundle::new(world);
    bundle.background("a", "while :; do date +%s%N > /clock; sleep 0.05; done");
    let clock = || fs::read_to_string(bundle.folder.join("rootfs/clock")).unwrap_or_default();
    world.oci(["pause", "a"]).succeeds();
    assert_eq!(bundle.state("a")["status"], "paused");
    world
        .oci(["exec", "a", "true"])
        .exits_with(1)
        .complains("paused");
    let before = clock();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(clock(), before);
    world.oci(["resume", "a"]).succeeds();
    assert_eq!(bundle.state("a")["status"], "running");
    wait_for("time goes on", || clock() != before);
    // One that stands still can be ended.
    world.oci(["pause", "a"]).succeeds();
    world.oci(["delete", "--force", "a"]).succeeds();
}

fn limits_can_be_changed_and_use_is_told(world: &World) {
    let bundle = Bundle::new(world);
    bundle.set("/linux/resources/memory", json!({"limit": 128 << 20}));
    bundle.background("a", "sleep 1000");
    let inside = |file: &str| {
        world
            .oci(["exec", "a", "cat", &format!("/sys/fs/cgroup/{file}")])
            .succeeds()
    };
    assert_eq!(inside("memory.max"), (128 << 20).to_string());
    world
        .oci(["update", "--memory", "100663296", "--pids-limit", "33", "a"])
        .succeeds();
    assert_eq!(inside("memory.max"), "100663296");
    assert_eq!(inside("pids.max"), "33");
    world
        .oci(["update", "--memory", "8589934592", "a"])
        .exits_with(1)
        .complains("more than the virtual machine has");
    let told: Value =
        serde_json::from_str(&world.oci(["events", "--stats", "a"]).succeeds()).unwrap();
    assert_eq!(told["data"]["memory"]["usage"]["limit"], json!(100_663_296));
    assert!(told["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    let pids = told["data"]["pids"]["current"].as_u64().unwrap();
    assert!((1..5).contains(&pids), "{pids}");
}

fn a_terminal_is_a_terminal_and_follows_its_size(world: &World) {
    let bundle = Bundle::new(world);
    bundle.set("/process/terminal", json!(true));
    bundle.script("tty; trap 'stty size' WINCH; while read line; do echo \"<$line>\"; done");
    let mut terminal = bundle.make("run", &[], "a").on_terminal();
    terminal.expect("/dev/pts/0");
    terminal.send("hello\n");
    terminal.expect("<hello>");
    terminal.resize(33, 77);
    terminal.send("again\n");
    terminal.expect("33 77");
    terminal.send("\x04");
    assert_eq!(terminal.wait(), 0);
    // A further process, in a container without one.
    bundle.set("/process/terminal", json!(false));
    bundle.background("b", "sleep 1000");
    let mut terminal = world
        .oci(["exec", "--tty", "b", "sh", "-c", "tty; exit 4"])
        .on_terminal();
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.wait(), 4);
}

/// A network namespace with one end of a cable, and who is at the other end.
struct Cable(std::process::Child);

impl Cable {
    fn new() -> Cable {
        // One namespace within the other: both go with the process.
        let script = "ip link add outer type veth peer name eth0 && ip link set lo up && \
             ip addr add 10.77.0.1/24 dev outer && ip link set outer up && \
             { unshare -n sleep 1000 & inner=$!; } && sleep 0.2 && ip link set eth0 netns $inner && \
             nsenter -t $inner -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev eth0; \
             ip link set eth0 mtu 1400 address 02:00:00:00:77:02 up; ip route add default via 10.77.0.1' && \
             echo $inner > \"$0\" && mv \"$0\" \"$1\" && wait";
        let folder = std::env::temp_dir();
        let file = folder.join(format!("isle-test-cable-{}", std::process::id()));
        let _ = fs::remove_file(&file);
        let child = Command::new("unshare")
            .args(["--net", "--kill-child", "--fork", "sh", "-c", script])
            .arg(file.with_extension("new"))
            .arg(&file)
            .spawn()
            .unwrap();
        Cable(child).waited(&file)
    }

    fn waited(self, file: &Path) -> Cable {
        wait_for("the cable is there", || file.exists());
        self
    }

    fn inner() -> String {
        let file = std::env::temp_dir().join(format!("isle-test-cable-{}", std::process::id()));
        fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// At the other end.
    fn outside(&self, words: &[&str]) -> Invocation {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let child = fs::read_to_string(children).unwrap();
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", child.trim()])
            .args(words);
        Invocation::new(command)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        kill(Cable::inner().parse().unwrap(), Signal::KILL);
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(
            std::env::temp_dir().join(format!("isle-test-cable-{}", std::process::id())),
        );
    }
}

fn the_network_of_the_namespace_is_the_guests(world: &World) {
    let bundle = Bundle::new(world);
    let cable = Cable::new();
    bundle.join_network(&format!("/proc/{}/ns/net", Cable::inner()));
    bundle.background(
        "a",
        "mkdir /www; echo served > /www/file; httpd -h /www; sleep 1000",
    );
    let inside = world
        .oci(["exec", "a", "sh", "-c", "ip addr show eth0; ip route"])
        .succeeds();
    for part in [
        "10.77.0.2/24",
        "02:00:00:00:77:02",
        "mtu 1400",
        "default via 10.77.0.1",
    ] {
        assert!(inside.contains(part), "{part}: {inside}");
    }
    world
        .oci(["exec", "a", "ping", "-c", "1", "-W", "5", "10.77.0.1"])
        .succeeds();
    cable
        .outside(&["busybox", "ping", "-c", "1", "-W", "5", "10.77.0.2"])
        .succeeds();
    wait_for("the server serves", || {
        let fetched = cable
            .outside(&["busybox", "wget", "-q", "-O", "-", "http://10.77.0.2/file"])
            .run();
        fetched.stdout() == "served\n"
    });
    // The interface keeps its address for those who look; once the machine is gone it is its own again.
    let within = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", &Cable::inner()])
            .args(words);
        Invocation::new(command).succeeds()
    };
    assert!(within(&["ip", "addr"]).contains("10.77.0.2/24"));
    kill(bundle.pid_of("a", "isle-machine"), Signal::KILL);
    bundle.wait_for_status("a", "stopped");
    world.oci(["delete", "a"]).succeeds();
    wait_for("the tap is gone", || {
        !within(&["ip", "link"]).contains("isle-card")
    });
    assert!(!within(&["tc", "qdisc"]).contains("ingress"));
    cable
        .outside(&["busybox", "ping", "-c", "1", "-W", "5", "10.77.0.2"])
        .succeeds();
}

fn hooks_are_told_of_a_process_in_the_namespaces(world: &World) {
    let bundle = Bundle::new(world);
    let seen = world.files().join("seen");
    let script = format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); ip link add hooked type veth peer name other && ip link set other up && ip link set hooked netns $pid && \
         nsenter -t $pid -n ip addr add 10.78.0.2/24 dev hooked && nsenter -t $pid -n ip link set hooked up && echo $pid > {}",
        seen.display()
    );
    // In a namespace of its own: the host's links are nobody's business.
    let hook = json!({"path": "/usr/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
    bundle.config.borrow_mut()["hooks"] = json!({"prestart": [hook]});
    bundle.script("ip addr show hooked");
    let mut command = bundle.make("run", &[], "a").through(&["unshare", "--net"]);
    command = command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.exits_with(0).prints("10.78.0.2/24");
    assert!(seen.exists());
}

fn what_a_machine_cannot_do_is_refused_in_the_engines_log(world: &World) {
    let bundle = Bundle::new(world);
    bundle.set(
        "/linux/devices",
        json!([{"path": "/dev/x", "type": "c", "major": 10, "minor": 200}]),
    );
    bundle.script("true");
    let log = world.files().join("log");
    let run = world.oci([
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "run",
        "--bundle",
    ]);
    run.arguments([bundle.folder.to_str().unwrap(), "a"])
        .exits_with(1)
        .complains("linux.devices");
    let line: Value =
        serde_json::from_str(fs::read_to_string(&log).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("/dev/x"), "{line}");
    world
        .oci(["state", "a"])
        .exits_with(1)
        .complains("does not exist");
    // The host's network by a path: were it wired, the host would be cut off.
    bundle.set("/linux/devices", json!([]));
    bundle.join_network("/proc/self/ns/net");
    bundle.script("true");
    bundle
        .make("run", &[], "b")
        .exits_with(1)
        .complains("host's network");
}

fn an_annotation_can_ask_for_more_isolation_and_not_for_less(world: &World) {
    let bundle = Bundle::new(world);
    bundle.config.borrow_mut()["annotations"] = json!({"dev.isle.isolation": "container"});
    bundle.script("uname -r");
    bundle
        .make("run", &[], "a")
        .exits_with(1)
        .complains("dev.isle.isolation");
    bundle.config.borrow_mut()["annotations"] = json!({"dev.isle.isolation": "vm"});
    bundle.script("uname -r");
    // The last flag counts: the level of containers is chosen, and the annotation asks for a machine.
    let run = world.oci(["--isolation", "container", "run", "--bundle"]);
    let outcome = run
        .arguments([bundle.folder.to_str().unwrap(), "b"])
        .exits_with(0);
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(outcome.stdout(), host);
}

fn nothing_is_left_when_what_holds_it_is_killed(world: &World) {
    let bundle = Bundle::new(world);
    for (victim, code) in [
        ("isle-machine", 255),
        ("qemu-system-x86", 255),
        ("isle-share", 255),
        ("isle-stand-in", 137),
    ] {
        let _ = fs::remove_file(bundle.folder.join("rootfs/up"));
        bundle.script("touch /up; sleep 1000");
        let running = bundle.make("run", &["--keep"], "a").spawn();
        wait_for("it runs", || bundle.folder.join("rootfs/up").exists());
        let all = [
            "isle-machine",
            "qemu-system-x86",
            "isle-share",
            "isle-stand-in",
        ]
        .map(|name| bundle.pid_of("a", name));
        kill(bundle.pid_of("a", victim), Signal::KILL);
        assert_eq!(running.wait().code(), code, "{victim}");
        for pid in all {
            wait_for(&format!("{pid} has ended"), || !is_alive(pid));
        }
        world.oci(["delete", "a"]).succeeds();
        assert!(world.oci(["list", "--quiet"]).succeeds().is_empty());
    }
}
