//! Files: volumes, binds, tmpfs, read-only roots, `cp`, `diff`, `export`, `commit`.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;

use isle_tests::{Need, World, wait_for};

isle_tests::stories! {
    writes_go_to_the_instance_and_not_to_the_image,
    a_read_only_root_cannot_be_written_but_volumes_can,
    a_bind_shows_the_hosts_files_and_writes_through,
    a_missing_bind_source_is_made_by_v_and_refused_by_mount [Need::Isle],
    a_named_volume_outlives_its_instances_and_is_filled_from_the_image,
    anonymous_volumes_of_the_image_go_with_the_instance,
    a_volume_can_be_shared_and_is_not_removed_while_in_use,
    volumes_from_mounts_what_another_one_mounts,
    a_tmpfs_is_empty_and_gone_afterwards,
    cp_in_and_out_of_running_and_stopped_instances,
    cp_follows_no_link_out_of_the_root,
    a_bind_onto_a_link_stays_in_the_root,
    diff_shows_what_changed,
    export_and_commit_keep_what_was_written,
    commit_sees_one_moment [Need::Isle],
}

fn writes_go_to_the_instance_and_not_to_the_image(world: &World) {
    world
        .script(&["--name", "n"], "echo mine > /etc/passwd; rm /etc/group")
        .exits_with(0);
    world
        .script(&["--rm"], "grep -q root /etc/passwd && test -e /etc/group")
        .exits_with(0);
    assert_eq!(world.isle(["start", "-a", "n"]).run().code(), 1);
}

fn a_read_only_root_cannot_be_written_but_volumes_can(world: &World) {
    let outcome = world.script(&["--rm", "--read-only", "--tmpfs", "/t", "-v", "vol:/v"], "touch /x; echo $?; touch /etc/passwd; echo $?; touch /t/x /v/x; echo $?; touch /dev/shm/x; echo $?")
        .exits_with(0);
    assert_eq!(outcome.stdout(), "1\n1\n0\n0\n");
    outcome.complains("Read-only file system");
}

fn a_bind_shows_the_hosts_files_and_writes_through(world: &World) {
    let image = world.busybox();
    world.file("shared/in", "from the host");
    let folder = world.files().join("shared");
    let folder = folder.to_string_lossy();
    let bind = format!("{folder}:/s");
    let text = world
        .script(&["--rm", "-v", &bind], "cat /s/in; echo inside > /s/out")
        .succeeds();
    assert_eq!(text, "from the host");
    assert_eq!(
        fs::read_to_string(world.files().join("shared/out")).expect("written"),
        "inside\n"
    );
    let read_only = format!("{folder}:/s:ro");
    world
        .isle(["run", "--rm", "-v", &read_only, &image, "touch", "/s/x"])
        .exits_with(1);
    let mount = format!("type=bind,source={folder},target=/s,readonly");
    world
        .isle(["run", "--rm", "--mount", &mount, &image, "touch", "/s/x"])
        .exits_with(1);
    // A single file.
    let file = format!("{folder}/in:/etc/motd:ro");
    assert_eq!(
        world
            .isle(["run", "--rm", "-v", &file, &image, "cat", "/etc/motd"])
            .succeeds(),
        "from the host"
    );
}

fn a_missing_bind_source_is_made_by_v_and_refused_by_mount(world: &World) {
    let image = world.busybox();
    let place = world.files().join("new/place");
    let bind = format!("{}:/s", place.display());
    world
        .isle(["run", "--rm", "-v", &bind, &image, "true"])
        .exits_with(0);
    assert!(place.is_dir());
    let mount = format!("type=bind,source={}/not-there,target=/s", place.display());
    world
        .isle(["run", "--rm", "--mount", &mount, &image, "true"])
        .exits_with(125)
        .complains("not-there");
}

fn a_named_volume_outlives_its_instances_and_is_filled_from_the_image(world: &World) {
    let image = world.busybox();
    let listing = world
        .isle(["run", "--rm", "-v", "data:/etc", &image, "ls", "/etc"])
        .succeeds();
    assert!(listing.contains("passwd"), "{listing}");
    world
        .script(&["--rm", "-v", "data:/d"], "echo kept > /d/file")
        .exits_with(0);
    assert_eq!(
        world
            .isle([
                "run",
                "--rm",
                "-v",
                "data:/other",
                &image,
                "cat",
                "/other/file"
            ])
            .succeeds(),
        "kept"
    );
}

fn anonymous_volumes_of_the_image_go_with_the_instance(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "source", &image])
        .succeeds();
    world
        .isle(["commit", "-c", "VOLUME /data", "source", "withvolume"])
        .succeeds();
    world
        .isle([
            "run",
            "--name",
            "n",
            "withvolume",
            "sh",
            "-c",
            "echo x > /data/file",
        ])
        .exits_with(0);
    // What is in a volume is not in the writable layer.
    assert!(!world.isle(["diff", "n"]).succeeds().contains("/data/file"));
    assert_eq!(
        world.inspect("n")["Mounts"].as_array().map(Vec::len),
        Some(1)
    );
    world.isle(["rm", "-v", "n"]).succeeds();
    world.isle(["rm", "source"]).succeeds();
}

