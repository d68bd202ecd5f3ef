//! Templates are made once, damaged ones again, and nothing that a copy does changes them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use isle_qemu::*;

use crate::guest::{Guest, PATIENCE, Running, World};
use crate::{digest, disk, opened, wait_until};

#[test]
fn memory_that_a_guest_gives_back_is_the_hosts_again_and_the_template_stays_as_it_was() {
    let Some(world) = World::new() else { return };
    let template = world.template(192);
    let memory = world
        .path("templates")
        .join(template.key().to_string())
        .join("memory");
    let before = digest(&memory);
    let mut copy = world.clone_of(&template, "copy", Vec::new());
    let private = |copy: &mut Running| copy.vm.memory().unwrap().private_bytes >> 20;
    let at_rest = private(&mut copy);
    assert_eq!(copy.guest.ask("fill 96"), "filled");
    let filled = private(&mut copy);
    assert!(filled >= at_rest + 90, "{at_rest} {filled}");
    // The guest reports free pages by itself, some seconds after.
    assert_eq!(copy.guest.ask("free"), "freed");
    wait_until("free pages are given back", || {
        private(&mut copy) < at_rest + 40
    });
    // And those that the balloon takes.
    assert_eq!(copy.guest.ask("fill 32"), "filled");
    copy.vm.set_balloon(128 << 20).unwrap();
    wait_until("the balloon is filled", || {
        copy.vm.memory().unwrap().guest_bytes == 128 << 20
    });
    copy.vm.set_balloon(192 << 20).unwrap();
    wait_until("the balloon is empty", || {
        copy.vm.memory().unwrap().guest_bytes == 192 << 20
    });
    assert_eq!(copy.guest.ask("check"), "0 wrong");
    let changed = |event: &Event| matches!(event, Event::Balloon { actual_bytes } if *actual_bytes == 192 << 20);
    let soon = Instant::now() + PATIENCE;
    copy.vm
        .monitor()
        .wait_for("the event", changed, soon)
        .unwrap();
    assert_eq!(copy.vm.said(), "");
    assert_eq!(digest(&memory), before);
    // Others begin where the template was saved.
    let mut other = world.clone_of(&template, "other", Vec::new());
    assert_eq!(other.guest.ask("check"), "0 wrong");
}

#[test]
fn of_several_makers_one_works_and_the_others_wait() {
    let Some(world) = World::new() else { return };
    let machine = world.machine(64);
    let booted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let template = world
                    .ensure_watched(&machine, &mut |progress| {
                        if progress == Progress::Booting {
                            booted.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                    .unwrap();
                assert_eq!(template.machine(), &machine);
            });
        }
    });
    assert_eq!(booted.load(Ordering::Relaxed), 1);
    assert_eq!(world.names(), 1);
}

#[test]
fn a_damaged_template_is_made_again_and_an_outdated_one_goes() {
    let Some(world) = World::new() else { return };
    let machine = world.machine(64);
    let booted = || {
        let mut booted = false;
        let template = world
            .ensure_watched(&machine, &mut |progress| {
                booted |= progress == Progress::Booting
            })
            .unwrap();
        let folder = world.path("templates").join(template.key().to_string());
        (booted, folder)
    };
    let (first, folder) = booted();
    assert!(first);
    let memory = || {
        File::options()
            .write(true)
            .open(folder.join("memory"))
            .unwrap()
    };

    // After a boot of the host everything is compared; what is whole stays.
    fs::remove_dir_all(world.path("checked")).unwrap();
    assert!(!booted().0);
    // One bit, which nothing but the digest shows.
    memory().write_all_at(&[1], 100).unwrap();
    assert!(booted().0);
    assert!(!booted().0);
    memory().set_len(1 << 20).unwrap();
    assert!(booted().0);
    fs::write(folder.join("state"), "").unwrap();
    assert!(booted().0);
    fs::write(folder.join("template.json"), "{").unwrap();
    assert!(booted().0);

    // A maker that was killed leaves a folder that nobody takes for a template.
    fs::rename(&folder, folder.with_extension("tmp")).unwrap();
    assert!(booted().0);
    assert_eq!(fs::read_dir(world.path("templates")).unwrap().count(), 1);

    // Another kernel command line is another template, and the old one is of no use any more.
    let mut changed = machine.clone();
    changed.boot.command_line.push_str(" loglevel=3");
    world.ensure(&changed).unwrap();
    assert_eq!(world.names(), 1);
    assert!(!folder.exists());
    // Another size is a machine of its own.
    world.ensure(&machine).unwrap();
    assert_eq!(world.names(), 1);
    world.template(80);
    assert_eq!(world.names(), 2);
    let list = world.store().list().unwrap();
    assert!(
        list.iter()
            .all(|template| template.bytes > 1 << 20 && template.machine.is_some())
    );
    assert!(world.store().remove(&list[0].name).unwrap());
    assert!(!world.store().remove(&list[0].name).unwrap());
    assert!(!world.store().remove("../checked").unwrap());
    assert_eq!(world.names(), 1);
}

