//! Archives made to break out, confuse or exhaust. Each is unpacked beside a canary that must not
//! change, and ends with a clear error or with a tree that is all inside.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test may panic"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use isle_image::{Limits, TarReader, UnpackError, UnpackOptions, Unpacked, unpack};
use support::{Header, Tar, is_root, pax_records, skipped, tree};

struct Cage {
    folder: tempfile::TempDir,
    before: BTreeMap<String, String>,
}

impl Cage {
    fn new() -> Cage {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("canary/sub")).unwrap();
        fs::write(folder.path().join("canary/secret"), "secret").unwrap();
        fs::create_dir(folder.path().join("layer")).unwrap();
        let before = tree(&folder.path().join("canary"));
        Cage { folder, before }
    }

    fn layer(&self) -> PathBuf {
        self.folder.path().join("layer")
    }

    fn unpack_with(&self, archive: &[u8], limits: Limits) -> Result<Unpacked, UnpackError> {
        let root = fs::File::open(self.layer()).unwrap();
        let mut reader = TarReader::new(archive, limits);
        let options = UnpackOptions {
            limits,
            ..UnpackOptions::default()
        };
        let result = unpack(root.as_fd(), &mut reader, &options);
        assert_eq!(tree(&self.folder.path().join("canary")), self.before);
        let names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "something new beside the layer: {names:?}");
        result
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, UnpackError> {
        self.unpack_with(archive, Limits::default())
    }
}

fn refused(archive: Vec<u8>, why: &str) {
    let cage = Cage::new();
    let error = cage.unpack(&archive).expect_err(why);
    let text = error.to_string();
    assert!(text.contains(why), "{text:?} does not say {why:?}");
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in [
        "../canary/x",
        "a/../../canary/x",
        "/../canary/x",
        "a/..",
        "..",
        "./../x",
    ] {
        refused(Tar::default().file(path, b"x").end(), "has .. in its path");
        refused(Tar::default().directory(path).end(), "has .. in its path");
        refused(
            Tar::default()
                .pax(&[("path", path.as_bytes())])
                .file("ok", b"x")
                .end(),
            "has .. in its path",
        );
    }
    let cage = Cage::new();
    cage.unpack(&Tar::default().file("/etc/absolute", b"x").end())
        .unwrap();
    assert!(cage.layer().join("etc/absolute").exists());
    assert!(!std::path::Path::new("/etc/absolute").exists());
}

#[test]
fn links_that_lead_out_are_not_followed() {
    let cage = Cage::new();
    let canary = cage.folder.path().join("canary");
    for target in [
        "../canary",
        canary.to_str().unwrap(),
        "../../../../../../etc",
    ] {
        let through = Tar::default()
            .symlink("l", target)
            .file("l/evil", b"x")
            .end();
        let error = Cage::new().unpack(&through).unwrap_err().to_string();
        assert!(error.contains("needed as a directory"), "{error}");
        let chained = Tar::default()
            .symlink("a", target)
            .symlink("b", "a")
            .directory("b/evil/")
            .end();
        Cage::new().unpack(&chained).unwrap_err();
    }
    // What the link means inside the layer is fine.
    let inside = Tar::default()
        .directory("usr/lib/")
        .symlink("lib", "/usr/lib")
        .file("lib/a", b"x")
        .end();
    let cage = Cage::new();
    cage.unpack(&inside).unwrap();
    assert!(cage.layer().join("usr/lib/a").exists());
    let up = Tar::default().symlink("l", "..").file("l/a", b"x").end();
    let cage = Cage::new();
    cage.unpack(&up).unwrap();
    assert!(cage.layer().join("a").exists());
}

