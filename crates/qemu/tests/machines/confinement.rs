//! What QEMU has of the host.

use std::fs;
use std::path::Path;

use isle_cgroup::Cgroup;
use isle_qemu::*;
use oci_spec::runtime::LinuxResources;

use crate::guest::World;
use crate::{disk, opened};

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
    let id = crate::guest::identity(&world.path("copy")).id.to_string();
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
        cpu_model: Architecture::X86_64
            .default_cpu_model(Accelerator::Kvm)
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
