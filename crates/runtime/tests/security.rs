//! What must never happen at this level; the names of cases are in the threat model.

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[macro_use]
mod bundle;

use std::os::fd::AsFd;
use std::path::Path;

use bundle::{Bundle, CAPABILITIES, Ended, Streams, chain, wait};
use serde_json::json;

/// CVE-2024-21626
#[test]
fn a_working_directory_behind_a_descriptor_is_refused() {
    need_root!();
    // several tests run at once: none of these numbers may lead anywhere
    for number in (0..40).chain([100, 511, 1023]) {
        for directory in ["/proc/self/fd", "/proc/1/fd", "/proc/thread-self/fd"] {
            let bundle = Bundle::new()
                .set("/process/cwd", json!(format!("{directory}/{number}")))
                .sh("pwd");
            match bundle.try_run() {
                Err(error) => assert_eq!(error.exit_code(), 125, "{}", chain(&error)),
                Ok(output) => panic!("{directory}/{number}: {output:?}"),
            }
        }
    }
}

/// CVE-2024-21626, exec
#[test]
fn exec_refuses_a_working_directory_behind_a_descriptor() {
    need_root!();
    let bundle = Bundle::new().args(&["sleep", "100"]);
    let streams = Streams::new();
    let child = bundle
        .plan()
        .create(bundle.rootfs(), None, streams.stdio())
        .unwrap()
        .start()
        .unwrap();
    let spec = bundle.spec();
    // with the low ones all that can be open here are tried
    for number in (0..96).chain([127, 128, 255, 256, 511, 512, 1023]) {
        let mut process = spec.process().clone().unwrap();
        process.set_cwd(format!("/proc/self/fd/{number}").into());
        process.set_args(Some(vec!["true".to_owned()]));
        let streams = Streams::new();
        let result = isle_runtime::exec(
            child.pidfd.as_fd(),
            &spec,
            &process,
            None,
            None,
            streams.stdio(),
        );
        assert!(result.is_err(), "{number}");
    }
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
    wait(&child);
}

#[test]
fn only_the_standard_streams_are_open() {
    need_root!();
    // a descriptor without close-on-exec, as a careless caller has it
    let careless = std::fs::File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    // the shell's own test, which opens nothing; 10 and above are the shell's
    let output = Bundle::new()
        .sh("for n in 0 1 2 3 4 5 6 7 8 9; do test -L /proc/$$/fd/$n && echo $n; done")
        .run();
    assert_eq!(output.stdout, "0\n1\n2\n", "{output:?}");
}

/// As `runc spec` writes them; runc starts that too.
#[test]
fn what_is_not_inheritable_does_not_become_ambient() {
    need_root!();
    let set = ["CAP_KILL", "CAP_AUDIT_WRITE"];
    let ambient = |inheritable: &[&str]| {
        let output = Bundle::new()
            .set(
                "/process/capabilities",
                json!({"bounding": set, "effective": set, "permitted": set, "ambient": set, "inheritable": inheritable}),
            )
            .sh("grep CapAmb /proc/self/status")
            .run();
        output.stdout
    };
    assert_eq!(ambient(&[]), "CapAmb:\t0000000000000000\n");
    assert_eq!(ambient(&["CAP_KILL"]), "CapAmb:\t0000000000000020\n");
}

#[test]
fn capabilities_are_exact_and_none_is_inherited() {
    need_root!();
    let output = Bundle::new()
        .sh("grep -E '^(Cap|Groups|NoNewPrivs)' /proc/self/status")
        .run();
    let value = |name: &str| {
        output
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    let docker = "00000000a80425fb";
    assert_eq!(CAPABILITIES.len(), 14);
    assert_eq!(
        [
            value("CapInh:"),
            value("CapPrm:"),
            value("CapEff:"),
            value("CapBnd:"),
            value("CapAmb:")
        ],
        [
            "0000000000000000",
            docker,
            docker,
            docker,
            "0000000000000000"
        ],
    );
    assert_eq!(value("Groups:"), "");
    assert_eq!(value("NoNewPrivs:"), "0");
    let output = Bundle::new()
        .set("/process/noNewPrivileges", json!(true))
        .set("/process/user", json!({"uid": 5, "gid": 5}))
        .sh("grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/self/status")
        .run();
    assert_eq!(
        output.stdout,
        "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
    );
}

/// CVE-2019-5736: whatever is executed from such a mount cannot be opened for writing.
#[test]
fn the_runtimes_own_file_cannot_be_written_through_proc() {
    need_root!();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    std::fs::copy("/bin/busybox", &program).unwrap();
    let file = isle_runtime::own_binary::open_read_only(&program).unwrap();
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let spawn = || {
        std::process::Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .arg0("busybox")
            .args(["sleep", "100"])
            .spawn()
    };
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut child = loop {
        match spawn() {
            // A process that another test of this program has just made has the copy still open for
            // writing, until it executes its own.
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                    && std::time::Instant::now() < patience =>
            {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            child => break child.unwrap(),
        }
    };
    drop(file);
    let exe = format!("/proc/{}/exe", child.id());
    let held = std::fs::File::open(&exe).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // nothing executes it any more: what refuses is the mount
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    let error = std::fs::File::options()
        .write(true)
        .open(&again)
        .unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
}

/// CVE-2025-31133, 52565, 52881 and their kin: images that bring links where mounts go.
#[test]
fn links_of_the_image_do_not_lead_mounts_astray() {
    need_root!();
    let canary = tempfile::tempdir().unwrap();
    let host = canary.path().display().to_string();
    type Change = Box<dyn Fn(&Path)>;
    let link = |name: &'static str, target: String| -> Change {
        Box::new(move |root: &Path| {
            let path = root.join(name);
            let _ = std::fs::remove_dir(&path);
            std::os::unix::fs::symlink(&target, path).unwrap();
        })
    };
    let cases: Vec<(&str, Change)> = vec![
        ("dev to the host", link("dev", host.clone())),
        (
            "dev upwards",
            link("dev", format!("../../../../../../..{host}")),
        ),
        ("proc to the host", link("proc", host.clone())),
        ("sys to the host", link("sys", host.clone())),
        ("proc to tmp", link("proc", "/tmp".to_owned())),
        ("dev to proc", link("dev", "/proc/self/fd".to_owned())),
    ];
    for (name, change) in cases {
        let bundle = Bundle::new().sh("echo ran").prepared(|root| change(root));
        // Refused, or mounted inside: never on the host. What is masked by path stays in its place.
        match bundle.try_run() {
            Ok(output) => {
                assert_eq!(output.ended, Ended::Code(0), "{name}: {output:?}");
                assert!(name.starts_with("dev"), "{name}: {output:?}");
            }
            Err(error) => assert_eq!(error.exit_code(), 125, "{name}: {}", chain(&error)),
        }
        assert_eq!(
            std::fs::read_dir(canary.path()).unwrap().count(),
            0,
            "{name}: something was made on the host"
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&host), "{name}: {mounts}");
    }
}