fn a_volume_can_be_shared_and_is_not_removed_while_in_use(world: &World) {
    let image = world.busybox();
    world.background(
        "writer",
        &["-v", "shared:/s"],
        &["sh", "-c", "echo hi > /s/f; sleep 1000"],
    );
    isle_tests::wait_for("the other sees it", || {
        world
            .isle(["run", "--rm", "-v", "shared:/s:ro", &image, "cat", "/s/f"])
            .run()
            .stdout()
            == "hi\n"
    });
}

fn volumes_from_mounts_what_another_one_mounts(world: &World) {
    let image = world.busybox();
    let folder = world.files().join("bound");
    std::fs::create_dir(&folder).expect("the test's own folder");
    let bind = format!("{}:/bound", folder.display());
    world
        .isle([
            "run",
            "--name",
            "source",
            "-v",
            &bind,
            "-v",
            "named:/named",
            "-v",
            "/anonymous",
        ])
        .arguments(["--tmpfs", "/memory", &image, "sh", "-c"])
        .arguments(["for i in /bound /named /anonymous; do echo $i > $i/file; done"])
        .succeeds();
    let cat = "cat /bound/file /named/file /anonymous/file; ls -d /memory; echo x > /named/new";
    let outcome = world
        .script(&["--rm", "--volumes-from", "source:ro"], cat)
        .exits_with(1);
    assert_eq!(
        outcome.stdout(),
        "/bound\n/named\n/anonymous\n",
        "{outcome}"
    );
    outcome.complains("Read-only file system");
    // Its own mount at the same place counts; what is shared goes with the last one only.
    let own = ["-v", "other:/named"];
    world
        .isle(["run", "--name", "user", "--volumes-from", "source"])
        .arguments(own)
        .arguments([
            &image,
            "sh",
            "-c",
            "test ! -e /named/file && echo more >> /anonymous/file",
        ])
        .succeeds();
    world.isle(["rm", "-v", "source"]).succeeds();
    let text = world
        .isle([
            "run",
            "--rm",
            "--volumes-from",
            "user",
            &image,
            "cat",
            "/anonymous/file",
        ])
        .succeeds();
    assert_eq!(text, "/anonymous\nmore");
    world.isle(["rm", "-v", "user"]).succeeds();
    for wrong in ["nosuch", "user:rx"] {
        world
            .isle(["create", "--volumes-from", wrong, &image, "true"])
            .exits_with(125);
    }
}

fn a_tmpfs_is_empty_and_gone_afterwards(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create",
            "--name",
            "n",
            "--tmpfs",
            "/etc:rw,noexec,mode=0700",
            &image,
            "sh",
            "-c",
            "ls /etc | grep -vE 'hosts|hostname|resolv.conf'; stat -c %a /etc; touch /etc/mark",
        ])
        .succeeds();
    for _ in 0..2 {
        assert_eq!(world.isle(["start", "-a", "n"]).succeeds(), "700");
    }
}

fn cp_in_and_out_of_running_and_stopped_instances(world: &World) {
    world.background("n", &[], &["sleep", "1000"]);
    let source = world.file("source/a", "content");
    let folder = world.files();
    let folder = folder.to_string_lossy();
    for state in ["running", "stopped"] {
        world
            .isle(["cp", &source, &format!("n:/{state}")])
            .succeeds();
        world
            .isle(["cp", &format!("n:/{state}"), &format!("{folder}/{state}")])
            .succeeds();
        assert_eq!(
            fs::read_to_string(world.files().join(state)).expect("copied"),
            "content"
        );
        world
            .isle([
                "cp",
                &format!("{folder}/source"),
                &format!("n:/tmp/{state}-folder"),
            ])
            .succeeds();
        world
            .isle([
                "cp",
                &format!("n:/tmp/{state}-folder/."),
                &format!("{folder}/back-{state}"),
            ])
            .succeeds();
        assert_eq!(
            fs::read_to_string(world.files().join(format!("back-{state}/a"))).expect("copied"),
            "content"
        );
        let outcome = world.isle(["cp", "n:/no/such/file", &folder]).run();
        assert_ne!(outcome.code(), 0, "{outcome}");
        world.isle(["stop", "-t", "0", "n"]).succeeds();
    }
    // A tar stream, both ways.
    let archive = world.isle(["cp", "n:/running", "-"]).exits_with(0);
    world
        .isle(["cp", "-", "n:/tmp"])
        .stdin(archive.stdout_bytes())
        .exits_with(0);
    world
        .isle(["cp", "n:/tmp/running", &format!("{folder}/again")])
        .succeeds();
    assert_eq!(
        fs::read_to_string(world.files().join("again")).expect("copied"),
        "content"
    );
}

