//! What is not done again, and what is not kept.

use isle_tests::World;

use crate::{build, context, inside};

fn id(world: &World, image: &str) -> String {
    world
        .isle(["images", "--no-trunc", "--quiet", image])
        .succeeds()
}

pub fn a_second_build_runs_nothing(world: &World) {
    let dockerfile = "FROM busybox\nWORKDIR /w\nCOPY . .\nRUN cat /proc/sys/kernel/random/uuid > when\nENV A=1\nRUN echo $A\n";
    let context = context(world, "again", dockerfile, &[("a", "1"), ("b/c", "2")]);
    build(world, &["-t", "again"], &context).succeeds();
    let first = id(world, "again");
    // Times do not count.
    let now = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    let file = std::fs::File::open(format!("{context}/a")).expect("it is there");
    file.set_modified(now).expect("our own file");
    let told = build(world, &["-t", "again"], &context).run();
    assert_eq!(told.code(), 0);
    assert!(!told.stderr().contains("DONE"), "{}", told.stderr());
    assert_eq!(id(world, "again"), first);
    build(world, &["-t", "again", "--no-cache"], &context).succeeds();
    assert_ne!(id(world, "again"), first);
}

pub fn a_changed_file_runs_what_follows_it(world: &World) {
    let dockerfile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /before\nCOPY a /a\nRUN cat /proc/sys/kernel/random/uuid > /after\n";
    let context = context(world, "change", dockerfile, &[("a", "1"), ("b", "2")]);
    let times = || {
        build(world, &["-t", "change"], &context).succeeds();
        let said = inside(world, "change", "cat /before /after");
        let mut lines = said.lines().map(str::to_owned);
        (lines.next().expect("two"), lines.next().expect("two"))
    };
    let first = times();
    world.file("change/b", "3");
    assert_eq!(times(), first);
    world.file("change/a", "4");
    let second = times();
    assert_eq!(second.0, first.0);
    assert_ne!(second.1, first.1);
    world.file("change/a", "1");
    assert_eq!(times(), first);
}

pub fn caches_and_secrets_are_mounted_and_not_kept(world: &World) {
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=cache,target=/cache echo x >> /cache/n\n\
        RUN --mount=type=cache,target=/cache,ro wc -l < /cache/n > /count\n\
        RUN --mount=type=secret,id=key,mode=0440,gid=5 cat /run/secrets/key | wc -c > /length\n\
        RUN --mount=type=secret,id=key,env=KEY echo ${#KEY} >> /length\n\
        RUN --mount=type=tmpfs,target=/mem touch /mem/file\n\
        RUN --mount=type=bind,source=sub,target=/from/here cp /from/here/f /copied\n\
        RUN --mount=type=bind,source=sub,target=/from/here,rw echo no > /from/here/f\n\
        RUN --mount=type=bind,from=busybox,source=/bin,target=/other ls /other/sh > /ls\n";
    let context = context(
        world,
        "mounts",
        dockerfile,
        &[("sub/f", "bound\n"), (".dockerignore", "x\n")],
    );
    let secret = world.file("secret", "12345");
    let secret = format!("id=key,src={secret}");
    build(world, &["-t", "mounts", "--secret", &secret], &context).succeeds();
    assert_eq!(
        inside(
            world,
            "mounts",
            "cat /count /length /copied /ls; ls -d /run/secrets /mem /from /cache 2>/dev/null; true"
        ),
        "1\n5\n5\nbound\n/other/sh\n"
    );
    assert_eq!(
        std::fs::read_to_string(format!("{context}/sub/f")).expect("ours"),
        "bound\n"
    );
    let required = crate::context(
        world,
        "required",
        "FROM busybox\nRUN --mount=type=secret,id=none,required=true true\n",
        &[],
    );
    build(world, &[], &required)
        .exits_with(1)
        .complains("--secret id=none");
}

pub fn the_same_time_gives_the_same_image(world: &World) {
    let dockerfile = "FROM busybox\nWORKDIR /w\nCOPY a a\nRUN echo x > x; mkdir d; touch d/y\n";
    let context = context(world, "same", dockerfile, &[("a", "1")]);
    let made = || {
        build(world, &["-t", "same", "--no-cache"], &context)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .succeeds();
        id(world, "same")
    };
    let first = made();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(made(), first);
    assert_eq!(inside(world, "same", "date -u -r /w/x +%s"), "1700000000\n");
}

pub fn the_cache_is_listed_and_pruned(world: &World) {
    let dockerfile = "FROM busybox AS one\nRUN --mount=type=cache,target=/c head -c 100000 /dev/zero > /zeros\n\
        FROM busybox\nCOPY --from=one /zeros /z\n";
    let context = context(world, "prune", dockerfile, &[]);
    build(world, &["-t", "prune"], &context).succeeds();
    let listed = || {
        world
            .isle([
                "builder",
                "du",
                "--format",
                "{{.Reclaimable}} {{.Description}}",
            ])
            .succeeds()
    };
    let lines = listed();
    assert!(lines.contains("true [one 2/2] RUN"), "{lines}");
    assert!(lines.contains("false [stage-1 2/2] COPY"), "{lines}");
    assert!(lines.contains("cache mount /c"), "{lines}");
    let told = world.isle(["builder", "prune", "--force"]).succeeds();
    assert!(told.contains("kB"), "{told}");
    let lines = listed();
    assert!(
        lines.contains("COPY") && lines.contains("/c") && !lines.contains("RUN"),
        "{lines}"
    );
    world
        .isle(["builder", "prune", "--all", "--force"])
        .succeeds();
    assert_eq!(listed(), "");
    assert_eq!(inside(world, "prune", "wc -c < /z"), "100000\n");
    build(world, &["-t", "prune"], &context).succeeds();
}

pub fn a_cache_is_carried_to_another_store(world: &World) {
    let dockerfile = "FROM busybox AS one\nRUN cat /proc/sys/kernel/random/uuid > /id\nFROM busybox\nCOPY --from=one /id /\nRUN cat /id > /copy\n";
    let context = context(world, "carried", dockerfile, &[]);
    let folder = world.files().join("cache").to_string_lossy().into_owned();
    let to = format!("type=local,dest={folder}");
    let from = format!("type=local,src={folder}");
    build(world, &["-t", "carried", "--cache-to", &to], &context).succeeds();
    let first = inside(world, "carried", "cat /copy");
    world.isle(["rmi", "carried"]).succeeds();
    world
        .isle(["builder", "prune", "--all", "--force"])
        .succeeds();
    let told = build(world, &["-t", "carried", "--cache-from", &from], &context).run();
    assert!(
        !told.stderr().contains("RUN cat /id > /copy\n#7 DONE"),
        "{}",
        told.stderr()
    );
    assert_eq!(inside(world, "carried", "cat /copy"), first);
    // One that names images is refused: they would take names away.
    world
        .isle(["save", "-o", &format!("{folder}/images.tar"), "busybox"])
        .succeeds();
    world.isle(["rmi", "carried"]).succeeds();
    world
        .isle(["builder", "prune", "--all", "--force"])
        .succeeds();
    build(world, &["--cache-from", &from], &context)
        .exits_with(1)
        .complains("names images");
    build(world, &["--cache-from", "type=gha"], &context)
        .exits_with(125)
        .complains("type=local");
}
