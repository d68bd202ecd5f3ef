//! An image as a disk holds what the image holds, and is never taken for whole when it is not.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test may panic"
)]

mod support;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use isle_image::{
    BlockImage, BlockImageError, Event, Image, Progress, PruneOptions, Silent, Store,
};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use support::{Tar, can_run, docker_archive, is_root, load, open_store, skipped, tree};

fn is_impossible() -> bool {
    skipped("root", is_root()) || skipped("mkfs.erofs", can_run("mkfs.erofs"))
}

/// A store of its own, below a folder that goes with the test.
fn new_store() -> Option<(tempfile::TempDir, Store)> {
    if is_impossible() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    Some((folder, store))
}

fn one_image(store: &Store, layers: &[Vec<u8>], name: &str) -> Image {
    let layers: Vec<&[u8]> = layers.iter().map(|layer| &**layer).collect();
    load(store, &docker_archive(&layers, &[name]))
        .remove(0)
        .image
}

fn small(store: &Store, name: &str) -> Image {
    one_image(store, &[Tar::default().file(name, b"x").end()], name)
}

/// Everything in both of them, read through mounts that nobody else sees.
fn trees(
    store: &Store,
    image: &Image,
    block: &BlockImage,
) -> Option<[BTreeMap<String, String>; 2]> {
    let folder = tempfile::tempdir().unwrap();
    let (merged, disk) = (folder.path().join("merged"), folder.path().join("disk"));
    let mut layers: Vec<PathBuf> = store.layers(image).unwrap();
    layers.reverse();
    for name in ["merged", "disk", "empty", "emptier"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    // overlayfs asks for two.
    layers.extend(["empty", "emptier"].map(|name| folder.path().join(name)));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            isle_sys::namespace::unshare_mounts().unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let lower: Vec<&str> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
            let options = CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
            let read_only = MountFlags::RDONLY;
            mount("overlay", &merged, "overlay", read_only, &*options).unwrap();
            if let Err(error) = mount(&block.path, &disk, "erofs", MountFlags::RDONLY, None) {
                eprintln!("SKIPPED: EROFS from a file needs Linux 6.12: {error}");
                return None;
            }
            Some([tree(&merged), tree(&disk)])
        });
        reading.join().unwrap()
    })
}

