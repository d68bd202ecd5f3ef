//! Images: into the store and out of it again, also with other programs; names; removal; hostile input.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

use isle_tests::peers::{Docker, Podman, Registry};
use isle_tests::{Invocation, Level, Need, World, wait_for};

isle_tests::stories! {
    only Level::Container;
    imported_saved_removed_loaded,
    an_image_has_names_and_goes_with_the_last,
    images_and_history_and_inspect_show_what_there_is [Need::Isle],
    an_image_in_use_is_not_removed,
    prune_takes_unused_images_only [Need::Isle],
    what_podman_saved_is_loaded_and_the_other_way_round [Need::Isle, Need::Podman],
    what_docker_saved_is_loaded_and_the_other_way_round [Need::Isle, Need::Docker],
    skopeo_reads_and_writes_every_format [Need::Isle, Need::Skopeo],
    buildah_archives_are_loaded [Need::Isle, Need::Buildah],
    pushed_and_pulled_through_a_registry [Need::Isle, Need::Registry],
    all_tags_are_pushed_and_pulled_at_once [Need::Isle, Need::Registry],
    a_registry_with_a_password_wants_a_login [Need::Isle, Need::Registry],
    a_broken_archive_is_refused_and_leaves_nothing [Need::Isle],
    malformed_references_are_refused_by_name [Need::Isle],
    hostile_layers_do_not_leave_the_root [Need::Isle],
    a_kill_during_load_leaves_no_half_image [Need::Isle],
    concurrent_loads_and_removals_lose_nothing [Need::Isle],
}

fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    Invocation::new(command).succeeds()
}

/// `busybox` saved by Isle as a docker-archive.
fn saved(world: &World) -> String {
    let image = world.busybox();
    let file = world
        .files()
        .join("saved.tar")
        .to_string_lossy()
        .into_owned();
    world.isle(["save", "-o", &file, &image]).succeeds();
    file
}

fn runs(world: &World, image: &str) {
    assert_eq!(
        world
            .isle(["run", "--rm", image, "echo", "it", "runs"])
            .succeeds(),
        "it runs"
    );
}

fn imported_saved_removed_loaded(world: &World) {
    let file = saved(world);
    world.isle(["rmi", "busybox"]).succeeds();
    let outcome = world
        .isle(["run", "--rm", "--pull", "never", "busybox", "true"])
        .run();
    assert_eq!(outcome.code(), 125, "{outcome}");
    let outcome = world.isle(["load", "-i", &file]).exits_with(0);
    outcome.prints("busybox");
    runs(world, "busybox");
    // From standard input too.
    world.isle(["rmi", "busybox"]).succeeds();
    world
        .isle(["load"])
        .stdin(fs::read(&file).expect("saved"))
        .exits_with(0);
    runs(world, "busybox");
}

fn an_image_has_names_and_goes_with_the_last(world: &World) {
    let image = world.busybox();
    world.isle(["tag", &image, "other:v2"]).succeeds();
    world
        .isle(["tag", &image, "127.0.0.1:5000/deep/er/name:1.0"])
        .succeeds();
    world.isle(["rmi", &image]).succeeds();
    runs(world, "other:v2");
    runs(world, "127.0.0.1:5000/deep/er/name:1.0");
    world
        .isle(["rmi", "other:v2", "127.0.0.1:5000/deep/er/name:1.0"])
        .succeeds();
    assert_eq!(world.isle(["images", "-q"]).succeeds(), "");
}

fn images_and_history_and_inspect_show_what_there_is(world: &World) {
    let image = world.busybox();
    let table = world.isle(["images"]).succeeds();
    for column in ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"] {
        assert!(table.contains(column), "{table}");
    }
    assert_eq!(
        world
            .isle(["images", "--format", "{{.Repository}}:{{.Tag}}"])
            .succeeds(),
        "busybox:latest"
    );
    let inspected = world.isle(["image", "inspect", &image]).succeeds();
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected[0]["Config"]["Cmd"][0], "sh");
    assert_eq!(inspected[0]["Os"], "linux");
    assert!(!world.isle(["history", &image]).succeeds().is_empty());
    assert!(world.isle(["system", "df"]).succeeds().contains("Images"));
    let outcome = world.isle(["image", "inspect", "nosuch"]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
}

