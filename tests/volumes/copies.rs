//! Snapshots, clones, archives: copies of volumes, whole or not there.

use std::fs;

use isle_tests::World;

use crate::{names, volume};

pub fn a_snapshot_brings_a_volume_back(world: &World) {
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo one > /d/file; mkdir /d/sub",
        )
        .exits_with(0);
    let named = world
        .isle(["volume", "snapshot", "data", "first"])
        .succeeds();
    assert_eq!(named, "data@first");
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo two > /d/file; rmdir /d/sub; touch /d/new",
        )
        .exits_with(0);
    let unnamed = world.isle(["volume", "snapshot", "data"]).succeeds();
    assert!(unnamed.starts_with("data@20"), "{unnamed}");
    let list = world
        .isle(["volume", "snapshot", "ls", "-q", "data"])
        .succeeds();
    assert_eq!(list, format!("data@first\n{unnamed}"));
    world
        .isle(["volume", "snapshot", "ls"])
        .run()
        .prints("SNAPSHOT");
    world
        .isle(["volume", "snapshot", "data", "first"])
        .exits_with(1)
        .complains("already");
    world.isle(["volume", "restore", "data@first"]).succeeds();
    let seen = world
        .script(&["--rm", "-v", "data:/d"], "cat /d/file; ls /d")
        .succeeds();
    assert_eq!(seen, "one\nfile\nsub");
    world.isle(["volume", "restore", &unnamed]).succeeds();
    let seen = world
        .script(&["--rm", "-v", "data:/d"], "cat /d/file; ls /d")
        .succeeds();
    assert_eq!(seen, "two\nfile\nnew");
    world
        .isle(["volume", "restore", "data@never"])
        .exits_with(1)
        .complains("no snapshot");
    world.isle(["volume", "restore", "data"]).exits_with(125);
    world
        .isle(["volume", "rm", "data"])
        .exits_with(1)
        .complains("has the snapshots first");
    // Nor does a prune take what somebody wanted to keep.
    world.isle(["volume", "prune", "-af"]).succeeds();
    world
        .isle(["volume", "snapshot", "rm", "data@first", &unnamed])
        .succeeds();
    world.isle(["volume", "rm", "data"]).succeeds();
}

pub fn a_clone_goes_its_own_way(world: &World) {
    world
        .isle(["volume", "create", "--label", "a=1", "data"])
        .succeeds();
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo one > /d/file; chown 3:4 /d",
        )
        .exits_with(0);
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    world
        .script(&["--rm", "-v", "data:/d"], "echo two > /d/file")
        .exits_with(0);
    world.isle(["volume", "clone", "data", "now"]).succeeds();
    world.isle(["volume", "clone", "data@s", "then"]).succeeds();
    world
        .isle(["volume", "clone", "data", "now"])
        .exits_with(1)
        .complains("already");
    world
        .script(&["--rm", "-v", "data:/d"], "echo three > /d/file")
        .exits_with(0);
    let seen = world
        .script(
            &["--rm", "-v", "now:/n", "-v", "then:/t"],
            "cat /n/file /t/file; stat -c %u:%g /n /t",
        )
        .succeeds();
    assert_eq!(seen, "two\none\n3:4\n3:4");
    assert_eq!(volume(world, "now")["Labels"]["a"], "1");
}