#[test]
fn a_link_in_the_last_place_is_replaced_not_written_through() {
    let cage = Cage::new();
    let target = "../canary/secret";
    let archive = Tar::default()
        .symlink("a", target)
        .file("a", b"new")
        .symlink("b", "../canary")
        .with(|h| h.mode = 0o7777, "b", b'5')
        .symlink("c", target)
        .with(
            |h| {
                h.mode = 0o6777;
                h.uid = 12;
            },
            "c",
            b'6',
        )
        .symlink("d", target)
        .end();
    if skipped("root", is_root()) {
        return;
    }
    cage.unpack(&archive).unwrap();
    assert_eq!(fs::read(cage.layer().join("a")).unwrap(), b"new");
    assert!(
        fs::symlink_metadata(cage.layer().join("b"))
            .unwrap()
            .is_dir()
    );
    assert!(
        fs::symlink_metadata(cage.layer().join("c"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[test]
fn hard_links_stay_inside() {
    refused(
        Tar::default().hard_link("h", "../canary/secret").end(),
        "has .. in its path",
    );
    refused(
        Tar::default().hard_link("h", "/etc/passwd").end(),
        "does not come before it",
    );
    refused(
        Tar::default().directory("d/").hard_link("h", "d").end(),
        "hard link to a directory",
    );
    refused(
        Tar::default().hard_link("h", "h").end(),
        "does not come before it",
    );
    refused(
        Tar::default()
            .symlink("l", "../canary")
            .hard_link("h", "l/secret")
            .end(),
        "does not come before it",
    );
    // A hard link to a symbolic link is one more symbolic link; writing to it replaces it.
    let cage = Cage::new();
    let archive = Tar::default()
        .symlink("l", "../canary/secret")
        .hard_link("h", "l")
        .file("h", b"x")
        .end();
    cage.unpack(&archive).unwrap();
    assert_eq!(fs::read(cage.layer().join("h")).unwrap(), b"x");
}

#[test]
fn devices_and_pipes_are_made_and_never_opened() {
    if skipped("root", is_root()) {
        return;
    }
    let cage = Cage::new();
    let archive = Tar::default()
        .with(|h| h.device = (1, 3), "null", b'3')
        .with(|h| h.device = (7, 200), "loop", b'4')
        .with(|h| h.mode = 0o666, "pipe", b'6')
        .file("null", b"not written to the device")
        .file("pipe", b"does not wait for a reader")
        .end();
    cage.unpack(&archive).unwrap();
    assert!(fs::metadata(cage.layer().join("null")).unwrap().is_file());
    assert!(fs::metadata(cage.layer().join("pipe")).unwrap().is_file());
    assert!(
        fs::metadata(cage.layer().join("loop"))
            .unwrap()
            .file_type()
            .is_block_device()
    );
    refused(
        Tar::default().with(|_| (), "white", b'3').end(),
        "character device 0:0",
    );
}

#[test]
fn one_size_counts_and_it_is_that_of_pax() {
    // The content is itself an archive with a hostile entry. A reader that believes the 0 of the
    // old header would run it (CVE-2025-62518).
    let inner = Tar::default().file("smuggled", b"evil").0;
    let records = pax_records(&[("size", inner.len().to_string().as_bytes())]);
    let mut pax = Header::new("pax", b'x');
    pax.size = records.len() as u64;
    let mut outer = Header::new("outer", b'0');
    outer.size = 0;
    let archive = Tar::default()
        .entry(&pax)
        .padded(&records)
        .entry(&outer)
        .padded(&inner)
        .file("after", b"x")
        .end();
    let cage = Cage::new();
    cage.unpack(&archive).unwrap();
    assert!(!cage.layer().join("smuggled").exists());
    assert_eq!(fs::read(cage.layer().join("outer")).unwrap(), inner);
    assert!(cage.layer().join("after").exists());
    for kind in [b'1', b'2', b'3', b'5', b'6'] {
        refused(
            Tar::default()
                .with(
                    |h| {
                        h.size = 512;
                        h.link = b"x".to_vec();
                        h.device = (1, 1);
                    },
                    "d",
                    kind,
                )
                .padded(&[1; 512])
                .end(),
            "its type has no content",
        );
    }
    refused(
        Tar::default()
            .pax(&[("size", b"4")])
            .pax(&[("size", b"5")])
            .file("x", b"abcde")
            .end(),
        "two PAX headers",
    );
    for value in ["-1", "x", "1e3", "99999999999999999999999"] {
        refused(
            Tar::default()
                .pax(&[("size", value.as_bytes())])
                .file("x", b"")
                .end(),
            "malformed PAX",
        );
    }
}

#[test]
fn whiteouts_only_touch_names_of_their_own_directory() {
    if skipped("root", is_root()) {
        return;
    }
    for name in [".wh...", "a/.wh...", ".wh.", ".wh..", "a/.wh.."] {
        refused(Tar::default().file(name, b"").end(), "whiteout of no name");
    }
    let cage = Cage::new();
    let archive = Tar::default()
        .file("d/.wh..wh..opq", b"")
        .file("d/kept", b"x")
        .file("d/.wh..wh..opq", b"")
        .file("d/.wh..wh..opq", b"")
        .file("gone/.wh.file", b"")
        .file("file", b"of this layer")
        .file(".wh.file", b"")
        .file(".wh.dir", b"")
        .file("dir/inside", b"x")
        .directory("dir2/")
        .file(".wh.dir2", b"")
        .end();
    let unpacked = cage.unpack(&archive).unwrap();
    assert!(!unpacked.is_opaque);
    let tree = tree(&cage.layer());
    let opaque = "trusted.overlay.opaque=[121]";
    assert!(
        tree["d"].contains(opaque) && tree.contains_key("d/kept"),
        "{tree:?}"
    );
    assert!(
        tree["dir"].contains(opaque) && tree.contains_key("dir/inside"),
        "{tree:?}"
    );
    assert!(tree["dir2"].contains(opaque), "{tree:?}");
    assert!(tree["gone/file"].starts_with("device c 0 "), "{tree:?}");
    assert!(
        tree["file"].starts_with("file of 13"),
        "a layer does not hide its own files"
    );
    let cage = Cage::new();
    let unpacked = cage
        .unpack(&Tar::default().file(".wh..wh..opq", b"").end())
        .unwrap();
    assert!(unpacked.is_opaque);
    // A hard link to a whiteout would make another one.
    refused(
        Tar::default().file(".wh.x", b"").hard_link("y", "x").end(),
        "does not come before it",
    );
    refused(
        Tar::default()
            .file(".wh.x", b"")
            .hard_link("y", ".wh.x")
            .end(),
        "does not come before it",
    );
}

#[test]
fn attributes_that_steer_overlayfs_or_the_hosts_policy_are_left_out() {
    if skipped("root", is_root()) {
        return;
    }
    let records: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.security.selinux", b"system_u:object_r:x:s0"),
        ("SCHILY.xattr.user.kept", b"value"),
    ];
    let cage = Cage::new();
    let archive = Tar::default()
        .pax(&records)
        .directory("d/")
        .pax(&records)
        .file("f", b"x")
        .end();
    let unpacked = cage.unpack(&archive).unwrap();
    let tree = tree(&cage.layer());
    for name in ["d", "f"] {
        assert!(
            tree[name].ends_with("[\"user.kept=[118, 97, 108, 117, 101]\"]"),
            "{}",
            tree[name]
        );
    }
    assert_eq!(unpacked.skipped_xattrs.len(), 5);
}

#[test]
fn bombs_end_at_a_cap() {
    let limits = Limits {
        entries: 100,
        layer_bytes: 1 << 20,
        ..Limits::default()
    };
    let cage = Cage::new();
    let many = (0..200)
        .fold(Tar::default(), |tar, n| tar.file(format!("f{n}"), b""))
        .end();
    let error = cage.unpack_with(&many, limits).unwrap_err().to_string();
    assert!(error.contains("more than 100 entries"), "{error}");

    // A sparse file of an exabyte, in a kilobyte.
    let map = b"1\n0\n0\n";
    let archive = |size: &str| {
        let mut header = Header::new("sparse", b'0');
        header.size = 512;
        Tar::default()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"real"),
                ("GNU.sparse.realsize", size.as_bytes()),
            ])
            .entry(&header)
            .padded(map)
            .end()
    };
    let error = Cage::new()
        .unpack(&archive("1152921504606846976"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("unpacked bytes exceed"), "{error}");
    let cage = Cage::new();
    cage.unpack(&archive("1048576")).unwrap();
    let metadata = fs::metadata(cage.layer().join("real")).unwrap();
    assert_eq!((metadata.len(), metadata.blocks()), (1 << 20, 0));

    let deep = "d/".repeat(400);
    refused(
        Tar::default()
            .pax(&[("path", deep.as_bytes())])
            .directory("x/")
            .end(),
        "nested too deeply",
    );
    let long = format!("{}x", "d/".repeat(2500));
    refused(
        Tar::default()
            .pax(&[("path", long.as_bytes())])
            .file("x", b"")
            .end(),
        "path that is too long",
    );
    let name = "n".repeat(256);
    refused(
        Tar::default()
            .pax(&[("path", name.as_bytes())])
            .file("x", b"")
            .end(),
        "more than 255 bytes",
    );

    for kind in [b'x', b'g', b'L', b'K'] {
        let huge = Tar::default()
            .with(|h| h.size = 8 << 30, "huge", kind)
            .padded(&[0; 512])
            .end();
        refused(huge, "extended header of 8589934592 bytes");
    }
    let sparse_lines = Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"5"),
        ])
        .with(|h| h.size = 8 << 30, "x", b'0')
        .padded(&b"99999999999\n".repeat(200_000))
        .end();
    refused(sparse_lines, "extended header");
}

