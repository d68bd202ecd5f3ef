//! Templates and their copies, with a real QEMU and a real guest.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod guest;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use guest::{PATIENCE, World};

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn disk(world: &World, name: &str, mib: u64, text: &str) -> std::path::PathBuf {
    let path = world.path(name);
    let file = File::create(&path).unwrap();
    file.set_len(mib << 20).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    path
}

fn opened(path: &std::path::Path, is_writable: bool) -> OwnedFd {
    File::options()
        .read(true)
        .write(is_writable)
        .open(path)
        .unwrap()
        .into()
}

#[test]
fn copies_of_a_template_answer_and_read_and_write_their_own_disks() {
    let Some(world) = World::new() else { return };
    let template = world.template(128);
    let root = disk(&world, "root.img", 1, "the root of all");
    let uppers: Vec<_> = (0..2)
        .map(|i| disk(&world, &format!("upper{i}.img"), 1, ""))
        .collect();
    let mut copies: Vec<_> = uppers
        .iter()
        .enumerate()
        .map(|(i, upper)| {
            let disks = vec![opened(&root, false), opened(upper, true)];
            world.clone_of(&template, &format!("copy{i}"), disks)
        })
        .collect();
    for copy in &mut copies {
        assert_eq!(copy.guest.ask("ping"), "pong");
        assert_eq!(copy.guest.ask("read /dev/vda"), "the root of all");
        assert_eq!(copy.guest.ask("write /dev/vda"), "failed");
    }
    assert_eq!(copies[0].guest.ask("write /dev/vdb"), "written");
    let read = |path| fs::read_to_string(path).unwrap();
    assert!(read(&uppers[0]).starts_with("written by the guest"));
    assert!(read(&uppers[1]).starts_with('\0'));
    // The guest learns the size when it is told.
    copies[0].vm.resize_disk(1, 2 << 20).unwrap();
    let guest = &mut copies[0].guest;
    wait_until("the guest sees the new size", || {
        guest.ask("size /dev/vdb") == "2097152"
    });
}
