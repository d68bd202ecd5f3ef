//! `isle kernel`: kernels of virtual machines come, are chosen and go, and bad ones are told from good ones.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use isle_tests::{Level, Need, World};

isle_tests::stories! {
    only Level::Container;
    a_kernel_comes_is_chosen_and_goes [Need::Isle, Need::Dpkg, Need::Compiler],
    without_a_kernel_every_way_to_one_is_named [Need::Isle],
    what_is_no_kernel_package_is_refused_with_the_reason [Need::Isle, Need::Dpkg, Need::Compiler],
    a_damaged_kernel_is_listed_told_and_removable [Need::Isle, Need::Dpkg, Need::Compiler],
    a_source_that_is_none_leaves_nothing_behind [Need::Isle],
    the_tuned_kernel_is_what_its_configuration_says [Need::Isle, Need::GuestKernel],
    a_kernel_that_machines_run_on_stays [Need::Isle, Need::GuestKernel],
    a_machine_does_not_boot_from_a_damaged_kernel [Need::Isle, Need::GuestKernel],
    what_a_machine_boots_from_is_made_again_when_it_is_damaged [Need::Isle, Need::GuestKernel],
}

/// Modules of a kernel that a guest could boot, and what each depends on.
const MODULES: [(&str, &str); 8] = [
    ("virtio", ""),
    ("virtio_ring", "virtio"),
    ("virtio_mmio", "virtio,virtio_ring"),
    ("virtio_console", "virtio"),
    ("virtio_blk", "virtio"),
    ("erofs", ""),
    ("ext4", ""),
    ("overlay", ""),
];

/// A kernel package like Debian's, without anything that runs. Leaves `without` out.
fn package(world: &World, version: &str, without: &str) -> String {
    let release = format!("{version}-test-cloud");
    let tree = world.files().join(format!("tree-{version}"));
    let modules = tree.join("lib/modules").join(&release);
    for folder in [
        tree.join("DEBIAN"),
        tree.join("boot"),
        modules.join("kernel"),
    ] {
        fs::create_dir_all(folder).unwrap();
    }
    let control = format!(
        "Package: linux-image-{release}\nVersion: {version}\nArchitecture: amd64\n\
         Maintainer: nobody <nobody@localhost>\nDescription: a kernel of a test\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    fs::write(modules.join("modules.builtin"), "").unwrap();
    if without != "vmlinuz" {
        fs::write(tree.join(format!("boot/vmlinuz-{release}")), "a kernel").unwrap();
    }
    for (name, depends) in MODULES.iter().filter(|(name, _)| *name != without) {
        let source = world.file(
            "module.s",
            format!(".section .modinfo,\"a\"\n.asciz \"depends={depends}\"\n"),
        );
        let file = modules.join(format!("kernel/{name}.ko"));
        run(Command::new("cc").arg("-c").arg(source).arg("-o").arg(file));
    }
    let file = world.files().join(format!("kernel-{version}.deb"));
    run(Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group", "-Znone"])
        .arg(&tree)
        .arg(&file));
    file.to_string_lossy().into_owned()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn kernels(world: &World) -> PathBuf {
    world.root().join("kernels")
}

/// Names of everything in the folder of kernels, hidden or not.
fn entries(world: &World) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(kernels(world))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What `install` calls it: after the distribution that this runs on.
fn install(world: &World, version: &str) -> String {
    let file = package(world, version, "");
    let name = world
        .isle(["kernel", "install", "--quiet", "--file", &file])
        .succeeds();
    name.trim().to_owned()
}

fn a_kernel_comes_is_chosen_and_goes(world: &World) {
    let old = install(world, "6.1.1");
    assert!(old.ends_with("-6.1.1-test-cloud"), "{old}");
    let new = install(world, "6.1.2");
    // One that has come is the one in use, unless it was asked otherwise.
    let list = |format: &str| world.isle(["kernel", "ls", "--format", format]).succeeds();
    let in_use = "{{.Name}} {{.Current}}";
    assert_eq!(list(in_use), format!("{old} false\n{new} true"));
    world.isle(["kernel", "use", &old]).succeeds();
    assert_eq!(list(in_use), format!("{old} true\n{new} false"));
    let third = package(world, "6.1.3", "");
    world
        .isle(["kernel", "install", "--no-use", "--file", &third])
        .succeeds();
    assert!(list(in_use).starts_with(&format!("{old} true\n")));
    assert_eq!(
        list("{{.Version}} {{.Kind}}").lines().next(),
        Some("6.1.1 distribution")
    );
    let json = list("json");
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["Package"], "linux-image-6.1.1-test-cloud");
    assert_eq!(first["Status"], "in use");
    assert_eq!(
        world
            .isle(["kernel", "ls", "-q"])
            .succeeds()
            .lines()
            .count(),
        3
    );
    let table = world.isle(["kernel", "ls"]).succeeds();
    assert!(table.starts_with("NAME "), "{table}");
    // Modules come in the order in which they need each other.
    let archive = fs::read(kernels(world).join(&old).join("modules.cpio")).unwrap();
    let archive = String::from_utf8_lossy(&archive);
    assert!(archive.contains(
        "00-virtio.ko\n01-virtio_ring.ko\n02-virtio_mmio.ko\n03-virtio_console.ko\n04-virtio_blk.ko\n\
         05-erofs.ko\n06-ext4.ko\n07-overlay.ko\n"
    ));
    // The same once more is the same kernel.
    assert_eq!(install(world, "6.1.1"), old);
    let removed = world.isle(["kernel", "rm", &old, &new]).succeeds();
    assert_eq!(removed, format!("{old}\n{new}"));
    assert_eq!(entries(world).len(), 1, "{:?}", entries(world));
}

fn without_a_kernel_every_way_to_one_is_named(world: &World) {
    assert_eq!(world.isle(["kernel", "ls", "-q"]).succeeds(), "");
    world
        .isle(["kernel", "use", "isle-6.1"])
        .exits_with(1)
        .complains("isle kernel install")
        .complains("isle kernel build");
    world
        .isle(["kernel", "rm", "../.."])
        .exits_with(1)
        .complains("is no name of a kernel");
    let report = world.isle(["doctor", "--format", "json"]).run();
    let report: serde_json::Value = serde_json::from_str(&report.stdout()).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["name"] == "guest kernel")
        .unwrap();
    assert_eq!(check["state"], "missing");
    assert!(
        check["remedy"]
            .as_str()
            .unwrap()
            .contains("isle kernel install")
    );
}

