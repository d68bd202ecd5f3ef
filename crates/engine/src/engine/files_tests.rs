//! Files of stopped instances, made of plain folders: no image, no process.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use isle_types::InstanceName;
use jiff::Timestamp;
use rustix::fs::FileType;

use super::*;
use crate::config::InstanceConfig;
use crate::state::InstanceState;
use crate::{ChangeKind, Paths};

struct Place {
    folder: tempfile::TempDir,
    engine: Engine,
    id: InstanceId,
}

/// An instance whose image has two layers; `None` where overlays cannot be mounted.
fn place() -> Option<Place> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting an overlay needs root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths {
        root: folder.path().join("root"),
        run: folder.path().join("run"),
    };
    let engine = Engine::open(paths).unwrap();
    let id = InstanceId::from_bytes([7; 32]);
    let layers = ["top", "base"].map(|name| folder.path().join(name));
    for layer in &layers {
        fs::create_dir_all(layer.join("etc")).unwrap();
    }
    fs::write(layers[1].join("etc/passwd"), "of the image").unwrap();
    fs::write(layers[1].join("etc/group"), "of the image").unwrap();
    symlink("/etc/passwd", layers[0].join("link")).unwrap();
    let instance = Instance {
        id,
        name: "web".parse::<InstanceName>().unwrap(),
        created_at: Timestamp::now(),
        image_id: "sha256:1".to_owned(),
        config: InstanceConfig::default(),
        state: InstanceState::created(),
    };
    engine
        .store()
        .insert(&instance, &layers, |_| Ok(()))
        .unwrap();
    Some(Place { folder, engine, id })
}

fn archive_of(name: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, name, content.as_bytes())
        .unwrap();
    builder.into_inner().unwrap()
}

fn content_of(bytes: &[u8], name: &str) -> Option<String> {
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap() == Path::new(name) {
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            return Some(text);
        }
    }
    None
}

#[test]
fn what_is_copied_in_comes_out_and_shows_as_a_change() {
    let Some(place) = place() else { return };
    let Place { engine, id, .. } = &place;
    engine
        .copy_in(
            id,
            "/etc",
            true,
            &mut archive_of("motd", "hello").as_slice(),
        )
        .unwrap();
    let mut bytes = Vec::new();
    engine.copy_out(id, "/etc", false, &mut bytes).unwrap();
    assert_eq!(content_of(&bytes, "etc/motd").as_deref(), Some("hello"));
    assert_eq!(
        content_of(&bytes, "etc/passwd").as_deref(),
        Some("of the image")
    );
    let changes = engine.diff(id).unwrap();
    let shown: Vec<_> = changes
        .iter()
        .map(|c| (c.kind, c.path.to_str().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            (ChangeKind::Changed, "/etc"),
            (ChangeKind::Added, "/etc/motd")
        ]
    );
    let mut bytes = Vec::new();
    engine.export(id, &mut bytes).unwrap();
    assert_eq!(content_of(&bytes, "etc/motd").as_deref(), Some("hello"));
}

#[test]
fn links_lead_into_the_instance_and_never_out() {
    let Some(place) = place() else { return };
    let Place { engine, id, .. } = &place;
    let stat = engine.stat_path(id, "/link").unwrap();
    assert_eq!(stat.link_target.as_deref(), Some("/etc/passwd"));
    let mut bytes = Vec::new();
    engine.copy_out(id, "/link", true, &mut bytes).unwrap();
    assert_eq!(content_of(&bytes, "link").as_deref(), Some("of the image"));
    for path in [
        "/nothing",
        "/etc/nothing",
        "/../../etc/shadow",
        "/etc/passwd/x",
    ] {
        engine.stat_path(id, path).expect_err(path);
    }
}

#[test]
fn a_deleted_file_shows_as_deleted() {
    let Some(place) = place() else { return };
    let Place { engine, id, .. } = &place;
    engine
        .copy_in(id, "/", true, &mut archive_of("new", "").as_slice())
        .unwrap();
    let upper = upper(&engine.paths.instance(id));
    fs::create_dir_all(upper.join("etc")).unwrap();
    let folder = fs::File::open(upper.join("etc")).unwrap();
    let kind = FileType::CharacterDevice;
    rustix::fs::mknodat(&folder, "group", kind, Mode::empty(), 0).unwrap();
    let changes = engine.diff(id).unwrap();
    let deleted = Change {
        kind: ChangeKind::Deleted,
        path: "/etc/group".into(),
    };
    assert!(changes.contains(&deleted), "{changes:?}");
}

/// CVE-2018-15664: a folder inside becomes a link to the host's while it is copied.
#[test]
fn a_folder_that_is_swapped_for_a_link_leads_nowhere() {
    let Some(place) = place() else { return };
    let Place { engine, id, folder } = &place;
    let canary = folder.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("secret"), "of the host").unwrap();
    engine
        .copy_in(
            id,
            "/",
            true,
            &mut archive_of("swap/secret", "inside").as_slice(),
        )
        .unwrap();
    let upper = upper(&engine.paths.instance(id));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (real, aside) = (upper.join("swap"), upper.join("aside"));
            while !is_over.load(Ordering::Relaxed) {
                let _ = fs::rename(&real, &aside);
                let _ = symlink(&canary, &real);
                let _ = fs::remove_file(&real);
                let _ = fs::rename(&aside, &real);
            }
        });
        for _ in 0..300 {
            let mut bytes = Vec::new();
            let _ = engine.copy_out(id, "/swap/secret", true, &mut bytes);
            if !bytes.is_empty() {
                assert_ne!(content_of(&bytes, "secret").as_deref(), Some("of the host"));
            }
            let archive = archive_of("secret", "overwritten");
            let _ = engine.copy_in(id, "/swap", true, &mut archive.as_slice());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let names: Vec<_> = fs::read_dir(&canary)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(
        fs::read_to_string(canary.join("secret")).unwrap(),
        "of the host"
    );
}

#[test]
fn folders_without_an_instance_are_collected_and_others_are_not() {
    let Some(place) = place() else { return };
    let Place { engine, id, .. } = &place;
    let orphan = InstanceId::from_bytes([9; 32]);
    for id in [id, &orphan] {
        fs::create_dir_all(engine.paths.instance(id).join("upper")).unwrap();
    }
    assert_eq!(engine.collect_leftovers().unwrap(), 1);
    assert!(engine.paths.instance(id).exists());
    assert!(!engine.paths.instance(&orphan).exists());
}

#[test]
fn after_a_restart_of_the_host_nothing_says_that_it_runs() {
    let Some(place) = place() else { return };
    let Place { engine, id, .. } = &place;
    let mut instance = engine.get(id).unwrap();
    instance.state.status = Status::Running;
    instance.state.pid = Some(1);
    engine.store().set_state(id, &instance.state, &[]).unwrap();
    engine.store().set_boot_id("another boot").unwrap();
    let engine = Engine::open(engine.paths.clone()).unwrap();
    let state = engine.get(id).unwrap().state;
    assert_eq!((state.status, state.pid), (Status::Exited, None));
    let reason = state.exit.unwrap().reason;
    assert_eq!(reason, crate::state::ExitReason::HostRebooted);
}
