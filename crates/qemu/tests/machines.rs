//! Templates and their copies, with a real QEMU and a real guest.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod guest;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use guest::{Guest, PATIENCE, Running, World};
use isle_cgroup::Cgroup;
use isle_qemu::template::join_archives;
use isle_qemu::*;
use oci_spec::runtime::LinuxResources;

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

fn digest(path: &Path) -> Vec<u8> {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

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
        .args(["--exact", "a_maker_that_is_never_ready", "--ignored"])
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

#[test]
fn qemu_has_of_the_host_what_it_needs_and_nothing_else() {
    let Some(world) = World::new() else { return };
    let template = world.template(64);
    let root = disk(&world, "root.img", 1, "");
    let copy = world.clone_of(&template, "copy", vec![opened(&root, false)]);
    let pid = copy.vm.pid();
    let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();

    let status = proc("status");
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .to_owned()
    };
    let id = guest::identity(&world.path("copy")).id.to_string();
    assert_eq!(field("Uid"), [id.as_str(); 4].join("\t"));
    assert_eq!(field("Gid"), [id.as_str(); 4].join("\t"));
    assert_eq!(field("Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    // Ours, and QEMU's own.
    assert!(field("Seccomp_filters").parse::<u32>().unwrap() >= 2);
    assert_eq!(field("NSpid").split('\t').count(), 2);

    for kind in ["mnt", "net", "ipc", "uts", "pid", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let interfaces: Vec<_> = proc("net/dev").lines().skip(2).map(str::to_owned).collect();
    assert_eq!(interfaces.len(), 1, "{interfaces:?}");

    // Nothing can be written, and the host's root is not below its own.
    let mounts = proc("mountinfo");
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (root, at, options) = (fields[3], fields[4], fields[5]);
        assert!(root != "/" || at == "/", "{mount}");
        if at != "/dev/null" {
            assert!(options.starts_with("ro,nosuid,nodev"), "{mount}");
        }
        let known = [
            "/",
            "/usr/lib",
            "/usr/lib64",
            "/usr/local/lib",
            "/lib",
            "/lib64",
            "/dev/null",
            "/usr/share/qemu",
            "/usr/share/seabios",
            "/usr/share/edk2",
            "/etc/ld.so.cache",
        ];
        assert!(
            known.contains(&at) || at.ends_with("/qemu-system-x86_64"),
            "{mount}"
        );
    }
    let inside = format!("/proc/{pid}/root");
    let mut names: Vec<_> = fs::read_dir(&inside)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert!(
        !names
            .iter()
            .any(|name| ["proc", "sys", "root", "home", "var", "run", "tmp"]
                .iter()
                .any(|n| name == n)),
        "{names:?}"
    );

    // Descriptors: what it was given and what it made. The template's memory can only be read.
    let mut memory = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).unwrap().display().to_string();
        let number = entry.file_name().into_string().unwrap();
        let info = proc(&format!("fdinfo/{number}"));
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:\t"))
            .unwrap();
        let mode = u32::from_str_radix(flags, 8).unwrap() & 3;
        if target.ends_with("/memory") {
            memory += 1;
            assert_eq!(mode, 0);
        } else {
            let is_known = ["/dev/null", "socket:", "anon_inode:", "/memfd:qemu-errors"]
                .iter()
                .any(|known| target.starts_with(known))
                || (target.ends_with("/root.img") && mode == 0)
                || (target.ends_with("/state") && mode == 0);
            assert!(is_known, "{number} -> {target}");
        }
    }
    assert_eq!(memory, 1);
    for (limit, value) in [("Max core file size", "0"), ("Max open files", "1024")] {
        let limits = proc("limits");
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(limit))
            .unwrap();
        assert_eq!(
            line.split_ascii_whitespace().take(2).collect::<Vec<_>>(),
            [value; 2]
        );
    }
}

#[test]
fn qemu_is_counted_in_the_control_group_of_its_instance() {
    let Some(world) = World::new() else { return };
    let template = world.template(64);
    let layout = isle_cgroup::Layout::detect().unwrap();
    let path = format!("/isle-test-qemu-{}", std::process::id());
    let group = Cgroup::create(&layout, path.as_ref(), &LinuxResources::default()).unwrap();
    let run = world.run("copy");
    let launch = Launch {
        cgroup: Some(&group),
        ..world.launch(&run, Vec::new())
    };
    let vm = Starting::clone_of(&template, launch)
        .unwrap()
        .finish()
        .unwrap();
    let text = fs::read_to_string(format!("/proc/{}/cgroup", vm.pid())).unwrap();
    let processes = group.processes().unwrap();
    group.kill_all().unwrap();
    vm.reap().unwrap();
    group.remove().unwrap();
    assert_eq!(processes, [vm.pid()]);
    let ours = text.lines().filter(|line| line.ends_with(&path)).count();
    assert_eq!(ours, layout.hierarchies().len(), "{text}");
}

