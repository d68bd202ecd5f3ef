//! Containers made for real, from a root file system with nothing but busybox.

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[macro_use]
mod bundle;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bundle::{Bundle, Ended, Streams, chain, wait};
use isle_runtime::{LaunchError, Stdio};
use serde_json::json;

#[test]
fn a_program_runs_and_its_output_and_exit_code_come_back() {
    need_root!();
    let output = Bundle::new().sh("echo hello; echo oops >&2; exit 3").run();
    assert_eq!(output.ended, Ended::Code(3));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("hello\n", "oops\n")
    );
}

#[test]
fn it_is_alone_in_its_namespaces() {
    need_root!();
    let output = Bundle::new()
        .sh("echo $$; hostname; ls /proc | grep -c '^[0-9]'; cat /proc/net/dev | grep -c :")
        .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    // its pid; its name; sh, ls and grep; the loopback interface
    assert_eq!(lines, ["1", "isle-test", "3", "1"], "{output:?}");
}

#[test]
fn the_loopback_interface_is_up() {
    need_root!();
    let output = Bundle::new().sh("cat /sys/class/net/lo/flags").run();
    assert_eq!(output.stdout, "0x9\n", "{output:?}");
}

#[test]
fn devices_and_links_of_the_specification_are_there() {
    need_root!();
    let output = Bundle::new()
        .sh(
            "for d in null zero full random urandom tty; do test -c /dev/$d || echo $d; done; \
             for l in fd stdin stdout stderr core ptmx; do test -L /dev/$l || echo $l; done; \
             echo x >/dev/null; echo y >/dev/stdout",
        )
        .run();
    assert_eq!(output.stdout, "y\n", "{output:?}");
}

#[test]
fn what_cannot_be_found_or_executed_has_the_exit_codes_of_docker() {
    need_root!();
    let code = |args: &[&str]| match Bundle::new().args(args).try_run() {
        Err(error) => (error.exit_code(), chain(&error)),
        Ok(output) => panic!("{output:?}"),
    };
    let (exit, text) = code(&["nonesuch"]);
    assert_eq!(exit, 127);
    assert_eq!(
        text,
        "cannot find \"nonesuch\" in PATH: executable file not found: no such file or directory"
    );
    assert_eq!(code(&["/nonesuch"]).0, 127);
    assert_eq!(code(&["/bin/busybox/x"]).0, 127);
    assert_eq!(code(&["/etc"]).0, 126);
    let bundle = Bundle::new().args(&["/plain"]);
    std::fs::write(bundle.root().join("plain"), "not a program").unwrap();
    assert_eq!(bundle.try_run().unwrap_err().exit_code(), 126);
    let bundle = Bundle::new().args(&["/script"]);
    let script = bundle.root().join("script");
    std::fs::write(&script, "#!/nonesuch\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(bundle.try_run().unwrap_err().exit_code(), 127);
}

#[test]
fn user_groups_and_umask_are_exactly_those_given() {
    need_root!();
    let output = Bundle::new()
        .set(
            "/process/user",
            json!({"uid": 1234, "gid": 5678, "umask": 0o27, "additionalGids": [10, 20]}),
        )
        .sh("id -u; id -g; id -G; umask; echo out >>/dev/stdout")
        .run();
    assert_eq!(
        output.stdout, "1234\n5678\n5678 10 20\n0027\nout\n",
        "{output:?}"
    );
}

#[test]
fn a_missing_working_directory_is_made_and_home_is_that_of_the_user() {
    need_root!();
    let bundle = Bundle::new()
        .set("/process/cwd", json!("/srv/deep/er"))
        .sh("pwd; echo $HOME");
    std::fs::write(
        bundle.root().join("etc/passwd"),
        "root:x:0:0::/somewhere:/bin/sh\n",
    )
    .unwrap();
    assert_eq!(bundle.run().stdout, "/srv/deep/er\n/somewhere\n");
}

#[test]
fn resource_limits_oom_score_and_personality_are_set() {
    need_root!();
    let output = Bundle::new()
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
        .set("/process/oomScoreAdj", json!(321))
        .set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
        .set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))
        .set("/linux/personality", json!({"domain": "LINUX32"}))
        .set("/linux/memoryPolicy", json!({"mode": "MPOL_LOCAL"}))
        .sh("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; uname -m 2>/dev/null || /bin/busybox uname -m; /bin/busybox cat /proc/self/stat")
        .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(&lines[..4], ["100", "200", "321", "i686"], "{output:?}");
    let nice = lines[4]
        .rsplit(')')
        .next()
        .unwrap()
        .split(' ')
        .nth(17)
        .unwrap();
    assert_eq!(nice, "5");
}