#[test]
fn broken_archives_end_with_an_error_never_with_a_part() {
    let good = Tar::default().file("a", &[7; 2000]).end();
    for length in [1, 100, 511, 513, 1024, 2000, 2511] {
        let error = Cage::new().unpack(&good[..length]).expect_err("cut off");
        assert!(error.to_string().contains("cut off"), "{length}: {error}");
    }
    let mut flipped = good.clone();
    flipped[5] ^= 1;
    Cage::new().unpack(&flipped).expect_err("checksum");
    refused(Tar::default().pax(&[("path", b"a")]).0, "cut off");
    refused(
        Tar::default().raw(&[0; 512]).file("late", b"x").end(),
        "lone block of zeros",
    );
    refused(Tar::default().file("", b"").end(), "empty path");
    refused(
        Tar::default()
            .pax(&[("path", b"a\0b")])
            .file("x", b"")
            .end(),
        "NUL",
    );
    refused(
        Tar::default().with(|_| (), "x", b'Z').end(),
        "not supported",
    );
    refused(
        Tar::default().file("f", b"").file("f/x", b"").end(),
        "needed as a directory",
    );
    refused(Tar::default().file(".", b"x").end(), "not a directory");
    for (at, text) in [
        (100, "9999999\0"),
        (108, "abcdefg\0"),
        (124, "-0000000001\0"),
    ] {
        let mut block = Header::new("x", b'0').bytes();
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        refused(Tar::default().raw(&block).end(), "damaged header");
    }
}

