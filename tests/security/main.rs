//! The rows of the threat model that exist at the container level, each proved from inside by what
//! the kernel says.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use isle_tests::{Level, Need, World};

isle_tests::stories! {
    capabilities_are_dockers_and_the_inheritable_set_is_empty,
    capabilities_follow_cap_add_and_cap_drop,
    privileged_means_all_and_nothing_less,
    no_new_privileges_holds,
    the_default_seccomp_policy_is_in_force,
    dangerous_system_calls_are_refused,
    an_own_seccomp_profile_is_applied,
    sensitive_paths_are_masked_or_read_only,
    devices_are_the_usual_few,
    a_device_is_given_with_its_permissions [Need::Isle, Need::Only(Level::Container)],
    no_descriptor_of_the_engine_is_open_inside,
    a_working_directory_in_proc_self_fd_gets_nowhere,
    the_runtimes_own_file_cannot_be_written_from_inside [Need::Isle],
    an_image_with_links_for_proc_and_dev_is_refused_or_masked,
    every_namespace_is_its_own,
    processes_of_the_host_cannot_be_seen_or_killed [Need::Only(Level::Container)],
    a_user_namespace_is_real [Need::Isle, Need::Only(Level::Container)],
    instances_with_user_ids_of_their_own_share_none [Need::Isle, Need::Only(Level::Container)],
    files_have_the_ids_that_they_have_inside [Need::Isle, Need::Only(Level::Container)],
    environment_and_labels_of_an_image_give_no_privilege,
    abstract_sockets_of_the_host_are_out_of_reach,
    the_level_in_force_is_shown [Need::Isle],
    copies_of_one_machine_all_differ [Need::Only(Level::Vm)],
}

fn copies_of_one_machine_all_differ(world: &World) {
    // An image that leaves its machine id to whoever runs it, as those of distributions do.
    let image = world.busybox();
    world
        .isle(["run", "--name", "source", "--network", "none", &image])
        .arguments(["sh", "-c", ": > /etc/machine-id"])
        .succeeds();
    world.isle(["commit", "source", "fresh"]).succeeds();
    // On a network they have cards: in a host of the test's own.
    world.use_own_host("");
    let script = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid \
                  /proc/sys/kernel/random/boot_id; hostname; cat /etc/machine-id \
                  /sys/class/net/eth0/address";
    let wanted = std::env::var("ISLE_TEST_CLONES").ok();
    let count: usize = wanted.map_or(12, |text| text.parse().expect("a number"));
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..count {
        // All of them run at the same time.
        let name = format!("n{number}");
        world
            .isle([
                "run", "-d", "--name", &name, "-m", "64m", "fresh", "sh", "-c",
            ])
            .arguments([&format!("{script}; echo all; sleep 10000")])
            .succeeds();
    }
    for number in 0..count {
        let name = format!("n{number}");
        world.wait_for_log(&name, "all");
        let text = world.isle(["logs", &name]).succeeds();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        assert_eq!(lines[4].len(), 32, "{text}");
        assert_eq!(lines[5].len(), "02:42:ac:11:00:02".len(), "{text}");
        for line in &lines[..6] {
            assert!(seen.insert((*line).to_owned()), "{line} comes twice");
        }
    }
}

fn inside(world: &World, flags: &[&str], script: &str) -> String {
    let image = world.busybox();
    let mut arguments = vec!["run", "--rm", "--network", "none"];
    arguments.extend(flags);
    arguments.extend([image.as_str(), "sh", "-c", script]);
    world.isle(arguments).run().stdout()
}

const CAPABILITIES: &str = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr '\\t' ' '";

fn capabilities_are_dockers_and_the_inheritable_set_is_empty(world: &World) {
    // Docker's fourteen: chown … audit_write, setfcap. Podman leaves out three of them.
    let text = inside(world, &[], CAPABILITIES);
    assert!(text.contains("CapInh: 0000000000000000"), "{text}");
    assert!(text.contains("CapAmb: 0000000000000000"), "{text}");
    let known = ["00000000a80425fb", "00000000800405fb"];
    assert!(
        known
            .iter()
            .any(|set| text.contains(&format!("CapBnd: {set}"))),
        "{text}"
    );
    assert!(
        known
            .iter()
            .any(|set| text.contains(&format!("CapEff: {set}"))),
        "{text}"
    );
    // Another user has none in effect.
    let text = inside(world, &["-u", "1000"], CAPABILITIES);
    assert!(text.contains("CapEff: 0000000000000000"), "{text}");
    assert!(text.contains("CapPrm: 0000000000000000"), "{text}");
}

