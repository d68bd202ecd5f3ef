//! What an ordinary user with subordinate ids can do: everything, at both levels, without anybody's help.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use isle_tests::{Level, Need, World, wait_for};
use rustix::process::{Pid, Signal, kill_process};

isle_tests::stories! {
    an_instance_runs_and_its_root_is_the_user [Need::Isle, Need::OrdinaryUser],
    every_verb_works_on_an_instance [Need::Isle, Need::OrdinaryUser],
    instances_find_each_other_and_are_published [Need::Isle, Need::OrdinaryUser],
    files_in_volumes_and_folders_belong_to_whom_they_should [Need::Isle, Need::OrdinaryUser],
    what_the_host_does_not_grant_is_told [Need::Isle, Need::OrdinaryUser],
    many_at_once_agree_on_one_house_and_leave_nothing [Need::Isle, Need::OrdinaryUser],
    what_is_killed_comes_back [Need::Isle, Need::OrdinaryUser, Need::Only(Level::Container)],
    roots_of_others_are_refused [Need::Isle, Need::OrdinaryUser, Need::Only(Level::Container)],
}

const SLEEP: [&str; 2] = ["sleep", "1000"];

/// The processes whose command line has these words.
fn processes(words: &[&str]) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("proc is mounted").flatten();
    entries
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            words.iter().all(|word| line.contains(word)).then_some(pid)
        })
        .collect()
}

fn keepers(world: &World) -> Vec<Pid> {
    processes(&["isle-house ", &world.house().to_string_lossy()])
}

