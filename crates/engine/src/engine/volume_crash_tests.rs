//! After every single failure or death on the way, volumes are whole, and what is new is there or not.
//!
//! The tests run this test program again as a child with `ISLE_FAILPOINT` set to the n-th place that
//! can fail, for every n until the child gets through.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use super::{Engine, EngineError, VolumeRequest, VolumeSource};
use crate::Paths;

fn paths(root: &Path) -> Paths {
    Paths {
        root: root.join("root"),
        run: root.join("run"),
    }
}

fn open(root: &Path) -> Engine {
    Engine::open(paths(root)).unwrap()
}

/// A volume with a file of this content and one of another name.
fn fill(engine: &Engine, name: &str, content: &str) {
    let data = engine.volume_path(name);
    fs::write(data.join("file"), content).unwrap();
    fs::create_dir_all(data.join("deep")).unwrap();
    let _ = fs::hard_link(data.join("file"), data.join("deep/same"));
}

/// What a volume says, when all of it is there.
fn content(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("file")).unwrap();
    assert_eq!(fs::read_to_string(folder.join("deep/same")).unwrap(), text);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2);
    text
}

/// The root before the child begins: `data` says `now`, its snapshot `before` says `then`.
fn prepare(root: &Path) {
    let engine = open(root);
    let request = VolumeRequest {
        name: Some("data".into()),
        ..VolumeRequest::default()
    };
    engine.create_volume(&request).unwrap();
    fill(&engine, "data", "then");
    engine
        .snapshot_volume("data", Some("before"), true)
        .unwrap();
    fs::write(engine.volume_path("data").join("file"), "now").unwrap();
}

fn archive(engine: &Engine) -> Result<Vec<u8>, EngineError> {
    let source = VolumeSource {
        volume: "data".into(),
        snapshot: Some("before".into()),
    };
    let mut bytes = Vec::new();
    engine.export_volume(&source, true, &mut bytes)?;
    Ok(bytes)
}

/// Everything that copies or replaces.
fn work(engine: &Engine) -> Result<(), EngineError> {
    let source: VolumeSource = "data".parse().unwrap();
    engine.snapshot_volume("data", Some("kept"), true)?;
    engine.clone_volume(&source, "copy", true)?;
    let bytes = archive(engine)?;
    engine.import_volume("in", &mut bytes.as_slice())?;
    engine.restore_volume("data", "before")?;
    engine.remove_snapshot("data", "before")?;
    engine.create_volume(&VolumeRequest {
        name: Some("short".into()),
        ..VolumeRequest::default()
    })?;
    engine.remove_volume("short", false)
}

/// What the child does.
#[test]
fn child() {
    let Ok(root) = std::env::var("ISLE_CRASH_ROOT") else {
        return;
    };
    match work(&open(Path::new(&root))) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn run_child(root: &Path, failpoint: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "engine::volume_crash_tests::child",
            "--nocapture",
            "-q",
        ])
        .env("ISLE_CRASH_ROOT", root)
        .env("ISLE_FAILPOINT", failpoint)
        .output()
        .unwrap()
        .status
}

/// Everything that has a row is whole, and nothing else is to be seen.
fn check(engine: &Engine, place: &str) {
    let names: Vec<String> = engine
        .volumes()
        .unwrap()
        .into_iter()
        .map(|v| v.name)
        .collect();
    assert!(names.contains(&"data".to_owned()), "{place}");
    for name in &names {
        let expected: &[&str] = match name.as_str() {
            "data" => &["now", "then"],
            "copy" => &["now"],
            "in" => &["then"],
            "short" => continue,
            other => panic!("{place}: {other}"),
        };
        let found = content(&engine.volume_path(name));
        assert!(
            expected.contains(&found.as_str()),
            "{place}: {name} says {found}"
        );
    }
    for snapshot in engine.volume_snapshots(None).unwrap() {
        let expected = if snapshot.name == "before" {
            "then"
        } else {
            "now"
        };
        let files = engine.snapshot_path(&snapshot.volume, &snapshot.name);
        assert_eq!(content(&files), expected, "{place}: {}", snapshot.name);
    }
}

fn at_every_place(action: &str) {
    for n in 1..200 {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = folder.path();
        prepare(root);
        let status = run_child(root, &format!("any:{n}:{action}"));
        let place = format!("place {n} ({action})");
        assert!(
            status.success() || status.code() == Some(1) || status.signal() == Some(9),
            "{place}: {status}"
        );
        let engine = open(root);
        check(&engine, &place);
        if status.success() {
            assert!(n > 15, "only {n} places were passed");
            assert_eq!(engine.volumes().unwrap().len(), 3);
            eprintln!("{} places can {action}", n - 1);
            return;
        }
        // What was left behind hinders nobody, and is collected.
        let source: VolumeSource = "data".parse().unwrap();
        for name in ["copy", "in"] {
            if engine.find_volume(name).is_err() {
                engine.clone_volume(&source, name, true).unwrap();
            }
            engine.remove_volume(name, false).unwrap();
        }
        let _ = engine.remove_volume("short", false);
        engine.snapshot_volume("data", None, true).unwrap();
        engine.remove_volume("data", true).unwrap();
        engine.prune_volumes(true, |_| true).unwrap();
        let left: Vec<_> = fs::read_dir(engine.paths().volumes()).unwrap().collect();
        assert!(left.is_empty(), "{place}: {left:?}");
        let left: Vec<_> = fs::read_dir(engine.paths().temporary()).unwrap().collect();
        assert_eq!(
            left.len(),
            1,
            "{place}: only the folder for partial downloads: {left:?}"
        );
    }
    panic!("the child never got through");
}

#[test]
fn a_process_killed_at_any_place_leaves_volumes_whole() {
    if rustix::process::geteuid().is_root() {
        at_every_place("kill");
    }
}

#[test]
fn a_full_disk_at_any_place_leaves_volumes_whole() {
    if rustix::process::geteuid().is_root() {
        at_every_place("error");
    }
}