#[test]
fn a_disk_holds_everything_that_the_layers_hold_together() {
    let Some((_folder, store)) = new_store() else {
        return;
    };
    let base = Tar::default()
        .directory("etc/")
        .with(|h| h.mode = 0o1777, "tmp/", b'5')
        .file("etc/passwd", b"root:x:0:0")
        .file("etc/gone", b"hidden by a whiteout")
        .directory("old/")
        .file("old/file", b"hidden by an opaque directory")
        .file("large", &vec![7; 300_001])
        .hard_link("hard", "large")
        .symlink("link", "../../etc/passwd")
        .with(
            |h| (h.mode, h.uid, h.gid) = (0o4755, 70_000, 5),
            "setuid",
            b'0',
        )
        .with(|h| h.mode = 0o600, "pipe", b'6')
        .with(|h| h.device = (1, 3), "null", b'3')
        .with(|h| h.device = (7, 0), "loop", b'4')
        .pax(&[
            ("SCHILY.xattr.user.note", b"text"),
            (
                "SCHILY.xattr.security.capability",
                &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            ("mtime", b"1234567890.123456789"),
        ])
        .file("attributes", b"x")
        .file("empty", b"")
        .end();
    let upper = Tar::default()
        .directory("etc/")
        .file("etc/.wh.gone", b"")
        .directory("old/")
        .file("old/.wh..wh..opq", b"")
        .file("old/new", b"new")
        .file("etc/hostname", b"isle")
        .end();
    let image = one_image(&store, &[base, upper], "both");
    let block = store.block_image(&image, &Silent).unwrap();
    assert_eq!(block.bytes % 4096, 0);
    assert_eq!(fs::metadata(&block.path).unwrap().mode() & 0o7777, 0o600);
    let Some([merged, disk]) = trees(&store, &image, &block) else {
        return;
    };
    assert!(merged.contains_key("old/new") && !merged.contains_key("etc/gone"));
    assert!(
        merged["attributes"].contains("security.capability"),
        "{merged:?}"
    );
    assert_eq!(merged, disk);
}

#[test]
fn images_of_one_layer_and_of_none_have_disks_too() {
    let Some((_folder, store)) = new_store() else {
        return;
    };
    for layers in [vec![Tar::default().file("a", b"b").end()], vec![]] {
        let image = one_image(&store, &layers, "few");
        let block = store.block_image(&image, &Silent).unwrap();
        if let Some([mut merged, mut disk]) = trees(&store, &image, &block) {
            // Without layers the root is a folder made for the occasion.
            if layers.is_empty() {
                merged.remove("");
                disk.remove("");
            }
            assert_eq!(merged, disk);
        }
    }
}

#[test]
fn it_is_made_once_and_goes_with_its_image() {
    let Some((folder, store)) = new_store() else {
        return;
    };
    let image = small(&store, "one");
    let before = store.usage().unwrap();
    let block = store.block_image(&image, &Silent).unwrap();
    let again = store.block_image(&image, &Silent).unwrap();
    assert_eq!(block, again);
    let after = store.usage().unwrap();
    assert_eq!(after.bytes, before.bytes + block.bytes);
    assert_eq!(
        after.reclaimable_bytes,
        before.reclaimable_bytes + block.bytes
    );
    let unique = |usage: &isle_image::Usage| usage.images[&image.id].unique_bytes;
    assert_eq!(unique(&after), unique(&before) + block.bytes);
    store.remove("one", false).unwrap();
    assert!(!block.path.exists());
    assert_eq!(names(&folder.path().join("block-images")), [""; 0]);
    assert_eq!(names(&folder.path().join("tmp")), ["partial"]);
}

#[test]
fn prune_counts_what_it_takes() {
    let Some((_folder, store)) = new_store() else {
        return;
    };
    let image = small(&store, "one");
    let block = store.block_image(&image, &Silent).unwrap();
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    let pruned = store.prune(&all).unwrap();
    assert!(pruned.reclaimed_bytes >= block.bytes);
    assert!(!block.path.exists());
}

#[test]
fn one_that_is_cut_short_or_missing_is_made_again() {
    let Some((_folder, store)) = new_store() else {
        return;
    };
    let image = small(&store, "one");
    let block = store.block_image(&image, &Silent).unwrap();
    let file = fs::File::options().write(true).open(&block.path).unwrap();
    file.set_len(100).unwrap();
    let second = store.block_image(&image, &Silent).unwrap();
    assert_eq!(fs::metadata(&second.path).unwrap().len(), second.bytes);
    fs::remove_file(&second.path).unwrap();
    let third = store.block_image(&image, &Silent).unwrap();
    assert_eq!(fs::metadata(&third.path).unwrap().len(), third.bytes);
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Progress for Lines {
    fn event(&self, event: &Event<'_>) {
        if let Event::Message(text) = event {
            self.0.lock().unwrap().push((*text).to_owned());
        }
    }
}

#[test]
fn after_a_reboot_it_is_checked_before_it_is_used() {
    let Some((_folder, store)) = new_store() else {
        return;
    };
    let image = small(&store, "one");
    let block = store.block_image(&image, &Silent).unwrap();
    let reboot = || {
        let connection = store.database().connection();
        let changed = connection.execute("UPDATE block_image SET boot = 'an earlier one'", []);
        assert_eq!(changed.unwrap(), 1);
    };
    reboot();
    let lines = Lines::default();
    assert_eq!(store.block_image(&image, &lines).unwrap(), block);
    assert!(lines.0.lock().unwrap().is_empty());
    reboot();
    let mut bytes = fs::read(&block.path).unwrap();
    bytes[1024] ^= 1;
    fs::write(&block.path, bytes).unwrap();
    let again = store.block_image(&image, &lines).unwrap();
    assert_ne!(again.path, block.path);
    let lines = lines.0.lock().unwrap();
    assert!(
        lines[0].contains("is damaged and is made again"),
        "{lines:?}"
    );
    drop(trees(&store, &image, &again));
}

#[test]
fn several_processes_that_want_it_at_once_get_one() {
    let Some((folder, store)) = new_store() else {
        return;
    };
    let image = small(&store, "one");
    let blocks: Vec<BlockImage> = std::thread::scope(|scope| {
        let each: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let store = open_store(folder.path());
                    let image = store.find("one").unwrap();
                    store.block_image(&image, &Silent).unwrap()
                })
            })
            .collect();
        each.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(blocks.iter().all(|block| *block == blocks[0]));
    assert_eq!(names(&folder.path().join("block-images")).len(), 1);
    drop(image);
}

#[test]
fn an_image_that_is_gone_gets_none() {
    let Some((folder, store)) = new_store() else {
        return;
    };
    let image = small(&store, "one");
    store.remove("one", false).unwrap();
    let error = store.block_image(&image, &Silent).unwrap_err();
    assert!(
        matches!(
            error,
            BlockImageError::Removed { .. } | BlockImageError::Store(_)
        ),
        "{error}"
    );
    assert_eq!(names(&folder.path().join("block-images")), [""; 0]);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