fn capabilities_follow_cap_add_and_cap_drop(world: &World) {
    let set = |flags: &[&str]| {
        let text = inside(world, flags, "grep CapBnd /proc/self/status");
        u64::from_str_radix(text.trim().rsplit('\t').next().unwrap_or_default(), 16)
            .expect("a number")
    };
    assert_eq!(set(&["--cap-drop", "ALL"]), 0);
    assert_eq!(
        set(&["--cap-drop", "all", "--cap-add", "net_bind_service"]),
        1 << 10
    );
    assert_eq!(set(&["--cap-add", "CAP_NET_ADMIN"]) & (1 << 12), 1 << 12);
    assert_eq!(set(&["--cap-drop", "CHOWN"]) & 1, 0);
}

fn privileged_means_all_and_nothing_less(world: &World) {
    let host = fs::read_to_string("/proc/self/status").expect("readable");
    let bounding = host
        .lines()
        .find(|line| line.starts_with("CapBnd"))
        .expect("there");
    let text = inside(
        world,
        &["--privileged"],
        "grep -E 'CapBnd|Seccomp:' /proc/self/status; mount | grep ' /sys ' ; ls /dev | wc -l",
    );
    match world.level() {
        // A kernel of its own has nothing to keep back.
        Level::Vm => assert!(text.contains("CapBnd:\t000001ffffffffff"), "{text}"),
        Level::Container => assert!(text.contains(bounding.trim()), "{text}"),
    }
    assert!(text.contains("Seccomp:\t0"), "{text}");
}

fn no_new_privileges_holds(world: &World) {
    let script = "grep NoNewPrivs /proc/self/status";
    assert!(inside(world, &[], script).contains('0'));
    assert!(inside(world, &["--security-opt", "no-new-privileges"], script).contains('1'));
}

fn the_default_seccomp_policy_is_in_force(world: &World) {
    let script = "grep ^Seccomp: /proc/self/status";
    assert!(inside(world, &[], script).contains('2'));
    assert!(inside(world, &["--security-opt", "seccomp=unconfined"], script).contains('0'));
}

fn dangerous_system_calls_are_refused(world: &World) {
    // Each as the first that a known escape needs.
    for script in [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs none /tmp",
        "mount -t cgroup -o memory cgroup /tmp",
        "mknod /tmp/sda b 8 0 && head -c 1 /tmp/sda",
        "swapoff -a || swapon /etc/passwd",
        "echo 1 > /proc/sys/kernel/panic",
        "echo c > /proc/sysrq-trigger",
        "hostname other",
        "chroot / insmod /x.ko || insmod /x.ko",
    ] {
        let text = inside(world, &[], &format!("({script}) 2>/dev/null; echo code $?"));
        assert!(
            text.starts_with("code ") && text != "code 0\n",
            "{script}: {text}"
        );
    }
    // What the policy refuses, it does not refuse to a container with the capability.
    let text = inside(
        world,
        &["--cap-add", "SYS_ADMIN"],
        "mount -t tmpfs none /tmp; echo code $?",
    );
    assert_eq!(text, "code 0\n");
}

fn an_own_seccomp_profile_is_applied(world: &World) {
    let profile = world.file(
        "profile.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_AARCH64"],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#,
    );
    let option = format!("seccomp={profile}");
    let text = inside(
        world,
        &["--security-opt", &option],
        "mkdir /x 2>&1; echo code $?; echo x > /y && echo written",
    );
    assert!(
        text.contains("not supported") && text.contains("code 1") && text.contains("written"),
        "{text}"
    );
    let bad = world.file("bad.json", "{\"defaultAction\":\"SCMP_ACT_NOPE\"}");
    let image = world.busybox();
    let outcome = world
        .isle([
            "run",
            "--rm",
            "--security-opt",
            &format!("seccomp={bad}"),
            &image,
            "true",
        ])
        .run();
    assert!([125, 126].contains(&outcome.code()), "{outcome}");
}

fn sensitive_paths_are_masked_or_read_only(world: &World) {
    let text = inside(
        world,
        &[],
        "for f in /proc/kcore /proc/keys /proc/timer_list; do test -e $f && test -s $f && echo open $f; done; \
         ls -A /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : ; \
         for f in /proc/sys/kernel/domainname /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run; do \
         echo 0 > $f && echo wrote $f; done 2>/dev/null; true",
    );
    assert_eq!(text.trim(), "");
}