#[test]
fn a_read_only_root_and_mounts_of_every_kind() {
    need_root!();
    let bundle = Bundle::new();
    let host = bundle.path().join("host");
    std::fs::create_dir_all(host.join("below")).unwrap();
    std::fs::write(host.join("file"), "from the host\n").unwrap();
    let output = bundle
        .set("/root/readonly", json!(true))
        .mount(json!({"destination": "/a/new/place", "type": "bind", "source": host, "options": ["rbind", "ro"]}))
        .mount(json!({"destination": "/etc/one", "type": "bind", "source": host.join("file"), "options": ["bind", "nosuid", "noexec"]}))
        .mount(json!({"destination": "/bin-copy", "type": "tmpfs", "source": "tmpfs", "options": ["size=8m", "tmpcopyup"]}))
        .sh("touch /x 2>/dev/null || echo root; touch /a/new/place/x 2>/dev/null || echo bind; cat /a/new/place/file; \
             grep ' /etc/one ' /proc/self/mountinfo | cut -d' ' -f6; echo z > /etc/one; ls /bin-copy")
        .prepared(|root| {
            std::fs::create_dir(root.join("bin-copy")).unwrap();
            std::fs::create_dir(root.join("bin-copy/sub")).unwrap();
            std::fs::write(root.join("bin-copy/file"), "x").unwrap();
            std::fs::write(root.join("etc/one"), "").unwrap();
            std::fs::create_dir_all(root.join("a/new/place")).unwrap();
            for name in ["cut", "touch"] {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
            }
        })
        .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0..3], ["root", "bind", "from the host"], "{output:?}");
    assert!(lines[3].starts_with("rw,nosuid,noexec"), "{output:?}");
    assert_eq!(lines[4..], ["file", "sub"], "{output:?}");
}

#[test]
fn a_user_namespace_maps_the_root_of_the_container() {
    need_root!();
    let bundle = Bundle::new()
        .set("/linux/uidMappings", json!([{"containerID": 0, "hostID": 100000, "size": 65536}]))
        .set("/linux/gidMappings", json!([{"containerID": 0, "hostID": 100000, "size": 65536}]))
        .namespace("user", None)
        .sh("id -u; cat /proc/self/uid_map; echo 1 > /dev/null && echo null; cat /sys/class/net/lo/flags; touch /tmp/x && ls -n /tmp/x");
    // the image's files are the host root's: readable by all, writable where we say so
    std::fs::set_permissions(
        bundle.root().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    let bundle = bundle.prepared(|root| {
        std::os::unix::fs::symlink("busybox", root.join("bin/touch")).unwrap();
    });
    let output = bundle.run();
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(
        words[..6],
        ["0", "0", "100000", "65536", "null", "0x9"],
        "{output:?}"
    );
    let owner = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(bundle.root().join("tmp/x")).unwrap(),
    );
    assert_eq!(owner, 100000);
}

#[test]
fn clocks_of_a_time_namespace_are_shifted() {
    need_root!();
    let output = Bundle::new()
        .namespace("time", None)
        .set(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 100_000_000}}),
        )
        .sh("cat /proc/uptime; echo $$")
        .run();
    assert_eq!(output.ended, Ended::Code(0), "{output:?}");
    let uptime: f64 = output.stdout.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 100_000_000.0, "{output:?}");
    assert_eq!(output.stdout.lines().last(), Some("1"));
}

#[test]
fn namespaces_of_another_container_are_joined_by_path() {
    need_root!();
    let first = Bundle::new().args(&["sleep", "100"]);
    let streams = Streams::new();
    let child = first
        .plan()
        .create(first.rootfs(), None, streams.stdio())
        .unwrap()
        .start()
        .unwrap();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", child.pid);
    let output = Bundle::new()
        .namespace("network", Some(&path("net")))
        .namespace("pid", Some(&path("pid")))
        .namespace("ipc", Some(&path("ipc")))
        .sh("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; cat /proc/1/cmdline")
        .prepared(|root| {
            std::os::unix::fs::symlink("busybox", root.join("bin/readlink")).unwrap();
        })
        .run();
    let link = |kind: &str| {
        std::fs::read_link(path(kind))
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(
        output.stdout,
        format!("{}\n{}\nsleep\0{}\0", link("net"), link("ipc"), 100),
        "{output:?}"
    );
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait(&child), Ended::Signal(9));
}