fn cp_follows_no_link_out_of_the_root(world: &World) {
    let canary = world.file("canary/file", "untouched");
    let outside = world.files().join("canary");
    world
        .script(
            &["--name", "n"],
            &format!(
                "ln -s {} /out; ln -s /../../../../../../{} /up",
                outside.display(),
                outside.display()
            ),
        )
        .exits_with(0);
    let evil = world.file("evil", "evil");
    for link in ["out", "up"] {
        let _ = world.isle(["cp", &evil, &format!("n:/{link}/file")]).run();
        let _ = world.isle(["cp", &evil, &format!("n:/{link}/new")]).run();
        let target = world.files().join("stolen");
        let outcome = world
            .isle(["cp", &format!("n:/{link}/file"), &target.to_string_lossy()])
            .run();
        // It may find what the copies above have made inside, never what is outside.
        if outcome.code() == 0 {
            assert_ne!(fs::read_to_string(&target).unwrap_or_default(), "untouched");
        }
    }
    assert_eq!(fs::read_to_string(canary).expect("there"), "untouched");
    assert!(!outside.join("new").exists());
}

fn a_bind_onto_a_link_stays_in_the_root(world: &World) {
    let target = world.files().join("host-target");
    fs::create_dir(&target).expect("own folder");
    symlink("/nowhere", world.files().join("link")).expect("own folder");
    world
        .script(
            &["--name", "n"],
            &format!("ln -s {} /trap", target.display()),
        )
        .exits_with(0);
    world.isle(["commit", "n", "trapped"]).succeeds();
    let bind = format!(
        "{}:/trap",
        world.file("shared/x", "x").trim_end_matches("/x")
    );
    let _ = world
        .isle(["run", "--rm", "-v", &bind, "trapped", "touch", "/trap/mark"])
        .run();
    assert_eq!(fs::read_dir(&target).expect("there").count(), 0);
    world.isle(["rm", "n"]).succeeds();
}

fn diff_shows_what_changed(world: &World) {
    world
        .script(
            &["--name", "n"],
            "echo x > /new; echo y >> /etc/passwd; rm /etc/group",
        )
        .exits_with(0);
    let text = world.isle(["diff", "n"]).succeeds();
    for line in ["A /new", "C /etc", "C /etc/passwd", "D /etc/group"] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line:?} in {text}"
        );
    }
}

fn commit_sees_one_moment(world: &World) {
    // Whatever the order in which files are read, something that takes time is between them.
    let script = "mkdir /c; cd /c; for n in 1 2 3 4 5; do dd if=/dev/zero of=${n}b bs=1M count=8 2>/dev/null; done
                  i=0; while :; do i=$((i+1)); for n in 1 2 3 4 5; do echo $i > ${n}c; done
                  [ $i = 1 ] && echo ready; done";
    world.background("n", &[], &["sh", "-c", script]);
    world.wait_for_log("n", "ready");
    world.isle(["commit", "n", "moment"]).succeeds();
    let counts = ["sh", "-c", "cat /c/*c"];
    let text = world
        .isle(["run", "--rm", "moment"])
        .arguments(counts)
        .succeeds();
    let counts: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) else {
        panic!("no counts: {text}");
    };
    // One that was just being written may be empty.
    assert!(counts.len() >= 4 && most - least <= 1, "{counts:?}");
    // It goes on.
    assert_eq!(world.status("n"), "running");
    let now = || world.isle(["exec", "n", "cat", "/c/1c"]).succeeds();
    let before = now();
    wait_for("it counts", || now() != before);
    world
        .isle(["commit", "--pause=false", "n", "moments"])
        .succeeds();
}

fn export_and_commit_keep_what_was_written(world: &World) {
    world
        .script(
            &["--name", "n"],
            "echo kept > /new; rm /etc/group; chown 7:8 /new; chmod 4711 /new",
        )
        .exits_with(0);
    world
        .isle([
            "commit",
            "-m",
            "why",
            "-a",
            "who",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            "n",
            "kept:v1",
        ])
        .succeeds();
    assert_eq!(world.isle(["run", "--rm", "kept:v1"]).succeeds(), "kept");
    assert_eq!(
        world
            .isle(["run", "--rm", "kept:v1", "stat", "-c", "%u:%g %a", "/new"])
            .succeeds(),
        "7:8 4711"
    );
    world
        .isle(["run", "--rm", "kept:v1", "test", "-e", "/etc/group"])
        .exits_with(1);
    let file = world.files().join("export.tar");
    world
        .isle(["export", "-o", &file.to_string_lossy(), "n"])
        .succeeds();
    let mut tar = std::process::Command::new("tar");
    tar.arg("-tf").arg(&file);
    let names = isle_tests::Invocation::new(tar).succeeds();
    let has = |name: &str| {
        names
            .lines()
            .any(|line| line.trim_start_matches("./") == name)
    };
    assert!(
        has("new") && has("bin/busybox") && !has("etc/group"),
        "{names}"
    );
}