fn what_is_no_kernel_package_is_refused_with_the_reason(world: &World) {
    for (number, (without, reason)) in [
        ("vmlinuz", "it has no vmlinuz"),
        (
            "virtio_ring",
            "it has no virtio_ring, which virtio_mmio needs",
        ),
        ("erofs", "it has no erofs, which erofs needs"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = package(world, &format!("6.1.{number}"), without);
        world
            .isle(["kernel", "install", "--file", &file])
            .exits_with(1)
            .complains("is no kernel for virtual machines")
            .complains(reason)
            .complains("hint: ");
    }
    let text = world.file("text.deb", "no package at all");
    world
        .isle(["kernel", "install", "--file", &text])
        .exits_with(1)
        .complains("is no kernel for virtual machines");
    let cut = package(world, "6.1.9", "");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    world
        .isle(["kernel", "install", "--file", &cut])
        .exits_with(1)
        .complains("cannot unpack the package");
    world
        .isle(["kernel", "install", "--file", &cut, "linux-image"])
        .exits_with(1)
        .complains("exclude each other");
    for name in ["-oDir=/", "a/b", "../a", "A", ""] {
        world
            .isle(["kernel", "install", "--", name])
            .exits_with(1)
            .complains("is no name of a package");
    }
    assert_eq!(entries(world), [""; 0]);
}

fn a_damaged_kernel_is_listed_told_and_removable(world: &World) {
    let name = install(world, "6.1.1");
    let image = kernels(world).join(&name).join("vmlinuz");
    let status = || {
        world
            .isle(["kernel", "ls", "--format", "{{.Status}}"])
            .succeeds()
    };
    fs::write(&image, "b kernel").unwrap();
    world
        .isle(["kernel", "use", &name])
        .exits_with(1)
        .complains("is damaged: vmlinuz has the digest")
        .complains(&format!("isle kernel rm {name}"));
    fs::write(&image, "a").unwrap();
    assert_eq!(
        status(),
        "in use, damaged: vmlinuz has 1 bytes instead of 8"
    );
    fs::remove_file(&image).unwrap();
    assert_eq!(status(), "in use, damaged: vmlinuz is missing");
    fs::write(kernels(world).join(&name).join("kernel.json"), "{").unwrap();
    assert!(
        status().starts_with("in use, damaged: kernel.json"),
        "{}",
        status()
    );
    world.isle(["kernel", "rm", &name]).succeeds();
    assert_eq!(entries(world), [""; 0]);
}

fn a_source_that_is_none_leaves_nothing_behind(world: &World) {
    let text = world.file("linux.tar.xz", "no archive");
    world
        .isle(["kernel", "build", "--source", &text])
        .exits_with(1)
        .complains("cannot unpack the source");
    let empty = world.files().join("empty.tar");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&empty)
        .args(["-T", "/dev/null"]));
    world
        .isle(["kernel", "build", "--source", &empty.to_string_lossy()])
        .exits_with(1)
        .complains("does not have the source of Linux");
    world
        .isle(["kernel", "build", "-j", "0"])
        .exits_with(125)
        .complains("--jobs");
    assert_eq!(entries(world), [""; 0]);
}

