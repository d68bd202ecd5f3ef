//! Somebody deletes, flushes and kills.

use isle_tests::{Level, World, wait_for};

use crate::reach::{from_host, network, reaches, serve};

fn events(world: &World) -> String {
    world
        .isle(["events", "--since", "1h", "--until", "0s"])
        .succeeds()
}

pub fn flushed_rules_and_deleted_links_come_back(world: &World) {
    world.use_own_host("");
    network(world, "front", &[]);
    serve(world, "web", &["--network", "front", "-p", "8080:80"]);
    world.background("near", &["--network", "front"], &["sleep", "1000"]);
    let answers = |why: &str| {
        wait_for(why, || {
            from_host(world, "127.0.0.1", 8080) == "web" && reaches(world, "near", "web") == "web"
        });
    };
    answers("the first time");
    world.on_host(["nft", "flush", "ruleset"]).succeeds();
    answers("after the rules were flushed");
    let id = world
        .isle(["network", "inspect", "--format", "{{.Id}}", "front"])
        .succeeds();
    world
        .on_host(["ip", "link", "del", &format!("isl-{}", &id[..11])])
        .succeeds();
    answers("after the bridge was deleted");
    let mut repairs = 2;
    // A machine's tap goes with its link: that is told, and a restart plugs in another.
    if world.level() == Level::Container {
        let format = "{{.NetworkSettings.Networks.front.EndpointID}}";
        let endpoint = world
            .isle(["inspect", "--format", format, "web"])
            .succeeds();
        let link = format!("ie{}", &endpoint[..12]);
        world.on_host(["ip", "link", "del", &link]).succeeds();
        answers("after the link was deleted");
        repairs += 1;
    }
    let told = events(world).matches("network_repair").count();
    assert_eq!(told, repairs, "{}", events(world));
}

fn supervisor(world: &World, name: &str) -> i32 {
    let id = world
        .isle(["inspect", "--format", "{{.Id}}", name])
        .succeeds();
    let mut found = None;
    wait_for("the supervisor", || {
        for entry in std::fs::read_dir("/proc")
            .expect("proc is mounted")
            .flatten()
        {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let is_shim = words
                .first()
                .is_some_and(|word| word.ends_with(b"isle-shim"));
            if is_shim && words.contains(&id.as_bytes()) {
                found = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok());
            }
        }
        found.is_some()
    });
    found.expect("found above")
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it was ours");
}

pub fn a_supervisor_that_was_killed_loses_no_connection(world: &World) {
    world.use_own_host("");
    network(world, "front", &[]);
    serve(world, "web", &["--network", "front", "-p", "8080:80"]);
    world.background("near", &["--network", "front"], &["sleep", "1000"]);
    kill(supervisor(world, "web"));
    // The kernel goes on by itself.
    assert_eq!(from_host(world, "127.0.0.1", 8080), "web");
    // Whoever looks has it taken over: names, ports, changes.
    assert_eq!(world.status("web"), "running");
    wait_for("its name is known again", || {
        reaches(world, "near", "web") == "web"
    });
    world
        .script(&["--rm", "-p", "8080:80"], "true")
        .exits_with(125)
        .complains("8080");
    world
        .isle(["update", "--publish-add", "9090:80", "web"])
        .succeeds();
    assert_eq!(from_host(world, "127.0.0.1", 9090), "web");
    world.isle(["rm", "-f", "web"]).succeeds();
    assert_eq!(from_host(world, "127.0.0.1", 8080), "");
    assert_eq!(
        world
            .on_host(["ip", "-brief", "link"])
            .succeeds()
            .matches("\nie")
            .count(),
        1
    );
}

pub fn kills_at_every_moment_leave_nothing(world: &World) {
    world.use_own_host("");
    network(world, "small", &["--subnet", "10.77.0.0/29"]);
    let image = world.busybox();
    for pause in [0, 2, 4, 6, 8, 10, 14, 20] {
        let running = world
            .isle([
                "run",
                "-d",
                "--name",
                "x",
                "--network",
                "small",
                "-p",
                "8080:80",
                &image,
                "sleep",
                "1000",
            ])
            .spawn();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        for entry in std::fs::read_dir("/proc")
            .expect("proc is mounted")
            .flatten()
        {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let root = world.root();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let is_shim = words
                .first()
                .is_some_and(|word| word.ends_with(b"isle-shim"))
                && words.contains(&root.as_os_str().as_encoded_bytes());
            let pid: Option<i32> = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let (true, Some(pid)) = (is_shim, pid) {
                kill(pid);
            }
        }
        let _ = running.wait();
        let _ = world.isle(["rm", "-f", "x"]).run();
    }
    // Five addresses there are: all can be had, and the port too.
    for number in 0..5 {
        let name = format!("i{number}");
        let flags: &[&str] = match number {
            0 => &["--network", "small", "-p", "8080:80"],
            _ => &["--network", "small"],
        };
        world.background(&name, flags, &["sleep", "1000"]);
    }
}