#[test]
fn setuid_survives_the_change_of_owner() {
    if skipped("root", is_root()) {
        return;
    }
    let cage = Cage::new();
    let archive = Tar::default()
        .with(
            |h| {
                h.mode = 0o2775;
                h.gid = 33;
            },
            "sgid/",
            b'5',
        )
        .with(
            |h| {
                h.mode = 0o4755;
                h.uid = 1;
                h.gid = 2;
            },
            "sgid/suid",
            b'0',
        )
        .with(
            |h| {
                h.mode = 0o644;
            },
            "sgid/plain",
            b'0',
        )
        .with(|_| (), "sgid/dir/", b'5')
        .end();
    cage.unpack(&archive).unwrap();
    let of = |name: &str| {
        let metadata = fs::metadata(cage.layer().join(name)).unwrap();
        (
            metadata.permissions().mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
        )
    };
    assert_eq!(of("sgid"), (0o2775, 0, 33));
    assert_eq!(of("sgid/suid"), (0o4755, 1, 2));
    assert_eq!(of("sgid/plain"), (0o644, 0, 0));
    assert_eq!(of("sgid/dir"), (0o755, 0, 0));
}

#[test]
fn a_tree_of_any_depth_is_removed_again() {
    // Links make a tree deeper than any single path of the archive may be.
    let cage = Cage::new();
    let deep = "d/".repeat(200);
    let mut tar = Tar::default();
    for step in 0..30 {
        let prefix = match step {
            0 => String::new(),
            n => format!("l{}/", n - 1),
        };
        let path = format!("{prefix}{deep}");
        tar = tar.pax(&[("path", path.as_bytes())]).directory("x/");
        if step < 8 {
            let target = (0..=step).map(|_| &*deep).collect::<Vec<_>>().join("");
            tar = tar
                .pax(&[("linkpath", target.as_bytes())])
                .symlink(&format!("l{step}"), "x");
        }
    }
    let _ = cage.unpack(&tar.file("last", b"").end());
    // Replacing the top by a file removes all that is below it.
    cage.unpack(&Tar::default().file("d", b"x").end()).unwrap();
    assert!(fs::metadata(cage.layer().join("d")).unwrap().is_file());
}