fn devices_are_the_usual_few(world: &World) {
    let text = inside(
        world,
        &[],
        "ls /dev | tr '\\n' ' '; echo x > /dev/null && head -c 4 /dev/urandom | wc -c",
    );
    for device in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin",
    ] {
        assert!(
            text.split_whitespace().any(|name| name == device),
            "{device}: {text}"
        );
    }
    for device in ["sda", "vda", "mem", "kmsg", "kvm", "loop0", "fuse"] {
        assert!(
            !text.split_whitespace().any(|name| name == device),
            "{device}: {text}"
        );
    }
    assert!(text.trim().ends_with('4'), "{text}");
}

fn a_device_is_given_with_its_permissions(world: &World) {
    let script = "(: < /dev/given) && echo read; (: > /dev/given) || echo refused";
    let text = inside(world, &["--device", "/dev/fuse:/dev/given:r"], script);
    assert_eq!(text, "read\nrefused\n");
    let text = inside(world, &["--device", "/dev/fuse:/dev/given"], script);
    assert_eq!(text, "read\n");
    // Without it not even a node of one's own helps.
    let text = inside(
        world,
        &[],
        "mknod /tmp/f c 10 229; (: < /tmp/f) || echo refused",
    );
    assert_eq!(text, "refused\n");
}

fn no_descriptor_of_the_engine_is_open_inside(world: &World) {
    // CVE-2024-21626. ls itself opens one, for the directory.
    let script = "for fd in /proc/self/fd/*; do [ -p $fd ] || readlink $fd; done | \
                  grep -vE '^(/dev/|/proc/[0-9]+/fd$)'";
    assert_eq!(inside(world, &[], script), "");
    let image = world.busybox();
    // As the first process, without a shell and its pipes.
    let first = world.isle(["run", "--rm", &image, "ls", "/proc/self/fd"]);
    assert_eq!(first.succeeds(), "0\n1\n2\n3");
    world.background("n", &[], &["sleep", "1000"]);
    let text = world
        .isle(["exec", "n", "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"])
        .succeeds();
    assert_eq!(text.trim(), "0 1 2 3");
}

fn a_working_directory_in_proc_self_fd_gets_nowhere(world: &World) {
    let image = world.busybox();
    world.background("n", &[], &["sleep", "1000"]);
    for number in [3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 31, 63, 255, 1023] {
        let place = format!("/proc/self/fd/{number}");
        for outcome in [
            world
                .isle(["run", "--rm", "-w", &place, &image, "ls", "-a", "."])
                .run(),
            world
                .isle(["exec", "-w", &place, "n", "ls", "-a", "."])
                .run(),
        ] {
            assert_ne!(outcome.code(), 0, "{outcome}");
        }
    }
}

fn the_runtimes_own_file_cannot_be_written_from_inside(world: &World) {
    // CVE-2019-5736: the program of the runtime is reached through /proc/<pid>/exe.
    world.background("n", &["--privileged"], &["sleep", "1000"]);
    let pid = world.inspect("n")["State"]["Pid"]
        .as_i64()
        .expect("it runs");
    let supervisor = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = supervisor
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .expect("a parent")
        .trim()
        .to_owned();
    let own = format!("/proc/{parent}/exe");
    let before = fs::read(&own).expect("the supervisor's program");
    let attempt = fs::OpenOptions::new().write(true).open(&own);
    attempt.expect_err("the supervisor's program can be written through /proc");
    // While it runs nobody can write it anyhow (ETXTBSY); afterwards a descriptor of it gets no further
    // either, because the mount that it is executed from is read-only.
    let program = fs::File::open(&own).expect("the supervisor's program");
    let flags = rustix::fs::fstatvfs(&program)
        .expect("any file has a mount")
        .f_flag;
    assert!(
        flags.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        "{flags:?}"
    );
    assert!(fs::read(&own).expect("still there") == before);
    // From inside, during an exec, which enters the container for a moment.
    world
        .isle(["exec", "-d", "n", "sh", "-c", "for i in $(seq 1 2000); do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || (echo evil > $p/exe) 2>/dev/null; done; done"])
        .succeeds();
    for _ in 0..20 {
        let _ = world.isle(["exec", "n", "true"]).run();
    }
    assert!(fs::read(&own).expect("still there") == before);
}

