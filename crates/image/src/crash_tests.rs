//! After every single failure or death on the way, the store is whole.
//!
//! The tests run this test program again as a child with `ISLE_FAILPOINT` set to the n-th place
//! that can fail, for every n until the child gets through.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use isle_database::Database;

use crate::{Digest, LoadInput, Progress, PruneOptions, SCHEMA, SaveFormat, Silent, Store};

fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

fn open(root: &Path) -> Store {
    let database = Database::open(&root.join("isle.db"), &[SCHEMA]).unwrap();
    Store::open(root, database).unwrap()
}

fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(size as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, &*vec![7; size]).unwrap();
    tar.into_inner().unwrap()
}

fn archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let files: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let manifest =
        serde_json::json!([{"Config": "config", "RepoTags": [name], "Layers": files}]).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    for (file, layer) in files.iter().zip(layers) {
        append(file, layer);
    }
    append("config", config.as_bytes());
    append("manifest.json", manifest.as_bytes());
    tar.into_inner().unwrap()
}

fn old() -> Vec<u8> {
    archive("old", &[layer("shared", 300_000), layer("old", 10)])
}

fn new() -> Vec<u8> {
    archive("new", &[layer("shared", 300_000), layer("new", 600_000)])
}

/// What the child does: a load beside an image that is there, a disk of what it has loaded, then a removal
/// of the first one.
#[test]
fn child() {
    let Ok(root) = std::env::var("ISLE_CRASH_ROOT") else {
        return;
    };
    let store = open(Path::new(&root));
    let mut new = &*new();
    let loaded = store.load(LoadInput::Stream(&mut new), None, &silent());
    if let Err(error) = loaded {
        eprintln!("load: {error}");
        std::process::exit(1);
    }
    let can_make_disks =
        rustix::process::geteuid().is_root() && crate::confined::find("mkfs.erofs").is_some();
    if can_make_disks {
        let image = store.find("new").unwrap();
        if let Err(error) = store.block_image(&image, &Silent) {
            eprintln!("block image: {error}");
            std::process::exit(1);
        }
    }
    if let Err(error) = store.remove("old", false) {
        eprintln!("remove: {error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn run_child(root: &Path, failpoint: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_tests::child", "--nocapture", "-q"])
        .env("ISLE_CRASH_ROOT", root)
        .env("ISLE_FAILPOINT", failpoint)
        .output()
        .unwrap()
        .status
}

fn check_whole(store: &Store, name: &str, files: &[(&str, usize)]) -> bool {
    let Ok(image) = store.find(name) else {
        return false;
    };
    let layers = store.layers(&image).unwrap();
    assert_eq!(layers.len(), files.len());
    for (layer, (file, size)) in layers.iter().zip(files) {
        let bytes = fs::read(layer.join(file)).unwrap();
        assert!(bytes == vec![7; *size], "{name}: {file} is damaged");
    }
    // Reads every blob through, with its digest checked.
    let mut sink = std::io::sink();
    store
        .save(&[name.to_owned()], SaveFormat::Docker, &mut sink, &silent())
        .unwrap();
    true
}

fn check(root: &Path) -> (bool, bool) {
    let store = open(root);
    let old = check_whole(&store, "old", &[("shared", 300_000), ("old", 10)]);
    let new = check_whole(&store, "new", &[("shared", 300_000), ("new", 600_000)]);
    (old, new)
}

fn check_tidy(root: &Path) {
    let store = open(root);
    let count = |folder: &str| fs::read_dir(root.join(folder)).unwrap().count();
    let rows = |query: &str| -> usize {
        let connection = store.database().connection();
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("tmp"), 1, "only the folder for partial downloads");
    assert_eq!(count("layers"), rows("SELECT count(*) FROM layer"));
    assert_eq!(count("blobs/sha256"), rows("SELECT count(*) FROM blob"));
    assert_eq!(
        count("block-images"),
        rows("SELECT count(*) FROM block_image")
    );
    assert_eq!(rows("SELECT count(*) FROM image_lease"), 0);
}

fn at_every_place(action: &str) {
    for n in 1..500 {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut first = &*old();
        let store = open(root);
        store
            .load(LoadInput::Stream(&mut first), None, &silent())
            .unwrap();
        drop(store);
        let status = run_child(root, &format!("any:{n}:{action}"));
        let is_through = status.success();
        assert!(
            is_through || status.code() == Some(1) || status.signal() == Some(9),
            "place {n}: {status}"
        );
        let (has_old, has_new) = check(root);
        assert!(has_old || has_new, "place {n}: both images are lost");
        if is_through {
            assert!(!has_old && has_new, "place {n}");
        }
        // What was left behind is collected by whoever comes next, and hinders nobody.
        let store = open(root);
        let mut again = &*new();
        store
            .load(LoadInput::Stream(&mut again), None, &silent())
            .unwrap();
        store.prune(&PruneOptions::default()).unwrap();
        drop(store);
        assert_eq!(check(root), (has_old, true), "place {n}");
        check_tidy(root);
        if is_through {
            assert!(n > 20, "only {n} places were passed");
            eprintln!("{} places can {action}", n - 1);
            return;
        }
    }
    panic!("the child never got through");
}

#[test]
fn a_process_killed_at_any_place_leaves_the_store_whole() {
    at_every_place("kill");
}

#[test]
fn a_full_disk_at_any_place_leaves_the_store_whole() {
    at_every_place("error");
}

fn spawn_child(root: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_tests::child", "--nocapture", "-q"])
        .env("ISLE_CRASH_ROOT", root)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes_killed_at_any_time_leave_the_store_whole() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for round in 0..20 {
        let store = open(root);
        let mut first = &*old();
        store
            .load(LoadInput::Stream(&mut first), None, &silent())
            .unwrap();
        drop(store);
        let mut child = spawn_child(root);
        std::thread::sleep(std::time::Duration::from_millis(round * 4));
        child.kill().unwrap();
        child.wait().unwrap();
        let (has_old, has_new) = check(root);
        assert!(has_old || has_new, "round {round}: both images are lost");
    }
    open(root).prune(&PruneOptions::default()).unwrap();
    check_tidy(root);
}

#[test]
fn several_processes_that_do_the_same_do_not_hinder_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let store = open(root);
    let mut first = &*old();
    store
        .load(LoadInput::Stream(&mut first), None, &silent())
        .unwrap();
    let mut children: Vec<_> = (0..4).map(|_| spawn_child(root)).collect();
    let codes: Vec<_> = children
        .iter_mut()
        .map(|c| c.wait().unwrap().code())
        .collect();
    // All load; one of them removes, the others find nothing to remove.
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert!(codes.iter().all(|c| matches!(c, Some(0 | 1))), "{codes:?}");
    assert_eq!(check(root), (false, true));
    store.prune(&PruneOptions::default()).unwrap();
    drop(store);
    check_tidy(root);
}