#[test]
fn masked_paths_stay_masked_when_the_image_brings_its_own_null_device() {
    need_root!();
    let output = Bundle::new()
        .sh(
            "cat /proc/kcore | busybox head -c 1; cat /proc/keys; ls /proc/scsi /sys/firmware; \
             echo 1 > /proc/sysrq-trigger; echo x > /proc/sys/kernel/core_pattern; echo $?",
        )
        .prepared(|root| {
            std::fs::write(root.join("dev/null"), "bait").unwrap();
        })
        .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.last(), Some(&"1"), "{output:?}");
    assert!(!output.stdout.contains("bait"));
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
}

/// CVE-2021-30465: the target of a mount is swapped for a link while containers are made.
#[test]
fn a_target_that_is_swapped_all_the_time_never_leaves_the_root() {
    need_root!();
    let canary = tempfile::tempdir().unwrap();
    let volume = tempfile::tempdir().unwrap();
    std::fs::create_dir(volume.path().join("real")).unwrap();
    std::os::unix::fs::symlink(canary.path(), volume.path().join("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (volume.path().join("real"), volume.path().join("link"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &a,
                    rustix::fs::CWD,
                    &b,
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        for _ in 0..60 {
            let bundle = Bundle::new()
                .mount(json!({"destination": "/volume", "type": "bind", "source": volume.path(), "options": ["rbind"]}))
                .mount(json!({"destination": "/volume/real/below", "type": "tmpfs", "source": "x"}));
            let _ = bundle.try_run();
            assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&canary.path().display().to_string()));
}

#[test]
fn the_host_is_out_of_reach() {
    need_root!();
    let output = Bundle::new()
        .sh("cd /; cd ../../../..; ls; ls /proc/1/root; cat /proc/self/mountinfo | wc -l; \
             busybox mount -t tmpfs x /tmp 2>&1; busybox unshare -m true 2>&1; busybox mknod /x b 8 0 && cat /x")
        .run();
    assert!(!output.stdout.contains("boot"), "{output:?}");
    assert!(
        output.stdout.contains("Operation not permitted")
            || output.stdout.contains("permission denied"),
        "{output:?}"
    );
}

#[test]
fn what_this_host_does_not_have_is_refused_and_not_ignored() {
    need_root!();
    let plan = |pointer: &str, value: serde_json::Value| {
        let bundle = Bundle::new().set(pointer, value);
        isle_runtime::Plan::new(&bundle.spec(), bundle.options())
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    if !Path::new("/sys/module/apparmor").exists() {
        let text = plan("/process/apparmorProfile", json!("docker-default"));
        assert!(text.contains("AppArmor"), "{text}");
    }
    if !Path::new("/sys/fs/selinux").exists() {
        let text = plan("/process/selinuxLabel", json!("system_u:system_r:x:s0"));
        assert!(text.contains("SELinux"), "{text}");
        plan("/linux/mountLabel", json!("system_u:object_r:x:s0"));
    }
    plan("/linux/intelRdt", json!({"closID": "x"}));
    plan("/linux/netDevices", json!({"eth0": {"name": "x"}}));
    plan("/process/cwd", json!("relative"));
    plan(
        "/linux/uidMappings",
        json!([{"containerID": 0, "hostID": 0, "size": 1}]),
    );
    plan("/linux/timeOffsets", json!({"boottime": {"secs": 1}}));
    plan("/linux/rootfsPropagation", json!("nonsense"));
    plan("/ociVersion", json!("2.0.0"));
}