/// What a tree is, but for the times of changes of its entries' attributes.
fn tree(folder: &std::path::Path) -> String {
    let script = "cd \"$1\" && find . | sort | while read -r f; do stat -c '%n %F %u:%g %a %h %s %t:%T' \"$f\"; \
                  done; stat -c '%n %Y %y' file holes . ; getfattr -d -m - file dir 2>/dev/null; cat file; \
                  getcap file; du -k holes";
    let output = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(folder)
        .output()
        .expect("there is a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn everything_of_a_file_survives_every_copy(world: &World) {
    world.isle(["volume", "create", "data"]).succeeds();
    let data = world.root().join("volumes/data/_data");
    let make = "cd \"$1\" && echo text > file && ln file hard && mkdir dir && ln -s nowhere dir/link && mkfifo pipe && \
                mknod device c 1 3 && truncate -s 64M holes && printf end | dd of=holes bs=1 seek=33554432 conv=notrunc \
                2>/dev/null && long=$(printf 'n%.0s' $(seq 180)) && mkdir $long && echo x > $long/$long && \
                truncate -s 5M $long/holes && chown 70:71 file && chmod 4750 file && chown 3000000:5 dir && chmod 1733 dir && \
                chown 999:999 . && chmod 2750 . && touch -d '2001-02-03 04:05:06.789012345' file dir .";
    let status = std::process::Command::new("sh")
        .args(["-c", make, "sh"])
        .arg(&data)
        .status();
    assert!(status.expect("there is a shell").success());
    let flags = rustix::fs::XattrFlags::empty();
    for (name, value) in [("user.mark", &b"here"[..]), ("trusted.mark", b"too")] {
        rustix::fs::setxattr(data.join("file"), name, value, flags).expect("ext4 takes it");
    }
    let has_attributes = |folder: &std::path::Path| {
        for (name, value) in [("user.mark", &b"here"[..]), ("trusted.mark", b"too")] {
            let mut buffer = [0; 8];
            let count = rustix::fs::getxattr(folder.join("file"), name, &mut buffer[..])
                .expect("it is there");
            assert_eq!(&buffer[..count], value, "{}", folder.display());
        }
    };
    let before = tree(&data);
    assert!(
        before.contains("789012345") && before.contains("999:999 2750"),
        "{before}"
    );
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    world.isle(["volume", "clone", "data@s", "copy"]).succeeds();
    let archive = world.files().join("data.tar");
    let archive = archive.to_string_lossy();
    world
        .isle(["volume", "export", "-q", "-o", &archive, "data"])
        .succeeds();
    assert!(
        fs::metadata(&*archive).expect("written").len() < 1 << 20,
        "holes stay holes"
    );
    world
        .isle(["volume", "import", "-q", "in", &archive])
        .succeeds();
    world.isle(["volume", "restore", "data@s"]).succeeds();
    for name in ["data", "copy", "in"] {
        let folder = world.root().join("volumes").join(name).join("_data");
        assert_eq!(tree(&folder), before, "{name}");
        has_attributes(&folder);
    }
}

pub fn an_exported_volume_can_be_imported_and_read_by_tar(world: &World) {
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo one > /d/file; mkdir /d/sub; chown 7:8 /d/sub",
        )
        .exits_with(0);
    let outcome = world.isle(["volume", "export", "data"]).exits_with(0);
    outcome.complains("exported:");
    let archive = world.file("data.tar", outcome.stdout_bytes());
    let list = std::process::Command::new("tar")
        .args(["tvf", &archive, "--numeric-owner"])
        .output();
    let list = String::from_utf8_lossy(&list.expect("tar").stdout).into_owned();
    assert!(
        list.contains("./") && list.contains("7/8") && list.contains("file"),
        "{list}"
    );
    let imported = world
        .isle(["volume", "import", "in"])
        .stdin(outcome.stdout_bytes())
        .exits_with(0);
    imported.complains("imported:");
    let seen = world
        .script(
            &["--rm", "-v", "in:/d"],
            "cat /d/file; stat -c %u:%g /d/sub",
        )
        .succeeds();
    assert_eq!(seen, "one\n7:8");
    // Compressed, into one that is there and empty.
    let packed = std::process::Command::new("gzip")
        .args(["-k", &archive])
        .status();
    assert!(packed.expect("gzip").success());
    world.isle(["volume", "create", "empty"]).succeeds();
    world
        .isle(["volume", "import", "empty", &format!("{archive}.gz")])
        .succeeds();
    let seen = world
        .script(&["--rm", "-v", "empty:/d"], "cat /d/file")
        .succeeds();
    assert_eq!(seen, "one");
    world
        .isle(["volume", "import", "empty", &archive])
        .exits_with(1)
        .complains("there are files in it");
    world
        .isle(["volume", "import", "odd"])
        .stdin("this is no archive, whatever it says it is")
        .exits_with(1);
    assert_eq!(names(world, &["--filter", "name=odd"]), "");
}