fn an_image_in_use_is_not_removed(world: &World) {
    let image = world.busybox();
    world.isle(["create", "--name", "n", &image]).succeeds();
    let outcome = world.isle(["rmi", &image]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    world.isle(["rm", "n"]).succeeds();
    world.isle(["rmi", &image]).succeeds();
}

fn prune_takes_unused_images_only(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "n", &image, "sh", "-c", "echo x > /x"])
        .succeeds();
    world.isle(["start", "-a", "n"]).succeeds();
    world.isle(["commit", "n", "changed"]).succeeds();
    world.isle(["image", "prune", "-f"]).succeeds();
    assert_eq!(world.isle(["images", "-q"]).succeeds().lines().count(), 2);
    world.isle(["image", "prune", "-a", "-f"]).succeeds();
    assert_eq!(
        world
            .isle(["images", "--format", "{{.Repository}}"])
            .succeeds(),
        "busybox"
    );
    world.isle(["start", "-a", "n"]).succeeds();
}

fn what_podman_saved_is_loaded_and_the_other_way_round(world: &World) {
    let podman = Podman::new(&world.files().join("podman"), "runc");
    let theirs = |arguments: &[&str]| Invocation::new(podman.command(arguments)).succeeds();
    let ours = saved(world);
    theirs(&["load", "-i", &ours]);
    assert_eq!(
        theirs(&[
            "run",
            "--rm",
            "--network",
            "none",
            "docker.io/library/busybox",
            "echo",
            "hi"
        ]),
        "hi"
    );
    for format in ["docker-archive", "oci-archive"] {
        let file = world
            .files()
            .join(format!("{format}.tar"))
            .to_string_lossy()
            .into_owned();
        let name = format!("localhost/from-podman:{format}");
        theirs(&["tag", "docker.io/library/busybox", &name]);
        theirs(&["save", "--format", format, "-o", &file, &name]);
        world.isle(["load", "-i", &file]).succeeds();
        runs(world, &name);
    }
}

fn what_docker_saved_is_loaded_and_the_other_way_round(world: &World) {
    let docker = match Docker::start(&world.files().join("d")) {
        Ok(docker) => docker,
        Err(reason) => panic!("{reason}"),
    };
    let theirs = |arguments: &[&str]| Invocation::new(docker.command(arguments)).succeeds();
    let ours = saved(world);
    theirs(&["load", "-i", &ours]);
    assert_eq!(
        theirs(&["run", "--rm", "--network", "none", "busybox", "echo", "hi"]),
        "hi"
    );
    let file = world
        .files()
        .join("docker.tar")
        .to_string_lossy()
        .into_owned();
    theirs(&["tag", "busybox", "from-docker:v1"]);
    theirs(&["save", "-o", &file, "from-docker:v1"]);
    world.isle(["load", "-i", &file]).succeeds();
    runs(world, "from-docker:v1");
}

fn skopeo_reads_and_writes_every_format(world: &World) {
    let ours = saved(world);
    let folder = world.files();
    let folder = folder.to_string_lossy();
    let ours = format!("docker-archive:{ours}");
    let policy = "--insecure-policy";
    for (kind, name) in [
        ("oci-archive", "o.tar:from/skopeo:o"),
        ("docker-archive", "d.tar:from/skopeo:d"),
    ] {
        run(
            "skopeo",
            &[
                "copy",
                "-q",
                policy,
                &ours,
                &format!("{kind}:{folder}/{name}"),
            ],
        );
        let file = name.split(':').next().unwrap_or_default();
        world
            .isle(["load", "-i", &format!("{folder}/{file}")])
            .succeeds();
    }
    runs(world, "from/skopeo:d");
    // A directory in the OCI layout, zstd layers.
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            policy,
            "--dest-compress-format",
            "zstd",
            &ours,
            &format!("oci:{folder}/layout:from/skopeo:z"),
        ],
    );
    world
        .isle(["load", "-i", &format!("{folder}/layout")])
        .succeeds();
    runs(world, "from/skopeo:z");
}

