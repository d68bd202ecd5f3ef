//! `COPY` and `ADD`.

use std::process::Command;

use isle_tests::World;

use crate::{build, context, inside};

pub fn copies_have_owners_modes_and_exceptions(world: &World) {
    let dockerfile = "FROM busybox\n\
        RUN echo 'app:x:77:78::/:' >> /etc/passwd && echo 'team:x:99:' >> /etc/group\n\
        COPY --chown=app src/a.c /one/\n\
        COPY --chown=5:team --chmod=u=rwX,go= src /two\n\
        COPY --exclude=*.c --exclude=deep/x src/ /three/\n\
        COPY --parents src/deep/*.h src/./b.c /four/\n\
        COPY src/*.c /five/\n\
        COPY . /all\n";
    let files = [
        ("src/a.c", "a"),
        ("src/b.c", "b"),
        ("src/deep/d.h", "d"),
        ("src/deep/x", "x"),
        ("skip/me", "s"),
        ("skip/keep", "k"),
        (
            ".dockerignore",
            "skip\n!skip/keep\nDockerfile\n.dockerignore\n",
        ),
    ];
    let context = context(world, "copies", dockerfile, &files);
    build(world, &["-t", "copies"], &context).succeeds();
    let list = |path: &str| {
        inside(
            world,
            "copies",
            &format!("cd {path} && find . -type f | sort | tr '\\n' ' '"),
        )
        .trim_end()
        .to_owned()
    };
    assert_eq!(
        inside(world, "copies", "stat -c '%u:%g' /one /one/a.c"),
        "77:78\n77:78\n"
    );
    assert_eq!(
        inside(
            world,
            "copies",
            "stat -c '%u:%g %a' /two /two/a.c /two/deep"
        ),
        "5:99 700\n5:99 600\n5:99 700\n"
    );
    assert_eq!(list("/three"), "./deep/d.h");
    assert_eq!(list("/four"), "./b.c ./src/deep/d.h");
    assert_eq!(list("/five"), "./a.c ./b.c");
    assert_eq!(
        list("/all"),
        "./skip/keep ./src/a.c ./src/b.c ./src/deep/d.h ./src/deep/x"
    );
}

pub fn links_of_the_image_are_followed_and_folders_kept(world: &World) {
    let dockerfile = "FROM busybox\n\
        RUN mkdir -p /real/in && chmod 711 /real && ln -s real/in /link && ln -s /out/of/here /out\n\
        COPY a /link/\n\
        COPY dir /real\n\
        COPY --link a /linked/a\n\
        WORKDIR /link\n\
        COPY a ./b\n";
    let context = context(world, "links", dockerfile, &[("a", "a"), ("dir/x", "x")]);
    build(world, &["-t", "links"], &context).succeeds();
    assert_eq!(
        inside(
            world,
            "links",
            "ls /real/in; readlink /link; stat -c %a /real; cat /real/x /linked/a"
        ),
        "a\nb\nreal/in\n711\nxa\n"
    );
    let bad = crate::context(
        world,
        "over",
        "FROM links\nCOPY d /link\nCOPY sub /\n",
        &[("d/f", "1"), ("sub/link/f", "2")],
    );
    build(world, &[], &bad)
        .exits_with(1)
        .complains("/link is no folder");
}

pub fn archives_are_unpacked_by_add_alone(world: &World) {
    let folder = world.files().join("packed");
    world.file("packed/top/file", "inner\n");
    let archive = world.files().join("archives/files.tar.gz");
    std::fs::create_dir_all(world.files().join("archives")).expect("our own");
    let status = Command::new("tar")
        .args(["-czf"])
        .arg(&archive)
        .arg("-C")
        .arg(&folder)
        .args(["--owner=5", "--group=6", "top"])
        .status();
    assert!(status.expect("tar is there").success());
    let dockerfile = "FROM busybox\nADD files.tar.gz /added\nCOPY files.tar.gz /copied/\n\
        ADD --unpack=false files.tar.gz /kept/\nADD plain /plain/\n";
    let context = context(world, "archives", dockerfile, &[("plain", "plain\n")]);
    build(world, &["-t", "archives"], &context).succeeds();
    assert_eq!(
        inside(
            world,
            "archives",
            "cat /added/top/file; stat -c %u:%g /added/top/file; ls /copied /kept; cat /plain/plain"
        ),
        "inner\n5:6\n/copied:\nfiles.tar.gz\n\n/kept:\nfiles.tar.gz\nplain\n"
    );
}

pub fn files_come_from_other_contexts(world: &World) {
    let dockerfile = "FROM base AS x\nCOPY --from=lib f /f\nFROM x\nCOPY g /g\n";
    let main = context(world, "main", dockerfile, &[("g", "main\n")]);
    let lib = context(world, "lib", "", &[("f", "lib\n")]);
    let flags = [
        "-t",
        "other",
        "--build-context",
        &format!("lib={lib}"),
        "--build-context",
        "base=docker-image://busybox",
    ];
    build(world, &flags, &main).succeeds();
    assert_eq!(inside(world, "other", "cat /f /g"), "lib\nmain\n");
    // The context as an archive, the Dockerfile alone, and one beside the context.
    let tar = Command::new("tar")
        .args(["-c", "-C", &main, "."])
        .output()
        .expect("tar is there");
    build(
        world,
        &[
            "-t",
            "tarred",
            "--build-context",
            &format!("lib={lib}"),
            "--build-context",
            "base=docker-image://busybox",
        ],
        "-",
    )
    .stdin(tar.stdout)
    .succeeds();
    assert_eq!(inside(world, "tarred", "cat /f /g"), "lib\nmain\n");
    build(world, &["-t", "alone"], "-")
        .stdin("FROM busybox\nRUN echo alone > /x\n")
        .succeeds();
    assert_eq!(inside(world, "alone", "cat /x"), "alone\n");
    build(world, &["-t", "named", "-f", "-"], &main)
        .stdin("FROM busybox\nCOPY g /n\n")
        .succeeds();
    assert_eq!(inside(world, "named", "cat /n"), "main\n");
}