pub fn writers_stand_still_while_a_snapshot_is_taken(world: &World) {
    // Two files that are only ever equal between two steps of the loop.
    let script = "i=0; while :; do i=$((i+1)); echo $i > /d/a.new; mv /d/a.new /d/a; echo $i > /d/b.new; mv /d/b.new /d/b; done";
    world.background("writer", &["-v", "data:/d"], &["sh", "-c", script]);
    let b = world.root().join("volumes/data/_data/b");
    isle_tests::wait_for("it writes", || b.exists());
    for _ in 0..3 {
        let name = world.isle(["volume", "snapshot", "data"]).succeeds();
        assert_eq!(world.status("writer"), "running");
        let (_, snapshot) = name.split_once('@').expect("VOLUME@SNAPSHOT");
        let folder = world.root().join("volumes/data/snapshots").join(snapshot);
        let number = |name: &str| -> u64 {
            let text = fs::read_to_string(folder.join(name)).expect("it is there");
            text.trim()
                .parse()
                .expect("whole numbers are written, or none")
        };
        let (a, b) = (number("a"), number("b"));
        assert!(a == b || a == b + 1, "{a} {b}");
    }
    // One that goes on writing is told of by its flag alone.
    world
        .isle(["volume", "snapshot", "--pause=false", "data", "live"])
        .succeeds();
    let before = fs::read_to_string(&b).expect("there");
    isle_tests::wait_for("it goes on", || {
        fs::read_to_string(&b).is_ok_and(|now| now != before)
    });
    let exported = world.isle(["volume", "export", "data"]).exits_with(0);
    assert!(!exported.stdout_bytes().is_empty());
    assert_eq!(world.status("writer"), "running");
    let paused = world
        .isle([
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=pause",
            "--format",
            "{{.Action}}",
        ])
        .succeeds();
    assert_eq!(paused.lines().count(), 4, "three snapshots and an export");
}

pub fn a_volume_is_not_replaced_beneath_a_running_instance(world: &World) {
    world.background("user", &["-v", "data:/d"], &["sleep", "1000"]);
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    world
        .isle(["volume", "restore", "data@s"])
        .exits_with(1)
        .complains("in use by user");
    world
        .isle(["volume", "import", "data"])
        .stdin("")
        .exits_with(1)
        .complains("in use by user");
    world.isle(["stop", "-t", "0", "user"]).succeeds();
    world.isle(["volume", "restore", "data@s"]).succeeds();
    world.isle(["start", "user"]).succeeds();
    assert_eq!(world.status("user"), "running");
}

/// One entry of a tar archive, by hand: no builder makes such.
fn entry(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn hostile_archives_reach_nothing_and_leave_nothing(world: &World) {
    let canary = world.file("canary/file", "untouched");
    let folder = world.files().join("canary");
    let folder = folder.to_string_lossy().into_owned();
    let out = format!("{folder}/new");
    let up = format!("../../../../../../../../../..{out}");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("dots", entry(&up, b'0', "", b"x")),
        (
            "link",
            [
                entry("l", b'2', &folder, b""),
                entry("l/new", b'0', "", b"x"),
            ]
            .concat(),
        ),
        (
            "hard",
            [entry("h", b'1', &canary, b""), entry("h", b'0', "", b"x")].concat(),
        ),
        ("root", entry(".", b'2', &folder, b"")),
        ("cut", entry("file", b'0', "", b"cut off")[..515].to_vec()),
    ];
    for (name, mut bytes) in cases {
        bytes.resize(
            bytes.len().next_multiple_of(512) + if name == "cut" { 0 } else { 1024 },
            0,
        );
        if name == "cut" {
            bytes.truncate(515);
        }
        let outcome = world.isle(["volume", "import", name]).stdin(bytes).run();
        let is_there = names(world, &["--filter", &format!("name={name}")]) == name;
        assert_eq!(outcome.code() == 0, is_there, "{name}: {outcome}");
        assert_ne!(outcome.code(), 0, "{name}: {outcome}");
        assert_eq!(
            fs::read_to_string(&canary).expect("there"),
            "untouched",
            "{name}"
        );
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 1, "{name}");
    }
    // Who is not root on the host cannot reach what is in volumes.
    world.isle(["volume", "create", "plain"]).succeeds();
    let volumes = fs::metadata(world.root().join("volumes")).expect("there");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&volumes.permissions()) & 0o077,
        0
    );
}