fn buildah_archives_are_loaded(world: &World) {
    let ours = saved(world);
    let folder = world.files().join("buildah");
    let folder = folder.to_string_lossy();
    let global = [
        "--root",
        &format!("{folder}/root"),
        "--runroot",
        &format!("{folder}/run"),
        "--storage-driver",
        "vfs",
    ];
    let buildah = |arguments: &[&str]| {
        let mut all: Vec<&str> = global.to_vec();
        all.extend(arguments);
        run("buildah", &all)
    };
    let container = buildah(&["from", "-q", &format!("docker-archive:{ours}")]);
    buildah(&["config", "--cmd", "echo made by buildah", &container]);
    let file = world.files().join("b.tar");
    buildah(&[
        "commit",
        "-q",
        "--rm",
        &container,
        &format!("oci-archive:{}:made/by:buildah", file.display()),
    ]);
    world
        .isle(["load", "-i", &file.to_string_lossy()])
        .succeeds();
    assert_eq!(
        world.isle(["run", "--rm", "made/by:buildah"]).succeeds(),
        "made by buildah"
    );
    buildah(&["rmi", "-a", "-f"]);
}

fn pushed_and_pulled_through_a_registry(world: &World) {
    let registry = Registry::start(&world.files().join("registry"));
    let image = world.busybox();
    let name = format!("{}/team/busybox:v1", registry.address());
    world.isle(["tag", &image, &name]).succeeds();
    world.isle(["push", &name]).succeeds();
    world.isle(["rmi", &name, &image]).succeeds();
    let outcome = world.isle(["pull", &name]).exits_with(0);
    outcome.complains("Digest: sha256:");
    runs(world, &name);
    // By digest, and what is not there.
    let digest = outcome
        .stderr()
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"))
        .expect("a digest")
        .to_owned();
    world
        .isle([
            "pull",
            &format!("{}/team/busybox@{digest}", registry.address()),
        ])
        .succeeds();
    let outcome = world
        .isle(["pull", &format!("{}/no/such:v1", registry.address())])
        .run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    let wrong = digest.replace(|c: char| c.is_ascii_digit(), "0");
    let outcome = world
        .isle([
            "pull",
            &format!("{}/team/busybox@{wrong}", registry.address()),
        ])
        .run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    // `run` pulls what is missing.
    let _ = world.isle(["rmi", "-f", &name]).run();
    assert_eq!(
        world
            .isle(["run", "--rm", &name, "echo", "pulled"])
            .succeeds(),
        "pulled"
    );
}

fn all_tags_are_pushed_and_pulled_at_once(world: &World) {
    let registry = Registry::start(&world.files().join("registry"));
    let image = world.busybox();
    let name = format!("{}/team/busybox", registry.address());
    for tag in ["a", "b", "c"] {
        world
            .isle(["tag", &image, &format!("{name}:{tag}")])
            .succeeds();
    }
    let pushed = world.isle(["push", "-a", &name]).succeeds();
    let pushed: Vec<&str> = pushed
        .lines()
        .map(|line| line.split('@').next().unwrap_or(line))
        .collect();
    assert_eq!(pushed, ["a", "b", "c"].map(|tag| format!("{name}:{tag}")));
    world
        .isle([
            "rmi",
            &format!("{name}:a"),
            &format!("{name}:b"),
            &format!("{name}:c"),
            &image,
        ])
        .succeeds();
    world.isle(["pull", "--all-tags", "-q", &name]).succeeds();
    let list = world
        .isle(["images", "--format", "{{.Tag}}", &name])
        .succeeds();
    let mut tags: Vec<&str> = list.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["a", "b", "c"]);
    for verb in ["pull", "push"] {
        world
            .isle([verb, "-a", &format!("{name}:a")])
            .exits_with(1)
            .complains("--all-tags means all tags");
    }
    let nothing = format!("{}/no/such", registry.address());
    world
        .isle(["push", "-a", &nothing])
        .exits_with(1)
        .complains("does not exist locally");
    assert_ne!(world.isle(["pull", "-a", &nothing]).run().code(), 0);
}