fn pastas(world: &World) -> Vec<Pid> {
    processes(&["pasta ", &world.house().join("net").to_string_lossy()])
}

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// What a server says at once.
fn said_on(address: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

fn an_instance_runs_and_its_root_is_the_user(world: &World) {
    let out = world
        .script(
            &["--rm"],
            "id -u; cat /proc/self/uid_map; touch /etc/x && echo written",
        )
        .succeeds();
    assert!(out.starts_with("0\n") && out.ends_with("written"), "{out}");
    if world.level() == Level::Container {
        let outside = "61234";
        assert!(out.contains(outside), "the user is not root inside: {out}");
    }
    // Ids that are subordinate work too.
    let out = world
        .script(&["--rm", "-u", "1000:1000"], "id -u; id -g")
        .succeeds();
    assert_eq!(out, "1000\n1000");
    let code = world.script(&["--rm"], "exit 7").run().code();
    assert_eq!(code, 7);
}

fn every_verb_works_on_an_instance(world: &World) {
    let script =
        "trap 'exit 3' TERM; echo other >/etc/other; echo started; while :; do sleep 0.1; done";
    world.background("web", &[], &["sh", "-c", script]);
    world.wait_for_log("web", "started");
    let exec = world.isle(["exec", "web", "cat", "/etc/other"]).succeeds();
    assert_eq!(exec, "other");
    let top = world.isle(["top", "web"]).run();
    top.prints("sleep");
    let stats = world
        .isle([
            "stats",
            "--no-stream",
            "--format",
            "{{.PIDs}} {{.MemUsage}}",
            "web",
        ])
        .succeeds();
    assert!(!stats.starts_with("0 "), "{stats}");
    world.isle(["diff", "web"]).run().prints("/etc/other");
    world.file("given", "from outside");
    let given = world.files().join("given");
    world
        .isle(["cp", &given.to_string_lossy(), "web:/given"])
        .succeeds();
    let back = world.isle(["exec", "web", "cat", "/given"]).succeeds();
    assert_eq!(back, "from outside");
    world
        .isle(["commit", "--pause=false", "web", "committed"])
        .succeeds();
    let inside = world
        .isle(["run", "--rm", "committed", "cat", "/etc/other"])
        .succeeds();
    assert_eq!(inside, "other");
    world.isle(["rename", "web", "renamed"]).succeeds();
    world.isle(["restart", "-t", "5", "renamed"]).succeeds();
    // It has begun to listen to signals again.
    wait_for("its second beginning", || {
        let log = world.isle(["logs", "renamed"]).succeeds();
        log.matches("started").count() == 2
    });
    world.isle(["stop", "renamed"]).succeeds();
    assert_eq!(world.isle(["wait", "renamed"]).succeeds(), "3");
    world.isle(["start", "renamed"]).succeeds();
    world.isle(["kill", "renamed"]).succeeds();
    world.wait_for_status("renamed", "exited");
    world
        .isle([
            "export",
            "-o",
            &world.files().join("x.tar").to_string_lossy(),
            "renamed",
        ])
        .succeeds();
    world.isle(["rm", "renamed"]).succeeds();
    world.isle(["rmi", "committed"]).succeeds();
}

fn instances_find_each_other_and_are_published(world: &World) {
    world.use_host_network();
    let http = free_port();
    let script = "echo from the instance > /index.html; httpd -f -p 80 -h /";
    world.isle(["network", "create", "lan"]).succeeds();
    world.background(
        "server",
        &["--network", "lan", "-p", &format!("{http}:80")],
        &["sh", "-c", script],
    );
    wait_for("the published port", || {
        said_on(&format!("127.0.0.1:{http}")).contains("from the instance")
    });
    let v6 = said_on(&format!("[::1]:{http}"));
    assert!(v6.contains("from the instance"), "{v6}");
    let found = world
        .script(
            &["--rm", "--network", "lan"],
            "wget -qO- http://server/index.html",
        )
        .succeeds();
    assert_eq!(found, "from the instance");
    // Ports change while it runs, and are nobody else's.
    let taken = world
        .script(&["--rm", "-p", &format!("{http}:80")], "true")
        .exits_with(125);
    taken.complains(&format!("port {http}/tcp"));
    let other = free_port();
    world
        .isle(["update", "--publish-add", &format!("{other}:80"), "server"])
        .succeeds();
    assert!(said_on(&format!("127.0.0.1:{other}")).contains("from the instance"));
    world
        .isle(["update", "--publish-rm", &format!("{other}:80"), "server"])
        .succeeds();
    assert_eq!(said_on(&format!("127.0.0.1:{other}")), "");
    world.isle(["stop", "-t", "1", "server"]).succeeds();
    assert_eq!(said_on(&format!("127.0.0.1:{http}")), "");
    world.isle(["rm", "server"]).succeeds();
    world.isle(["network", "rm", "lan"]).succeeds();
}

fn files_in_volumes_and_folders_belong_to_whom_they_should(world: &World) {
    let shared = world.files().join("shared");
    world.file("shared/mine", "mine");
    let mount = format!("{}:/shared", shared.display());
    let script =
        "cat /shared/mine; stat -c %u /shared/mine; echo new > /shared/new; echo kept > /data/kept";
    let out = world
        .script(&["--rm", "-v", &mount, "-v", "data:/data"], script)
        .succeeds();
    assert_eq!(out, "mine0", "the user's own files are root's inside");
    let owner = std::os::unix::fs::MetadataExt::uid(
        &fs::metadata(shared.join("new")).expect("it was made"),
    );
    assert_eq!(owner, 61_234, "what root makes inside is the user's");
    let kept = world
        .script(&["--rm", "-v", "data:/data"], "cat /data/kept")
        .succeeds();
    assert_eq!(kept, "kept");
    world.isle(["volume", "rm", "data"]).succeeds();
}

fn what_the_host_does_not_grant_is_told(world: &World) {
    world.use_host_network();
    let low = world
        .script(&["--rm", "-p", "1:80"], "true")
        .exits_with(125);
    low.complains("ip_unprivileged_port_start");
    if world.level() == Level::Container {
        let limit = world.script(&["--rm", "-m", "64m"], "true").exits_with(125);
        limit.complains("instances of ordinary users have none yet");
        world.background("paused", &[], &SLEEP);
        let pause = world.isle(["pause", "paused"]).run();
        assert_ne!(pause.code(), 0);
        pause.complains("instances of ordinary users have none yet");
        assert_eq!(world.status("paused"), "running");
    }
}

fn many_at_once_agree_on_one_house_and_leave_nothing(world: &World) {
    world.busybox();
    wait_for("the first house to go", || !world.house().exists());
    let runs: Vec<_> = (0..6)
        .map(|_| world.isle(["run", "--rm", "busybox", "true"]).spawn())
        .collect();
    let mut most = 0;
    for run in runs {
        most = most.max(keepers(world).len());
        let outcome = run.wait();
        assert_eq!(outcome.code(), 0, "{outcome}");
    }
    assert_eq!(most, 1, "keepers at once");
    wait_for("the house to go with the last one", || {
        keepers(world).is_empty() && !world.house().exists()
    });
}

fn what_is_killed_comes_back(world: &World) {
    world.use_host_network();
    let port = free_port();
    let script = "echo from the instance > /index.html; httpd -f -p 80 -h /";
    world.background(
        "server",
        &["-p", &format!("{port}:80")],
        &["sh", "-c", script],
    );
    let address = format!("127.0.0.1:{port}");
    wait_for("the published port", || {
        said_on(&address).contains("from the instance")
    });
    let kill = |pids: Vec<Pid>| {
        assert_eq!(pids.len(), 1);
        kill_process(pids[0], Signal::KILL).expect("it is there");
        pids[0]
    };
    let has_pasta = !pastas(world).is_empty();
    if has_pasta {
        let first = kill(pastas(world));
        wait_for("another pasta", || {
            let now = pastas(world);
            now.len() == 1 && now[0] != first
        });
    }
    kill(keepers(world));
    // The instance, its port and its network do not notice.
    assert!(said_on(&address).contains("from the instance"));
    let exec = world
        .isle(["exec", "server", "echo", "still here"])
        .succeeds();
    assert_eq!(exec, "still here");
    assert_eq!(keepers(world).len(), 1, "another keeper of the same house");
    let inside = world
        .script(&["--rm"], "wget -qO- http://server/index.html")
        .succeeds();
    assert_eq!(inside, "from the instance");
    world.isle(["restart", "-t", "1", "server"]).succeeds();
    wait_for("the published port again", || {
        said_on(&address).contains("from the instance")
    });
    world.isle(["rm", "-f", "server"]).succeeds();
    wait_for("everything to go", || {
        keepers(world).is_empty() && pastas(world).is_empty() && !world.house().exists()
    });
}

fn roots_of_others_are_refused(world: &World) {
    world.busybox();
    let program = world.isle(["ps"]).text();
    assert!(program.contains("setpriv"), "{program}");
    let as_root = world.isle_as_root(["ps"]).run();
    assert_ne!(as_root.code(), 0);
    as_root.complains("belongs to");
    let theirs = world.files().join("of-root");
    fs::create_dir(&theirs).expect("a new name");
    let as_user = world
        .isle(["--root", &theirs.to_string_lossy(), "ps"])
        .run();
    assert_ne!(as_user.code(), 0);
    as_user.complains("belongs to");
}