#[test]
fn a_terminal_is_the_controlling_one_and_its_size_is_known() {
    need_root!();
    let bundle = Bundle::new()
        .set("/process/user", json!({"uid": 7, "gid": 7}))
        .sh("tty; stty size; test -c /dev/console && echo console; echo >/dev/tty && echo mine")
        .prepared(|root| {
            for name in ["tty", "stty"] {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
            }
        });
    let created = bundle
        .plan()
        .create(
            bundle.rootfs(),
            None,
            Stdio::Terminal {
                size: Some((24, 99)),
            },
        )
        .unwrap();
    let child = created.start().unwrap();
    let text = bundle::read_terminal(child.terminal.as_ref().unwrap());
    assert_eq!(wait(&child), Ended::Code(0), "{text:?}");
    assert_eq!(
        text.replace('\r', ""),
        "/dev/pts/0\n24 99\nconsole\n\nmine\n"
    );
}

#[test]
fn exec_enters_everything_and_its_exit_code_comes_back() {
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
    let run = |args: &[&str]| -> Result<bundle::Output, LaunchError> {
        let mut process = spec.process().clone().unwrap();
        process.set_args(Some(args.iter().map(|&arg| arg.to_owned()).collect()));
        let streams = Streams::new();
        let child = isle_runtime::exec(
            child.pidfd.as_fd(),
            &spec,
            &process,
            None,
            None,
            streams.stdio(),
        )?;
        Ok(streams.output(&child))
    };
    let output = run(&[
        "sh",
        "-c",
        "hostname; cat /proc/1/cmdline; ls -l /proc/self/fd | grep -c /; exit 7",
    ])
    .unwrap();
    assert_eq!(output.ended, Ended::Code(7), "{output:?}");
    assert!(
        output.stdout.starts_with("isle-test\nsleep\x00100\x00"),
        "{output:?}"
    );
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let output = run(&["/bin/busybox", "readlink", &format!("/proc/self/ns/{kind}")]).unwrap();
        let own = std::fs::read_link(format!("/proc/{}/ns/{kind}", child.pid)).unwrap();
        assert_eq!(output.stdout.trim_end(), own.to_str().unwrap());
    }
    assert_eq!(run(&["sh", "-c", "echo $HOME"]).unwrap().stdout, "/\n");
    assert_eq!(run(&["nonesuch"]).unwrap_err().exit_code(), 127);
    assert_eq!(run(&["/etc"]).unwrap_err().exit_code(), 126);
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
    wait(&child);
    run(&["true"]).unwrap_err();
}