fn a_registry_with_a_password_wants_a_login(world: &World) {
    // A test vector of bcrypt: the digest of "U*U".
    let line = "anna:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
    let registry = Registry::with_password(&world.files().join("registry"), line);
    let image = world.busybox();
    let name = format!("{}/private:v1", registry.address());
    world.isle(["tag", &image, &name]).succeeds();
    let outcome = world.isle(["push", &name]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    let login = |password: &str| {
        let arguments = [
            "login",
            "-u",
            "anna",
            "--password-stdin",
            &registry.address(),
        ];
        world.isle(arguments).stdin(password).run()
    };
    let outcome = login("not the password");
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert!(!outcome.stderr().contains("not the password"), "{outcome}");
    let outcome = login("U*U\n");
    assert_eq!(outcome.code(), 0, "{outcome}");
    world.isle(["push", &name]).succeeds();
    world.isle(["rmi", &name]).succeeds();
    world.isle(["pull", &name]).succeeds();
    world.isle(["logout", &registry.address()]).succeeds();
    world.isle(["rmi", &name]).succeeds();
    let outcome = world.isle(["pull", &name]).run();
    assert_ne!(outcome.code(), 0, "{outcome}");
}

fn a_broken_archive_is_refused_and_leaves_nothing(world: &World) {
    let good = fs::read(saved(world)).expect("saved");
    world.isle(["rmi", "busybox"]).succeeds();
    let clean = census(&world.root());
    let mut flipped = good.clone();
    // In the middle of the layer, whose digest then differs.
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let cases: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("text", b"this is no archive at all\n".repeat(100)),
        ("truncated", good[..good.len() / 3].to_vec()),
        ("flipped", flipped),
        ("gzip-bomb-header", b"\x1f\x8b\x08\x00garbage".to_vec()),
    ];
    for (name, bytes) in cases {
        let file = world.file(name, &bytes);
        let outcome = world.isle(["load", "-i", &file]).run();
        assert_ne!(outcome.code(), 0, "{name}: {outcome}");
        assert!(!outcome.stderr().contains("panicked"), "{outcome}");
        assert!(!outcome.stderr().trim().is_empty(), "{outcome}");
    }
    assert_eq!(world.isle(["images", "-q", "-a"]).succeeds(), "");
    world.isle(["image", "prune", "-a", "-f"]).succeeds();
    let left: Vec<_> = census(&world.root())
        .into_iter()
        .filter(|path| !clean.contains(path))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// All files of the store's folders.
fn census(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("blobs"), root.join("layers"), root.join("tmp")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

fn malformed_references_are_refused_by_name(world: &World) {
    for name in [
        "UPPER",
        "a//b",
        "a:b:c",
        "a@sha256:short",
        "/a",
        "a/",
        ":tag",
        "a:",
        "-x",
        "a b",
        "ä",
        "a@md5:00",
    ] {
        // As Docker's: its engine refuses them, not its command line.
        let outcome = world.isle(["pull", "--", name]).run();
        assert_eq!(outcome.code(), 1, "{name}: {outcome}");
        assert!(!outcome.stderr().contains("panicked"), "{outcome}");
    }
}

fn hostile_layers_do_not_leave_the_root(world: &World) {
    let canary = world.files().join("canary");
    fs::create_dir(&canary).expect("own folder");
    fs::write(canary.join("file"), "untouched").expect("own folder");
    let outside = canary.to_string_lossy().into_owned();
    // Python's tarfile writes whatever it is told to.
    let script = r#"
import io, sys, tarfile
folder, outside = sys.argv[1:]
def tar(name, *entries):
    with tarfile.open(f"{folder}/{name}.tar", "w") as t:
        for kind, path, arg in entries:
            info = tarfile.TarInfo(path)
            data = None
            if kind == "file":
                data = arg.encode(); info.size = len(data)
            elif kind == "symlink":
                info.type = tarfile.SYMTYPE; info.linkname = arg
            elif kind == "hardlink":
                info.type = tarfile.LNKTYPE; info.linkname = arg
            elif kind == "dir":
                info.type = tarfile.DIRTYPE; info.mode = 0o755
            t.addfile(info, io.BytesIO(data) if data else None)
tar("dotdot", ("file", "../../../../../../../.." + outside + "/new", "evil"))
tar("absolute", ("file", outside + "/new", "evil"))
tar("symlink", ("symlink", "link", outside), ("file", "link/new", "evil"), ("file", "link/file", "evil"))
tar("symlink-up", ("symlink", "link", "../" * 12 + outside), ("file", "link/file", "evil"))
tar("hardlink", ("hardlink", "link", outside + "/file"), ("file", "link", "evil"))
tar("hardlink-up", ("hardlink", "link", "../" * 12 + outside + "/file"), ("file", "link", "evil"))
tar("link-chain", ("symlink", "a", "b"), ("symlink", "b", outside), ("file", "a/new", "evil"))
tar("replaced", ("dir", "d", ""), ("symlink", "d", outside), ("file", "d/new", "evil"))
tar("whiteout", ("symlink", "link", outside), ("file", "link/.wh.file", ""), ("file", "link/.wh..wh..opq", ""))
tar("whiteout-up", ("file", ".wh...", ""), ("file", "d/.wh...", ""))
"#;
    let folder = world.files().to_string_lossy().into_owned();
    run("python3", &["-c", script, &folder, &outside]);
    for name in [
        "dotdot",
        "absolute",
        "symlink",
        "symlink-up",
        "hardlink",
        "hardlink-up",
        "link-chain",
        "replaced",
        "whiteout",
        "whiteout-up",
    ] {
        let outcome = world
            .isle(["import", &format!("{folder}/{name}.tar"), name])
            .run();
        assert!(!outcome.stderr().contains("panicked"), "{outcome}");
        assert_eq!(
            fs::read_to_string(canary.join("file")).expect("there"),
            "untouched",
            "{name}"
        );
        assert_eq!(
            fs::read_dir(&canary).expect("there").count(),
            1,
            "{name}: {outcome}"
        );
    }
}

fn a_kill_during_load_leaves_no_half_image(world: &World) {
    let file = saved(world);
    world.isle(["rmi", "busybox"]).succeeds();
    // At ever later moments.
    for delay_ms in [0, 1, 2, 4, 8, 12, 16, 24, 32, 48] {
        let running = world.isle(["load", "-i", &file]).spawn();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        running.signal(rustix::process::Signal::KILL);
        let _ = running.wait();
        // Whole or not there.
        if !world.isle(["images", "-q"]).succeeds().is_empty() {
            runs(world, "busybox");
            world.isle(["rmi", "busybox"]).succeeds();
        }
    }
    world.isle(["load", "-i", &file]).succeeds();
    runs(world, "busybox");
    world.isle(["rmi", "busybox"]).succeeds();
    world.isle(["image", "prune", "-a", "-f"]).succeeds();
    wait_for("nothing half-made is left", || {
        census(&world.root()).is_empty()
    });
}

fn concurrent_loads_and_removals_lose_nothing(world: &World) {
    let file = saved(world);
    world.isle(["tag", "busybox", "kept"]).succeeds();
    for _ in 0..3 {
        let running: Vec<_> = (0..6)
            .map(|number| match number % 3 {
                0 => world.isle(["load", "-i", &file]).spawn(),
                1 => world.isle(["rmi", "-f", "busybox"]).spawn(),
                _ => world.isle(["image", "prune", "-f"]).spawn(),
            })
            .collect();
        for running in running {
            let outcome = running.wait();
            assert!(!outcome.stderr().contains("panicked"), "{outcome}");
        }
        runs(world, "kept");
    }
}