fn an_image_with_links_for_proc_and_dev_is_refused_or_masked(world: &World) {
    // CVE-2019-19921, CVE-2025-31133 and their like: what is mounted over is a link in the image.
    let canary = world.files().join("canary");
    fs::create_dir(&canary).expect("own folder");
    for name in ["proc", "sys", "dev", "tmp"] {
        let root = world.files().join(format!("root-{name}"));
        fs::create_dir_all(root.join("bin")).expect("own folder");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("own folder");
        std::os::unix::fs::symlink(&canary, root.join(name)).expect("own folder");
        let tar = world.files().join(format!("{name}.tar"));
        let mut command = std::process::Command::new("tar");
        command.arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".");
        isle_tests::Invocation::new(command).succeeds();
        let image = format!("links-{name}");
        world
            .isle(["import", &tar.to_string_lossy(), &image])
            .succeeds();
        let outcome = world
            .isle(["run", "--rm", "-v", &format!("{}:/tmp/shared", world.files().display()), &image, "/bin/busybox", "sh", "-c",
                "busybox=/bin/busybox; $busybox ls /proc/self >/dev/null && $busybox grep -c . /proc/mounts >/dev/null; $busybox test -s /proc/kcore && echo exposed"])
            .run();
        assert!(!outcome.stdout().contains("exposed"), "{outcome}");
        assert_eq!(
            fs::read_dir(&canary).expect("there").count(),
            0,
            "{outcome}"
        );
    }
}

fn every_namespace_is_its_own(world: &World) {
    let text = inside(
        world,
        &[],
        "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done",
    );
    let inside: Vec<&str> = text.lines().collect();
    let names = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    assert_eq!(inside.len(), names.len());
    for (name, inside) in names.iter().zip(inside) {
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).expect("readable");
        // On version 1 hosts Docker and Podman share the cgroup namespace.
        if *name != "cgroup" {
            assert_ne!(inside, outside.to_string_lossy(), "{name}");
        }
    }
}

fn processes_of_the_host_cannot_be_seen_or_killed(world: &World) {
    let text = inside(world, &[], "ls -d /proc/[0-9]* | wc -l; echo $$");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "1");
    assert!(
        lines[0].parse::<u32>().is_ok_and(|count| count <= 4),
        "{text}"
    );
    // `--pid host` shows them, when asked for.
    let text = inside(world, &["--pid", "host"], "readlink /proc/self/ns/pid");
    let outside = fs::read_link("/proc/self/ns/pid").expect("readable");
    assert_eq!(text.trim(), outside.to_string_lossy());
}

fn a_user_namespace_is_real(world: &World) {
    let script = "cat /proc/self/uid_map; id -u; touch /mine && stat -c %u /mine";
    let outcome = world.script(&["--rm", "--userns", "auto"], script).run();
    let text = outcome.stdout();
    let first: Vec<&str> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(first.first(), Some(&"0"), "{outcome}");
    assert!(first.get(1).is_some_and(|start| *start != "0"), "{outcome}");
    assert!(text.ends_with("0\n0\n"), "{outcome}");
}

/// The line of `/proc/self/uid_map`: first id inside, first id of the host, count.
fn id_map(world: &World, name: &str) -> [u64; 3] {
    let text = world
        .isle(["exec", name, "cat", "/proc/self/uid_map"])
        .succeeds();
    let mut numbers = text.split_whitespace().map(|number| number.parse());
    [(); 3].map(|()| numbers.next().expect("three numbers").expect("numbers"))
}

fn instances_with_user_ids_of_their_own_share_none(world: &World) {
    let image = world.busybox();
    for (name, mode) in [("a", "auto"), ("b", "auto:size=5000"), ("c", "auto")] {
        let sleep = ["sleep", "1000"];
        let mut arguments = vec!["run", "-d", "--name", name, "--userns", mode, &image];
        arguments.extend(sleep);
        world.isle(arguments).succeeds();
    }
    let ranges = ["a", "b", "c"].map(|name| id_map(world, name));
    assert_eq!(ranges[1][2], 5000);
    for (index, [inside, first, size]) in ranges.iter().enumerate() {
        assert_eq!(*inside, 0);
        assert!(*first >= 100_000, "{ranges:?}");
        for [_, other, other_size] in &ranges[..index] {
            let is_apart = other + other_size <= *first || first + size <= *other;
            assert!(is_apart, "{ranges:?}");
        }
    }
    // The kernel's own word for the first process, seen from the host.
    let pid = world.inspect("a")["State"]["Pid"].to_string();
    let owner = fs::metadata(format!("/proc/{pid}")).expect("it runs");
    assert_eq!(u64::from(owner.uid()), ranges[0][1]);
    // What is gone gives its range back.
    world.isle(["rm", "-f", "a"]).succeeds();
    world.background("d", &["--userns", "auto"], &["sleep", "1000"]);
    assert_eq!(id_map(world, "d")[1], ranges[0][1]);
    for flags in [
        &["--privileged"][..],
        &["--network", "host"],
        &["--pid", "host"],
    ] {
        let mut arguments = vec!["run", "--rm", "--userns", "auto"];
        arguments.extend(flags);
        arguments.extend([image.as_str(), "true"]);
        world
            .isle(arguments)
            .exits_with(125)
            .complains("--userns auto");
    }
    world
        .isle([
            "run",
            "--rm",
            "--userns",
            "auto:size=1073741824",
            &image,
            "true",
        ])
        .exits_with(125)
        .complains("no range of 1073741824 user ids is free");
}