pub fn copies_that_are_killed_leave_whole_volumes(world: &World) {
    world.isle(["volume", "create", "data"]).succeeds();
    let data = world.root().join("volumes/data/_data");
    for number in 0..400 {
        fs::write(data.join(format!("f{number}")), vec![7; 20_000]).expect("written");
    }
    let count = |name: &str| {
        fs::read_dir(world.root().join("volumes").join(name).join("_data"))
            .map_or(0, Iterator::count)
    };
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    let archive = world.files().join("data.tar");
    let archive = archive.to_string_lossy().into_owned();
    world
        .isle(["volume", "export", "-q", "-o", &archive, "data"])
        .succeeds();
    for round in 0..24_u64 {
        let arguments: &[&str] = match round % 4 {
            0 => &["volume", "clone", "data", "copy"],
            1 => &["volume", "import", "-q", "copy", &archive],
            2 => &["volume", "restore", "data@s"],
            _ => &["volume", "snapshot", "data", "t"],
        };
        let mut running = world.isle(arguments).spawn();
        std::thread::sleep(std::time::Duration::from_millis(5 + round * 7));
        if !running.has_ended() {
            running.signal(rustix::process::Signal::KILL);
        }
        let _ = running.wait();
        assert_eq!(count("data"), 400, "{arguments:?}");
        if !names(world, &["--filter", "name=copy"]).is_empty() {
            assert_eq!(count("copy"), 400, "{arguments:?}");
            world.isle(["volume", "rm", "copy"]).succeeds();
        }
        let list = world
            .isle(["volume", "snapshot", "ls", "-q", "data"])
            .succeeds();
        for name in list
            .lines()
            .filter_map(|line| line.split_once('@'))
            .map(|(_, name)| name)
        {
            let folder = world.root().join("volumes/data/snapshots").join(name);
            assert_eq!(fs::read_dir(folder).expect("there").count(), 400, "{name}");
        }
        if list.contains("data@t") {
            world
                .isle(["volume", "snapshot", "rm", "data@t"])
                .succeeds();
        }
    }
    world.isle(["volume", "rm", "--force", "data"]).succeeds();
    world.isle(["volume", "prune", "--force"]).succeeds();
    assert_eq!(
        fs::read_dir(world.root().join("volumes"))
            .expect("there")
            .count(),
        0
    );
}

pub fn a_snapshot_that_is_killed_leaves_nothing_frozen(world: &World) {
    world.background("writer", &["-v", "data:/d"], &["sleep", "1000"]);
    // Long enough to copy that it is caught in the middle.
    let data = world.root().join("volumes/data/_data");
    for number in 0..4000 {
        fs::write(data.join(format!("f{number}")), "x").expect("written");
    }
    let mut is_caught = false;
    for _ in 0..20 {
        let running = world.isle(["volume", "snapshot", "data"]).spawn();
        while !is_caught && !running.stdout().contains('@') {
            is_caught = world.status("writer") == "paused";
        }
        running.signal(rustix::process::Signal::KILL);
        let _ = running.wait();
        isle_tests::wait_for("it goes on", || world.status("writer") == "running");
        if is_caught {
            break;
        }
    }
    assert!(is_caught, "it was never seen to stand still");
    world.isle(["exec", "writer", "true"]).exits_with(0);
    // What was half copied is collected.
    world.isle(["volume", "prune", "--force"]).succeeds();
}
