//! What a machine does while it runs: disks, pause, a new supervisor, its end.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use isle_qemu::template::join_archives;
use isle_qemu::*;

use crate::guest::{Guest, PATIENCE, Running, World};
use crate::{disk, opened, wait_until};

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

#[test]
fn a_qemu_that_dies_says_why() {
    let Some(world) = World::new() else { return };
    let mut machine = world.machine(64);
    machine.boot.kernel = world.path("kernel");
    fs::write(&machine.boot.kernel, "this is no kernel").unwrap();
    let run = world.run("run");
    let start = || {
        Starting::cold(
            &world.program,
            &machine,
            None,
            world.launch(&run, Vec::new()),
        )
    };
    let error = start().unwrap().finish().unwrap_err();
    let StartError::Ended { how, said } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*how, Ended::Code(1));
    assert!(said.contains("kernel"), "{said}");
    // What QEMU's user could not read.
    fs::set_permissions(&machine.boot.kernel, fs::Permissions::from_mode(0o600)).unwrap();
    let StartError::Process(error) = start().unwrap_err() else {
        panic!("another error");
    };
    assert!(error.to_string().contains("let QEMU read"), "{error}");
}

#[test]
fn a_machine_boots_cold_and_ends_when_its_guest_wants_it() {
    let Some(world) = World::new() else { return };
    let machine = Machine {
        vcpus: 2,
        ..world.machine(64)
    };
    let run = world.run("cold");
    let initramfs = world.path("joined");
    join_archives(&machine.boot.initramfs, &initramfs).unwrap();
    let launch = world.launch(&run, Vec::new());
    let mut starting = Starting::cold(&world.program, &machine, Some(&initramfs), launch).unwrap();
    let guest = Guest::new(starting.take_agent().unwrap());
    let mut running = Running::new(starting.finish().unwrap(), guest);
    assert_eq!(running.guest.ask("cpus"), "2");
    writeln!(&running.guest.socket, "off").unwrap();
    let is_off = |event: &Event| matches!(event, Event::Shutdown { by_guest: true, .. });
    let deadline = Instant::now() + PATIENCE;
    running
        .vm
        .monitor()
        .wait_for("off", is_off, deadline)
        .unwrap();
    assert_eq!(running.vm.reap().unwrap(), Some(Ended::Code(0)));
    assert_eq!(running.vm.said(), "");
}

#[test]
fn pause_and_resume_and_a_new_supervisor() {
    let Some(world) = World::new() else { return };
    let template = world
        .ensure(&Machine {
            vcpus: 2,
            ..world.machine(64)
        })
        .unwrap();
    let run = world.run("copy");
    let mut starting =
        Starting::paused_clone_of(&template, world.launch(&run, Vec::new())).unwrap();
    let guest = Guest::new(starting.take_agent().unwrap());
    let vm = starting.finish().unwrap();
    let mut running = Running::new(vm, guest);
    assert!(!running.vm.is_running().unwrap());
    writeln!(&running.guest.socket, "ping").unwrap();
    let silence = Duration::from_millis(100);
    running
        .guest
        .socket
        .set_read_timeout(Some(silence))
        .unwrap();
    assert!(running.guest.answer().is_err());
    running
        .guest
        .socket
        .set_read_timeout(Some(PATIENCE))
        .unwrap();
    running.vm.resume().unwrap();
    assert_eq!(running.guest.answer().unwrap(), "pong");
    assert_eq!(running.guest.ask("cpus"), "2");
    running.vm.pause().unwrap();
    assert!(!running.vm.is_running().unwrap());
    let stop = running.vm.monitor().next_event();
    assert!(matches!(
        stop,
        Some(Event::Migration { .. } | Event::Resume | Event::Stop)
    ));

    // The first supervisor is gone; the machine waits for the next.
    let (pid, pidfd) = (
        running.vm.pid(),
        running.vm.pidfd().try_clone_to_owned().unwrap(),
    );
    let mut adopted = Vm::adopt(
        &run,
        pid,
        pidfd.try_clone().unwrap(),
        Duration::from_millis(300),
    );
    assert!(adopted.is_err(), "one client at a time");
    running.abandon();
    wait_until("it is taken over", || {
        let pidfd = pidfd.try_clone().unwrap();
        adopted = Vm::adopt(&run, pid, pidfd, PATIENCE);
        adopted.is_ok()
    });
    let guest = Guest::new(Vm::connect_port(&run, "isle").unwrap());
    let mut running = Running::new(adopted.unwrap(), guest);
    assert!(!running.vm.is_running().unwrap());
    running.vm.resume().unwrap();
    assert_eq!(running.guest.ask("ping"), "pong");
    let error = running.vm.add_vcpu().unwrap_err();
    assert!(error.to_string().contains("--cpus"), "{error}");
    running.vm.quit().unwrap();
    assert_eq!(running.vm.reap().unwrap(), Some(Ended::Code(0)));
}

#[test]
fn disks_come_and_go_while_the_guest_runs() {
    let Some(world) = World::new() else { return };
    let template = world.template(64);
    let mut copy = world.clone_of(&template, "copy", Vec::new());
    let root = disk(&world, "root.img", 1, "assigned late");
    let upper = disk(&world, "upper.img", 4, "");
    copy.vm
        .assign_disk(0, DiskSlot::ReadOnly, opened(&root, false).as_fd())
        .unwrap();
    copy.vm
        .assign_disk(1, DiskSlot::Writable, opened(&upper, true).as_fd())
        .unwrap();
    assert_eq!(copy.guest.ask("read /dev/vda"), "assigned late");
    assert_eq!(copy.guest.ask("write /dev/vdb"), "written");
    copy.vm.resize_disk(1, 8 << 20).unwrap();
    assert_eq!(fs::metadata(&upper).unwrap().len(), 8 << 20);

    let volume = disk(&world, "volume.img", 1, "a volume");
    let file = opened(&volume, true);
    copy.vm
        .add_disk(3, DiskSlot::Writable, file.as_fd())
        .unwrap();
    wait_until("the guest has the disk", || {
        copy.guest.ask("read /dev/sda") == "a volume"
    });
    // A file that another machine writes is refused.
    let mut other = world.clone_of(&template, "other", Vec::new());
    let mut add_to_other = || {
        let file = opened(&volume, true);
        other.vm.add_disk(3, DiskSlot::Writable, file.as_fd())
    };
    assert!(format!("{:?}", add_to_other().unwrap_err()).contains("lock"));
    copy.vm.remove_disk(3).unwrap();
    wait_until("the guest has it no more", || {
        copy.guest.ask("read /dev/sda") == "failed"
    });
    add_to_other().unwrap();
}