#[test]
fn the_build_of_qemu_for_kvm_reaches_it_from_its_confinement() {
    let Some(world) = World::new() else { return };
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: no /dev/kvm");
        return;
    }
    let cache = world.path("cache");
    let program = Program::find(Architecture::X86_64, Accelerator::Kvm, &cache).unwrap();
    // The guest need not get far: here /dev/kvm may be one that runs no ordinary kernel.
    let mut machine = Machine {
        accelerator: Accelerator::Kvm,
        cpu_model: Accelerator::Kvm
            .default_cpu_model(Architecture::X86_64)
            .to_owned(),
        ..world.machine(64)
    };
    machine.boot.initramfs.clear();
    let run = world.run("kvm");
    let launch = world.launch(&run, Vec::new());
    let starting = Starting::cold(&program, &machine, None, launch).unwrap();
    let said = match starting.finish() {
        Ok(vm) => {
            let maps = fs::read_to_string(format!("/proc/{}/maps", vm.pid())).unwrap();
            vm.kill().unwrap();
            vm.reap().unwrap();
            assert!(maps.contains("kvm-vcpu"), "{}", vm.said());
            return;
        }
        Err(StartError::Ended { said, .. }) => said,
        Err(error) => panic!("{error:?}"),
    };
    // It has come as far as setting up a virtual processor.
    assert!(said.contains("failed to set MSR"), "{said}");
}

#[test]
fn machines_of_a_pool_wait_are_taken_once_and_leave_nothing() {
    let Some(world) = World::new() else { return };
    let template = world.template(64);
    let name = template.key().to_string();
    let pool = Pool {
        directory: world.path("pool"),
    };
    let ready = || {
        pool.list()
            .unwrap()
            .iter()
            .map(|pool| pool.ready)
            .sum::<u32>()
    };
    let fill = || pool.fill(&template, PATIENCE, None).unwrap();
    // Off by default.
    assert_eq!((fill(), ready()), (0, 0));
    pool.set(&template, 2).unwrap();
    assert_eq!((fill(), ready()), (2, 2));
    assert_eq!(fill(), 0);
    let summary = &pool.list().unwrap()[0];
    assert_eq!(
        (summary.template.as_str(), summary.size),
        (name.as_str(), 2)
    );
    assert!(summary.proportional_bytes > 2 << 20);

    let root = disk(&world, "root.img", 1, "a pool's root");
    let upper = disk(&world, "upper.img", 1, "");
    let run = world.run("run");
    let disks = || vec![opened(&root, false), opened(&upper, true)];
    let mut starting = pool.claim(&template, &world.launch(&run, disks())).unwrap();
    let mut guest = Guest::new(starting.take_agent().unwrap());
    // Queued before it runs.
    writeln!(&guest.socket, "read /dev/vda").unwrap();
    let mut running = Running::new(starting.finish().unwrap(), {
        assert_eq!(ready(), 1);
        guest.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        guest
    });
    assert_eq!(running.guest.answer().unwrap(), "a pool's root");
    assert_eq!(running.guest.ask("write /dev/vdb"), "written");
    assert!(run.join("monitor.sock").exists());
    // Its next supervisor finds it as any other.
    let pidfd = running.vm.pidfd().try_clone_to_owned().unwrap();
    let pid = running.vm.pid();
    running.abandon();
    let mut vm = None;
    wait_until("it is taken over", || {
        let pidfd = pidfd.try_clone().unwrap();
        vm = Vm::adopt(&run, pid, pidfd, PATIENCE).ok();
        vm.is_some()
    });
    guest = Guest::new(Vm::connect_port(&run, "isle").unwrap());
    let mut running = Running::new(vm.unwrap(), guest);
    assert_eq!(running.guest.ask("ping"), "pong");

    // Two want the last one.
    let claimed: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|i| {
                let (pool, template, world) = (&pool, &template, &world);
                scope.spawn(move || {
                    let run = world.run(&format!("contender{i}"));
                    pool.claim(template, &world.launch(&run, Vec::new()))
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!((claimed.len(), ready()), (1, 0));
    drop(claimed);

    // One that has died is replaced; what a killed filler has left goes.
    assert_eq!(fill(), 2);
    let folder = world.path("pool").join(&name);
    let pid_of = |folder: &Path| -> i32 {
        let text = fs::read_to_string(folder.join("machine.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"]
            .as_i64()
            .unwrap() as i32
    };
    let folders = || -> Vec<_> {
        let entries = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    };
    let pids: Vec<i32> = folders().iter().map(|folder| pid_of(folder)).collect();
    let is_there = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| !text.contains(") Z "))
    };
    kill(pids[0]);
    wait_until("it is dead", || !is_there(pids[0]));
    assert_eq!((ready(), fill(), ready()), (1, 1, 2));
    let left = &folders()[0];
    fs::rename(left, left.with_extension("new")).unwrap();
    assert_eq!((ready(), fill(), ready()), (1, 1, 2));

    // Fewer, and then none.
    pool.set(&template, 1).unwrap();
    assert_eq!((fill(), ready()), (0, 1));
    let last = pid_of(&folders()[0]);
    assert!(pool.remove(&name).unwrap());
    assert!(!pool.remove(&name).unwrap());
    wait_until("the last one is gone", || !is_there(last));
    assert_eq!(fs::read_dir(world.path("pool")).unwrap().count(), 0);

    // A pool whose template is gone has nobody who asks for it.
    pool.set(&template, 1).unwrap();
    assert_eq!(fill(), 1);
    world.store().remove(&name).unwrap();
    pool.remove_orphans(&world.store()).unwrap();
    assert!(pool.list().unwrap().is_empty());
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
