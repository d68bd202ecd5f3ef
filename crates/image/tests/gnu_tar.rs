//! The same archive, unpacked by GNU tar and by us, gives the same tree.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test may panic"
)]

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use isle_image::{Limits, TarReader, UnpackOptions, unpack};
use rustix::fs::{FileType, Mode, XattrFlags, makedev};
use support::{has_program, is_root, run, skipped, tree};

fn make_tree(root: &Path) {
    let deep = root.join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("small"), "x").unwrap();
    fs::write(root.join("block"), [b'b'; 512]).unwrap();
    fs::write(root.join("large"), vec![7; 700_001]).unwrap();
    fs::write(deep.join("setuid"), "s").unwrap();
    chown(deep.join("setuid"), Some(1234), Some(4321)).unwrap();
    fs::set_permissions(deep.join("setuid"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(root.join("small"), deep.join("hard")).unwrap();
    symlink("../../../small", deep.join("link")).unwrap();
    symlink("nowhere/at/all", root.join("dangling")).unwrap();
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o2775)).unwrap();
    chown(root.join("a/b"), Some(7), Some(8)).unwrap();
    fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o1777)).unwrap();
    let long = "n".repeat(120);
    fs::create_dir(root.join(&long)).unwrap();
    fs::write(root.join(&long).join("m".repeat(200)), "long").unwrap();
    symlink("t".repeat(300), root.join("long-link")).unwrap();
    fs::hard_link(
        root.join(&long).join("m".repeat(200)),
        root.join("long-hard"),
    )
    .unwrap();
    fs::write(root.join("ünï cödé\n"), "u").unwrap();
    let folder = fs::File::open(root).unwrap();
    let mode = Mode::from_bits_truncate(0o640);
    for (name, kind, device) in [
        ("char", FileType::CharacterDevice, makedev(1, 3)),
        ("block-device", FileType::BlockDevice, makedev(7, 300)),
        ("pipe", FileType::Fifo, 0),
    ] {
        rustix::fs::mknodat(&folder, name, kind, mode, device).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    use std::os::unix::fs::FileExt;
    sparse.write_at(b"begin", 0).unwrap();
    for hole in 1..40 {
        sparse.write_at(b"island", hole * 100_000).unwrap();
    }
    sparse.set_len(5_000_000).unwrap();
    fs::File::create(root.join("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    for (name, attribute, value) in [
        ("small", "user.comment", &b"a=b\nc\0d"[..]),
        ("a", "user.on-directory", b"x"),
        (
            "large",
            "security.capability",
            &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        ("dangling", "trusted.on-link", b"t"),
    ] {
        rustix::fs::lsetxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    }
    for name in ["a/b/c", "a/b", "a", "small", "dangling", "large"] {
        run(Command::new("touch")
            .args(["-h", "-d", "2001-02-03 04:05:06.789012345"])
            .arg(root.join(name)));
    }
    run(Command::new("touch")
        .args(["-d", "1960-01-01 00:00:00.25 UTC"])
        .arg(root.join("empty")));
}

#[test]
fn every_format_gives_the_same_tree() {
    if skipped("root and GNU tar", is_root() && has_program("tar")) {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    make_tree(&source);
    let xattrs = ["--xattrs", "--xattrs-include=*"];
    for (name, options) in [
        ("pax", &["--format=posix"][..]),
        (
            "pax-sparse-1.0",
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
        ),
        (
            "pax-sparse-0.1",
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
        ),
        (
            "pax-sparse-0.0",
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
        ),
        ("gnu", &["--format=gnu"]),
        ("gnu-sparse", &["--format=gnu", "--sparse"]),
        ("oldgnu", &["--format=oldgnu", "--sparse"]),
    ] {
        let archive = folder.path().join(format!("{name}.tar"));
        let mut create = Command::new("tar");
        create
            .args(options)
            .arg("-C")
            .arg(&source)
            .arg("-cf")
            .arg(&archive);
        if name.starts_with("pax") {
            create.args(xattrs);
        }
        run(create.arg("."));
        let by_tar = folder.path().join(format!("{name}-by-tar"));
        fs::create_dir(&by_tar).unwrap();
        run(Command::new("tar")
            .args(["--same-owner", "--numeric-owner", "-p", "-C"])
            .arg(&by_tar)
            .args(xattrs)
            .arg("-xf")
            .arg(&archive));
        let by_us = folder.path().join(format!("{name}-by-us"));
        fs::create_dir(&by_us).unwrap();
        let root = fs::File::open(&by_us).unwrap();
        let input = std::io::BufReader::new(fs::File::open(&archive).unwrap());
        let mut reader = TarReader::new(input, Limits::default());
        unpack(root.as_fd(), &mut reader, &UnpackOptions::default()).unwrap();
        let (theirs, ours) = (tree(&by_tar), tree(&by_us));
        for (path, line) in &theirs {
            assert_eq!(ours.get(path), Some(line), "{name}: {path:?}");
        }
        assert_eq!(ours.len(), theirs.len(), "{name}");
        if name == "pax-sparse-1.0" {
            let blocks = |root: &Path| {
                use std::os::unix::fs::MetadataExt;
                fs::metadata(root.join("sparse")).unwrap().blocks()
            };
            assert!(blocks(&by_us) * 512 < 1_000_000, "holes stay holes");
        }
    }
}

#[test]
fn archives_of_other_programs_are_read() {
    if skipped(
        "busybox",
        Command::new("busybox").arg("true").status().is_ok(),
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("x".repeat(90)).join("y".repeat(90))).unwrap();
    fs::write(
        source
            .join("x".repeat(90))
            .join("y".repeat(90))
            .join("file"),
        "f",
    )
    .unwrap();
    fs::write(source.join("z"), "z").unwrap();
    let archives = [
        ("busybox", vec!["busybox", "tar", "-c", "-f"]),
        ("ustar", vec!["tar", "--format=ustar", "-c", "-f"]),
        ("v7", vec!["tar", "--format=v7", "--exclude=x*", "-c", "-f"]),
    ];
    for (name, command) in archives {
        let archive = folder.path().join(name);
        run(Command::new(command[0])
            .args(&command[1..])
            .arg(&archive)
            .arg("-C")
            .arg(&source)
            .arg("."));
        let target = folder.path().join(format!("{name}-out"));
        fs::create_dir(&target).unwrap();
        let bytes = fs::read(&archive).unwrap();
        let root = fs::File::open(&target).unwrap();
        let mut reader = TarReader::new(&*bytes, Limits::default());
        unpack(root.as_fd(), &mut reader, &UnpackOptions::default()).unwrap();
        assert_eq!(fs::read(target.join("z")).unwrap(), b"z", "{name}");
        if name != "v7" {
            let deep = target
                .join("x".repeat(90))
                .join("y".repeat(90))
                .join("file");
            assert_eq!(fs::read(deep).unwrap(), b"f", "{name}");
        }
    }
}