/// An archive with something of everything, to be damaged.
fn rich() -> Vec<u8> {
    let long = "n".repeat(180);
    let mut old_sparse = Header::new("old-sparse", b'S');
    old_sparse.size = 512;
    let mut block = old_sparse.bytes();
    block[257..265].copy_from_slice(b"ustar  \0");
    block[386..398].copy_from_slice(b"00000001000\0");
    block[398..410].copy_from_slice(b"00000001000\0");
    block[483..495].copy_from_slice(b"00000004000\0");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut sparse = Header::new("sparse", b'0');
    sparse.size = 1024;
    Tar::default()
        .directory("d/")
        .file("d/f", b"content")
        .symlink("l", "d")
        .hard_link("h", "d/f")
        .file("d/.wh.gone", b"")
        .with(|h| h.size = 180, "././@LongLink", b'L')
        .padded(long.as_bytes())
        .file("short", b"x")
        .raw(&block)
        .padded(&[7; 512])
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.realsize", b"4096"),
            ("mtime", b"-5.25"),
            ("SCHILY.xattr.user.a", b"b"),
        ])
        .entry(&sparse)
        .padded(b"1\n512\n512\n")
        .padded(&[9; 512])
        .end()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]
    #[test]
    fn no_damage_makes_the_reader_panic_or_leave_the_root(
        changes in proptest::collection::vec((0_usize..8000, 0_u8..=255), 1..12),
        repair in proptest::bool::ANY,
    ) {
        let mut archive = rich();
        for (at, byte) in changes {
            let at = at % archive.len();
            archive[at] = byte;
        }
        if repair {
            // Headers that are wrong and have the right checksum get further.
            for block in archive.chunks_exact_mut(512) {
                if &block[257..262] == b"ustar" {
                    block[148..156].fill(b' ');
                    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        let limits = Limits { layer_bytes: 1 << 24, ..Limits::default() };
        let _ = Cage::new().unpack_with(&archive, limits);
    }
}

#[test]
fn the_archive_that_is_damaged_was_whole() {
    if skipped("root", is_root()) {
        return;
    }
    let cage = Cage::new();
    cage.unpack(&rich()).unwrap();
    let tree = tree(&cage.layer());
    assert!(tree["old-sparse"].starts_with("file of 2048"), "{tree:?}");
    assert!(tree["sparse"].starts_with("file of 4096"), "{tree:?}");
    assert!(tree.contains_key(&"n".repeat(180)));
}