#[test]
fn all_hooks_run_at_their_moments_with_the_state() {
    need_root!();
    let bundle = Bundle::new().sh("cat /hooks 2>/dev/null; true");
    let log = bundle.path().join("log");
    let hook = |name: &str| {
        json!([{
            "path": "/bin/sh",
            "args": ["sh", "-c", format!("echo {name} $(cat) >> {}", log.display())],
            "env": ["PATH=/bin:/usr/bin"],
        }])
    };
    let bundle = bundle
        .set("/hooks", json!({}))
        .set("/hooks/prestart", hook("prestart"))
        .set("/hooks/createRuntime", hook("createRuntime"))
        .set("/hooks/createContainer", hook("createContainer"))
        .set(
            "/hooks/startContainer",
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /hooks"], "env": ["PATH=/bin"]}]),
        );
    let streams = Streams::new();
    let created = bundle
        .plan()
        .create(bundle.rootfs(), None, streams.stdio())
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    let pid = created.init.pid;
    let before = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = before.lines().collect();
    assert_eq!(lines.len(), 3, "{before}");
    for (line, name) in lines
        .iter()
        .zip(["prestart", "createRuntime", "createContainer"])
    {
        let state = line.strip_prefix(name).unwrap_or_else(|| panic!("{line}"));
        assert!(
            state.contains("id:test") || state.contains("\"id\":\"test\""),
            "{line}"
        );
    }
    assert!(lines[1].contains(&pid.to_string()), "{}", lines[1]);
    let output = streams.output(&created.start().unwrap());
    assert!(
        output.stdout.contains("\"status\":\"created\",\"pid\":1,"),
        "{output:?}"
    );
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_creation() {
    need_root!();
    for kind in ["createRuntime", "createContainer"] {
        let started = Instant::now();
        let mut texts = Vec::new();
        for (script, timeout) in [("exit 5", None), ("exec sleep 100", Some(1))] {
            let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]});
            if let Some(seconds) = timeout {
                hook["timeout"] = json!(seconds);
            }
            let bundle = Bundle::new()
                .set("/hooks", json!({}))
                .set(&format!("/hooks/{kind}"), json!([hook]));
            texts.push(chain(&bundle.try_run().unwrap_err()));
        }
        assert!(
            texts[0].contains(kind) && texts[0].contains('5'),
            "{texts:?}"
        );
        assert!(texts[1].contains("timeout"), "{texts:?}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn sysctls_of_a_namespace_are_set_and_those_of_the_host_are_refused() {
    need_root!();
    let output = Bundle::new()
        .set(
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345"}),
        )
        .sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax")
        .run();
    assert_eq!(output.stdout, "1\n12345\n", "{output:?}");
    for name in [
        "kernel.panic",
        "vm.swappiness",
        "net.../x",
        "kernel.hostname",
        "fs/file-max",
    ] {
        let bundle = Bundle::new().set("/linux/sysctl", json!({name: "1"}));
        let error = isle_runtime::Plan::new(&bundle.spec(), bundle.options()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_failure_names_the_step_and_leaves_nothing_behind() {
    need_root!();
    let before = bundle::count_of_own_children();
    let cases = [
        (
            json!({"destination": "/x", "type": "nonesuchfs", "source": "x"}),
            "cannot mount nonesuchfs on /x",
        ),
        (
            json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["nonesuch=1"]}),
            "cannot mount tmpfs on /x",
        ),
        (
            json!({"destination": "/x", "type": "bind", "source": "/nonesuch", "options": ["bind"]}),
            "cannot bind /nonesuch",
        ),
    ];
    for (mount, text) in cases {
        let error = Bundle::new().mount(mount).try_run().unwrap_err();
        assert!(chain(&error).starts_with(text), "{}", chain(&error));
        assert_eq!(error.exit_code(), 125);
    }
    assert_eq!(bundle::count_of_own_children(), before);
}

#[test]
fn a_container_whose_maker_drops_it_ends() {
    need_root!();
    let bundle = Bundle::new();
    let streams = Streams::new();
    let created = bundle
        .plan()
        .create(bundle.rootfs(), None, streams.stdio())
        .unwrap();
    let pidfd = created.init.pidfd.try_clone().unwrap();
    drop(created);
    let mut events = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::time::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut events, Some(&patience)), Ok(1));
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
}

#[test]
fn ids_of_a_bind_mount_are_mapped() {
    need_root!();
    let bundle = Bundle::new();
    let host = bundle.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "x").unwrap();
    std::os::unix::fs::chown(host.join("file"), Some(1000), Some(1000)).unwrap();
    let map = json!([{"containerID": 1000, "hostID": 4000, "size": 1}, {"containerID": 0, "hostID": 0, "size": 1}]);
    let bundle = bundle
        .mount(json!({"destination": "/data", "type": "bind", "source": host, "options": ["rbind"], "uidMappings": map, "gidMappings": map}))
        .sh("ls -n /data/file");
    match bundle.try_run() {
        Ok(output) => {
            let words: Vec<&str> = output.stdout.split_whitespace().collect();
            assert_eq!(words[2..4], ["4000", "4000"], "{output:?}");
        }
        Err(error) if chain(&error).contains("map the ids") => {
            eprintln!(
                "skipped: the file system of {} cannot map ids: {}",
                bundle.path().display(),
                chain(&error)
            );
        }
        Err(error) => panic!("{}", chain(&error)),
    }
}

#[test]
fn a_seccomp_policy_of_the_specification_is_in_effect() {
    need_root!();
    for no_new_privileges in [false, true] {
        let output = Bundle::new()
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/linux/seccomp", json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
            }))
            .sh("busybox mkdir /x; grep Seccomp: /proc/self/status")
            .run();
        assert!(
            output.stderr.contains("Function not implemented"),
            "{output:?}"
        );
        assert_eq!(output.stdout, "Seccomp:\t2\n");
    }
}

#[test]
fn without_pivot_root_the_container_is_the_same() {
    need_root!();
    for hooks in [
        json!({}),
        json!({"createContainer": [{"path": "/bin/true"}]}),
    ] {
        let bundle = Bundle::new().set("/hooks", hooks).sh("ls /; hostname");
        let with = bundle.run();
        let mut options = bundle.options();
        options.no_pivot = true;
        let streams = Streams::new();
        let child = isle_runtime::Plan::new(&bundle.spec(), options)
            .unwrap()
            .create(bundle.rootfs(), None, streams.stdio())
            .and_then(isle_runtime::Created::start)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        let without = streams.output(&child);
        assert_eq!(with.stdout, without.stdout, "{without:?}");
    }
}