fn files_have_the_ids_that_they_have_inside(world: &World) {
    let image = world.busybox();
    let script = "echo volume > /data/file && chown 5:6 /data/file && \
                  echo own > /own && chown 7:8 /own && echo to-stdout > /dev/stdout && sleep 1000";
    world
        .isle([
            "run",
            "-d",
            "--name",
            "u",
            "--userns",
            "auto",
            "-v",
            "data:/data",
            &image,
        ])
        .arguments(["sh", "-c", script])
        .succeeds();
    world.wait_for_log("u", "to-stdout");
    // A copy in either direction, while it runs.
    let file = world.file("copied", "in");
    world.isle(["cp", &file, "u:/copied"]).succeeds();
    let list = [
        "exec",
        "u",
        "stat",
        "-c",
        "%u:%g %n",
        "/own",
        "/data/file",
        "/copied",
    ];
    let text = world.isle(list).succeeds();
    assert_eq!(text, "7:8 /own\n5:6 /data/file\n0:0 /copied");
    let copied = world.files().join("own");
    world
        .isle(["cp", "-a", "u:/own", &copied.to_string_lossy()])
        .succeeds();
    let owner = fs::metadata(&copied).expect("copied");
    assert_eq!((owner.uid(), owner.gid()), (7, 8));
    // On the disk too: the volume is another instance's without a user namespace, and an image made
    // of the instance has no trace of the range.
    world.isle(["commit", "u", "made"]).succeeds();
    let mount = ["run", "--rm", "-v", "data:/data", "made"];
    let text = world
        .isle(mount)
        .arguments(["stat", "-c", "%u:%g %n", "/own", "/data/file", "/copied"])
        .succeeds();
    assert_eq!(text, "7:8 /own\n5:6 /data/file\n0:0 /copied");
    // It is started again with what it had.
    world.isle(["restart", "-t", "0", "u"]).succeeds();
    assert_eq!(
        world
            .isle(["exec", "u", "stat", "-c", "%u", "/own"])
            .succeeds(),
        "7"
    );
}

fn environment_and_labels_of_an_image_give_no_privilege(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "source", &image])
        .succeeds();
    world
        .isle([
            "commit",
            "-c",
            "LABEL io.podman.annotations.privileged=TRUE",
            "-c",
            "LABEL run.oci.keep_original_groups=1",
            "-c",
            "ENV LD_PRELOAD=/evil.so",
            "-c",
            "USER 1000",
            "source",
            "tainted",
        ])
        .succeeds();
    let text = world
        .isle([
            "run",
            "--rm",
            "tainted",
            "sh",
            "-c",
            "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; id -u",
        ])
        .succeeds();
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    assert!(text.contains("Seccomp:\t2"), "{text}");
    assert!(text.ends_with("1000"), "{text}");
    world.isle(["rm", "source"]).succeeds();
}

fn abstract_sockets_of_the_host_are_out_of_reach(world: &World) {
    // CVE-2020-15257
    let text = inside(world, &[], "grep -c @ /proc/net/unix");
    assert_eq!(text.trim(), "0");
}

fn the_level_in_force_is_shown(world: &World) {
    let image = world.busybox();
    world.isle(["create", "--name", "n", &image]).succeeds();
    let text = world.isle(["ps", "-a"]).succeeds();
    assert!(
        text.contains("ISOLATION") && text.contains(world.level().word()),
        "{text}"
    );
    let text = world.isle(["inspect", "n"]).succeeds();
    assert!(text.contains(world.level().word()), "{text}");
}
