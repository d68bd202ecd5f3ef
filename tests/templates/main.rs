//! `isle template` and `isle pool`: what virtual machines are copied from, and those that wait.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use isle_tests::{Level, Need, World, wait_for};

isle_tests::stories! {
    only Level::Container;
    templates_are_listed_and_go_and_come_again [Need::Isle, Need::GuestKernel],
    a_pool_gives_its_machines_and_is_filled_again [Need::Isle, Need::GuestKernel],
    who_fills_a_pool_and_is_killed_leaves_nothing [Need::Isle, Need::GuestKernel],
}

const LIMIT: &str = "64m";

fn list(world: &World, what: &str, format: &str) -> Vec<String> {
    let text = world.isle([what, "ls", "--format", format]).succeeds();
    text.lines().map(str::to_owned).collect()
}

/// `isle run` of a virtual machine, at whatever level the story is told.
fn run(world: &World, flags: &[&str], command: &[&str]) -> String {
    let image = world.busybox();
    let arguments = ["container", "run", "--isolation", "vm", "--network", "none"];
    let limit = ["-m", LIMIT];
    let arguments = arguments.iter().chain(&limit).chain(flags);
    world
        .isle(arguments)
        .arguments([image.as_str()])
        .arguments(command)
        .succeeds()
}

fn templates_are_listed_and_go_and_come_again(world: &World) {
    world.use_guest_kernel();
    assert!(list(world, "template", "{{.Name}}").is_empty());
    assert_eq!(run(world, &["--rm"], &["echo", "one"]).trim(), "one");
    let names = list(world, "template", "{{.Name}}");
    assert_eq!(names.len(), 1);
    let line = list(world, "template", "{{.Memory}} {{.CPUs}} {{.UsedSince}}").remove(0);
    assert!(line.starts_with("128MiB 1 "), "{line}");
    // One that runs does not need it any more.
    run(world, &["-d", "--name", "n"], &["sleep", "1000"]);
    world.isle(["template", "rm", &names[0][..8]]).succeeds();
    // That of the image was made for the second one.
    let images = list(world, "template", "{{.Image}}");
    assert!(images.len() == 1 && images[0].len() == 12, "{images:?}");
    let heirs = list(world, "template", "{{.Name}}");
    world.isle(["template", "rm", &heirs[0]]).succeeds();
    assert!(list(world, "template", "{{.Name}}").is_empty());
    assert_eq!(
        world.isle(["exec", "n", "echo", "alive"]).succeeds().trim(),
        "alive"
    );
    world.isle(["rm", "-f", "n"]).succeeds();
    world.isle(["template", "rm", &names[0]]).exits_with(1);
    // What is needed is made again, and is the same.
    assert_eq!(run(world, &["--rm"], &["echo", "two"]).trim(), "two");
    assert_eq!(list(world, "template", "{{.Name}}"), names);
    world
        .isle(["template", "prune", "-f", "--filter", "until=1h"])
        .succeeds();
    assert_eq!(list(world, "template", "{{.Name}}"), names);
    world.isle(["template", "prune", "-f"]).succeeds();
    assert!(list(world, "template", "{{.Name}}").is_empty());
}

fn a_pool_gives_its_machines_and_is_filled_again(world: &World) {
    world.use_guest_kernel();
    let ready = || list(world, "pool", "{{.Ready}}/{{.Size}}");
    assert!(ready().is_empty());
    let name = world.isle(["pool", "set", "-m", LIMIT, "1"]).succeeds();
    assert_eq!(ready(), ["1/1"]);
    assert_ne!(list(world, "pool", "{{.PSS}}"), ["0B"]);
    run(
        world,
        &["-d", "--name", "n"],
        &["sh", "-c", "echo started; sleep 1000"],
    );
    world.wait_for_log("n", "started");
    // Its machine has its limits, and another one waits.
    let pid = &world.inspect("n")["State"]["Pid"];
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let id = world.inspect("n")["Id"].as_str().unwrap().to_owned();
    assert!(cgroup.contains(&id), "{cgroup}");
    wait_for("another machine waits", || ready() == ["1/1"]);
    let folder = std::fs::read_dir(world.run().join("pool").join(name.trim())).unwrap();
    let waiting = folder
        .map(|entry| entry.unwrap().path().join("machine.json"))
        .find_map(|path| std::fs::read(path).ok())
        .unwrap();
    let waiting: serde_json::Value = serde_json::from_slice(&waiting).unwrap();
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", waiting["pid"])).unwrap();
    assert!(cgroup.contains("/isle/pool-"), "{cgroup}");
    assert_eq!(
        world
            .isle(["exec", "n", "echo", "inside"])
            .succeeds()
            .trim(),
        "inside"
    );
    // A template with a pool is not pruned.
    world.isle(["template", "prune", "-f"]).succeeds();
    assert_eq!(list(world, "template", "{{.Name}}"), [name.trim()]);
    assert_eq!(run(world, &["--rm"], &["echo", "two"]).trim(), "two");
    wait_for("another machine waits", || ready() == ["1/1"]);
    world.isle(["pool", "set", "-m", LIMIT, "0"]).succeeds();
    assert!(ready().is_empty());
    // One that was in a pool runs on.
    assert_eq!(
        world.isle(["exec", "n", "echo", "still"]).succeeds().trim(),
        "still"
    );
    world.isle(["rm", "-f", "n"]).succeeds();
    world.isle(["pool", "set", "-m", LIMIT, "1"]).succeeds();
    world.isle(["template", "rm", name.trim()]).succeeds();
    assert!(ready().is_empty());
}

fn who_fills_a_pool_and_is_killed_leaves_nothing(world: &World) {
    world.use_guest_kernel();
    let set = |count: &'static str| world.isle(["pool", "set", "-m", LIMIT, count]);
    set("1").succeeds();
    for delay in [5, 20, 40, 60, 90, 130, 180, 250] {
        set("0").succeeds();
        let filler = set("2").spawn();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        filler.signal(rustix::process::Signal::KILL);
        let _ = filler.wait();
        // Whoever looks next ends what was on its way, as soon as what the filler has begun is over, too.
        let is_begun = |path: std::path::PathBuf| path.extension() == Some("new".as_ref());
        wait_for("nothing is begun", || {
            list(world, "pool", "{{.Ready}}");
            let pool = std::fs::read_dir(world.run().join("pool")).unwrap();
            let mut folders =
                pool.flat_map(|pool| std::fs::read_dir(pool.unwrap().path()).unwrap());
            !folders.any(|folder| is_begun(folder.unwrap().path()))
        });
    }
    // Processes and control groups that are left are looked for at the end of each story.
    set("0").succeeds();
}