fn the_tuned_kernel_is_what_its_configuration_says(world: &World) {
    world.use_guest_kernel();
    let of = |format: &str| {
        let text = world.isle(["kernel", "ls", "--format", format]).succeeds();
        let mut lines = text.lines().map(str::to_owned);
        lines.next().unwrap()
    };
    assert_eq!(of("{{.Kind}} {{.Status}}"), "tuned in use");
    let features = of("{{.Features}}");
    for feature in [
        "9p",
        "9p-fd",
        "balloon",
        "free-page-reporting",
        "virtio-scsi",
        "virtiofs",
    ] {
        assert!(features.split(',').any(|one| one == feature), "{features}");
    }
    assert!(of("{{.Release}}").ends_with("-isle"));
}

/// A copy of the tests' kernel, to do with as one likes; returns its name.
fn own_kernel(world: &World) -> String {
    let from = isle_tests::guest_kernels().unwrap();
    let name = fs::read_to_string(from.join("current")).unwrap();
    let name = name.trim().to_owned();
    let to = kernels(world).join(&name);
    fs::create_dir_all(&to).unwrap();
    for file in ["kernel.json", "vmlinux"] {
        fs::copy(from.join(&name).join(file), to.join(file)).unwrap();
    }
    world.isle(["kernel", "use", &name]).succeeds();
    name
}

fn a_kernel_that_machines_run_on_stays(world: &World) {
    let name = own_kernel(world);
    let image = world.busybox();
    let run = ["run", "-d", "--isolation", "vm", "--name", "own", &image];
    world.isle(run).arguments(["sleep", "600"]).succeeds();
    let release = world.isle(["exec", "own", "uname", "-r"]).succeeds();
    assert!(release.ends_with("-isle"), "{release}");
    world
        .isle(["kernel", "rm", &name])
        .exits_with(1)
        .complains("running instances use it")
        .complains("hint: ");
    world.isle(["exec", "own", "true"]).succeeds();
    world.isle(["rm", "-f", "own"]).succeeds();
    world.isle(["kernel", "rm", &name]).succeeds();
    world
        .isle(["run", "--rm", "--isolation", "vm", &image, "true"])
        .exits_with(125)
        .complains("isle kernel install");
}

fn a_machine_does_not_boot_from_a_damaged_kernel(world: &World) {
    let name = own_kernel(world);
    let image = world.busybox();
    let vmlinux = kernels(world).join(&name).join("vmlinux");
    let whole = fs::read(&vmlinux).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], b""] {
        fs::write(&vmlinux, damaged).unwrap();
        world
            .isle(["run", "--rm", "--isolation", "vm", &image, "true"])
            .exits_with(125)
            .complains("is damaged: vmlinux")
            .complains(&format!("isle kernel rm {name}"));
    }
    fs::write(&vmlinux, whole).unwrap();
    world
        .isle(["run", "--rm", "--isolation", "vm", &image, "true"])
        .succeeds();
}

/// Files below a folder whose names begin so.
fn files_named(folder: &std::path::Path, beginning: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_named(&entry.path(), beginning)),
            false if name.starts_with(beginning) => found.push(entry.path()),
            false => {}
        }
    }
    found
}

fn what_a_machine_boots_from_is_made_again_when_it_is_damaged(world: &World) {
    type Damage = fn(&std::path::Path);
    own_kernel(world);
    let image = world.busybox();
    let run = || {
        world
            .isle([
                "run",
                "--rm",
                "--isolation",
                "vm",
                "-m",
                "64m",
                &image,
                "echo",
                "whole",
            ])
            .succeeds()
    };
    assert_eq!(run(), "whole");
    let templates = world.root().join("templates");
    let damages: [(&str, Damage); 2] = [
        ("cut", |path| {
            let length = fs::metadata(path).unwrap().len();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(length / 2).unwrap();
        }),
        ("gone", |path| fs::remove_file(path).unwrap()),
    ];
    for (what, damage) in damages {
        for (folder, file) in [
            (&templates, "memory"),
            (&templates, "state"),
            (&kernels(world), "initramfs"),
        ] {
            let found = files_named(folder, file);
            assert!(!found.is_empty(), "{file} in {}", folder.display());
            found.iter().for_each(|path| damage(path));
            // Without its template it has to be booted again.
            if file == "initramfs" {
                let _ = fs::remove_dir_all(&templates);
            }
            assert_eq!(run(), "whole", "{file} {what}");
        }
    }
}