/// Not a test: a process for the next one, to be killed.
#[test]
#[ignore = "it is part of another test"]
fn a_maker_that_is_never_ready() {
    let folder = std::path::PathBuf::from(std::env::var_os("ISLE_TEST_MAKER").unwrap());
    let text = fs::read_to_string(folder.join("machine.json")).unwrap();
    let machine: Machine = serde_json::from_str(&text).unwrap();
    let cache = folder.join("cache");
    let program = Program::find(Architecture::of_host(), Accelerator::Tcg, &cache).unwrap();
    let store = Store {
        directory: folder.join("templates"),
        checked: folder.join("checked"),
    };
    let making = Making {
        cgroup: None,
        patience: PATIENCE,
    };
    let mut never = |_: &std::os::unix::net::UnixStream, _| {
        File::create(folder.join("booted")).unwrap();
        std::thread::sleep(PATIENCE);
        Ok(())
    };
    let _ = store.ensure(&program, &machine, &making, &mut never, &mut |_| {});
}

#[test]
fn a_maker_that_is_killed_takes_its_machine_along() {
    let Some(world) = World::new() else { return };
    let machine = world.machine(64);
    fs::write(
        world.path("machine.json"),
        serde_json::to_string(&machine).unwrap(),
    )
    .unwrap();
    let mut maker = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "templates::a_maker_that_is_never_ready",
            "--ignored",
        ])
        .env("ISLE_TEST_MAKER", world.folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it boots", || world.path("booted").exists());
    let children = || -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", maker.id())).unwrap();
        let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
        children
            .flat_map(|text| {
                text.unwrap()
                    .split(' ')
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter(|pid| !pid.is_empty())
            .collect()
    };
    let qemu = children();
    assert_eq!(qemu.len(), 1);
    maker.kill().unwrap();
    maker.wait().unwrap();
    wait_until("QEMU is gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", qemu[0]));
        !stat.is_ok_and(|stat| !stat.contains(") Z "))
    });
    // The next one takes what is left away, and makes it.
    assert_eq!(world.names(), 0);
    world.ensure(&machine).unwrap();
    assert_eq!(fs::read_dir(world.path("templates")).unwrap().count(), 1);
}

#[test]
fn a_guest_that_gets_not_ready_leaves_no_template_and_says_why() {
    let Some(world) = World::new() else { return };
    let mut machine = world.machine(64);
    machine.boot.command_line.push_str(" rdinit=/nowhere");
    let error = world.ensure(&machine).unwrap_err();
    let TemplateError::NotReady { console, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(console.contains("Unable to mount root"), "{console}");
    assert_eq!(fs::read_dir(world.path("templates")).unwrap().count(), 0);
}

#[test]
fn an_heir_goes_on_where_its_base_has_come_to_and_brings_its_disk() {
    let Some(world) = World::new() else { return };
    let base = world.template(64);
    let store = Store {
        directory: world.path("heirs"),
        checked: world.path("heirs-checked"),
    };
    let subject = |content: &str| Subject {
        name: "an image".to_owned(),
        content: content.to_owned(),
    };
    let made = AtomicUsize::new(0);
    let ensure = |content: &str| {
        let mut disks = |path: &Path| {
            let image = disk(&world, "image", 1, "image");
            let file = File::create_new(path)?;
            file.set_len(1 << 20)?;
            file.write_all_at(b"of the heir", 0)?;
            Ok(vec![opened(&image, false), opened(path, true)])
        };
        let mut ready = |agent: &UnixStream, _| {
            made.fetch_add(1, Ordering::Relaxed);
            match Guest::new(agent.try_clone()?).try_ask("fill 8")?.as_str() {
                "filled" => Ok(()),
                other => Err(other.into()),
            }
        };
        let heir = Heir {
            subject: subject(content),
            disks: &mut disks,
        };
        let making = Making {
            cgroup: None,
            patience: PATIENCE,
        };
        store.ensure_heir(&base, heir, &making, &mut ready).unwrap()
    };
    assert!(store.heir(&base, &subject("1")).is_none());
    let heir = ensure("1");
    assert_eq!(ensure("1").key(), heir.key());
    assert_eq!(made.load(Ordering::Relaxed), 1);
    assert_eq!(
        store.list().unwrap()[0].subject.as_deref(),
        Some("an image")
    );
    let mut start = [0; 11];
    heir.disk().unwrap().read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start, b"of the heir");
    assert!(base.disk().is_none());
    // Two copies at a time have what was done in it.
    let image = disk(&world, "image", 1, "image");
    let own = |name: &str| opened(&disk(&world, name, 1, "of the heir"), true);
    for name in ["one", "two"] {
        let disks = vec![opened(&image, false), own(name)];
        let mut copy = world.clone_of(&heir, &format!("copy-{name}"), disks);
        assert_eq!(copy.guest.ask("check"), "0 wrong");
    }
    // Its base is as it was, and another content is another heir, which replaces it.
    let mut copy = world.clone_of(&base, "copy", Vec::new());
    assert_eq!(copy.guest.ask("fill 8"), "filled");
    ensure("2");
    assert!(store.heir(&base, &subject("1")).is_none());
    assert_eq!(store.list().unwrap().len(), 1);
}
