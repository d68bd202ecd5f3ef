//! `run`: exit codes, standard streams, environment, user, names, errors.

#![forbid(unsafe_code)]

use isle_tests::{Level, Need, World, wait_for};
use rustix::process::Signal;

isle_tests::stories! {
    the_exit_code_of_the_program_is_the_exit_code_of_run,
    a_program_that_is_not_there_gives_127,
    a_file_that_cannot_be_executed_gives_126,
    what_cannot_be_executed_is_told_with_the_reason [Need::Isle],
    an_unknown_flag_gives_125_and_makes_nothing [Need::Isle],
    a_program_ended_by_a_signal_gives_128_and_its_number,
    a_signal_to_run_reaches_the_program,
    output_and_errors_stay_apart,
    standard_input_reaches_the_program_only_with_interactive,
    only_the_streams_that_are_attached_are_relayed,
    exposed_ports_are_those_of_image_and_flags,
    much_output_arrives_whole_and_in_order,
    environment_comes_from_flags_files_and_our_own,
    an_environment_file_with_a_bad_line_is_refused_and_named,
    working_directory_user_and_groups_are_as_asked [Need::Isle],
    an_unknown_user_is_refused,
    the_entry_point_can_be_replaced_and_taken_away,
    the_hostname_is_the_short_id_unless_given,
    extra_hosts_and_dns_are_written [Need::Isle],
    the_container_id_file_is_written_and_never_overwritten,
    a_name_that_is_taken_is_refused_with_its_owner,
    a_bad_name_is_refused,
    an_image_that_is_not_there_is_refused_with_pull_never,
    without_a_network_there_is_only_loopback,
    the_host_network_is_the_hosts [Need::Only(Level::Container)],
    a_network_that_does_not_exist_is_refused_with_the_reason [Need::Isle],
    sizes_mounts_and_limits_that_make_no_sense_are_refused_by_name [Need::Isle],
    with_init_the_first_process_reaps_and_passes_signals_on [Need::Isle],
    an_instance_removes_itself_with_rm,
    labels_and_annotations_can_be_read_back,
    namespaces_of_another_instance_can_be_joined [Need::Only(Level::Container)],
    a_custom_sysctl_holds_inside_only,
    a_detached_instance_runs_on_and_its_id_is_printed,
}

fn the_exit_code_of_the_program_is_the_exit_code_of_run(world: &World) {
    let image = world.busybox();
    world.isle(["run", "--rm", &image, "true"]).exits_with(0);
    world.script(&["--rm"], "exit 7").exits_with(7);
    world.script(&["--rm"], "exit 255").exits_with(255);
}

fn a_program_that_is_not_there_gives_127(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--rm", &image, "no-such-program"])
        .exits_with(127)
        .complains("no-such-program");
    world
        .isle(["run", "--rm", &image, "/no/such/program"])
        .exits_with(127);
}

fn a_file_that_cannot_be_executed_gives_126(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--rm", &image, "/etc/passwd"])
        .exits_with(126);
    // A directory cannot be executed either; runc before 1.1.6 says 127 here, Docker documents 126.
    let code = world.isle(["run", "--rm", &image, "/etc"]).run().code();
    assert!([126, 127].contains(&code), "{code}");
}

fn what_cannot_be_executed_is_told_with_the_reason(world: &World) {
    let image = world.busybox();
    let script = world.file("script", "#!/no/such/interpreter\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).expect("our own file");
    let plain = world.file("plain", "plain text\n");
    let plain = format!("{plain}:/plain");
    let script = format!("{script}:/script");
    for (program, code, reason) in [
        ("/etc", 126, "cannot execute \"/etc\": is a directory"),
        (
            "/plain",
            126,
            "cannot execute \"/plain\": permission denied",
        ),
        ("/script", 127, "the interpreter that it names is not there"),
        ("/none", 127, "cannot find \"/none\""),
    ] {
        world
            .isle(["run", "--rm", "-v", &plain, "-v", &script, &image, program])
            .exits_with(code)
            .complains(reason);
    }
}

fn an_unknown_flag_gives_125_and_makes_nothing(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--no-such-flag", &image, "true"])
        .exits_with(125)
        .complains("--no-such-flag");
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

fn a_program_ended_by_a_signal_gives_128_and_its_number(world: &World) {
    // The first process of a pid namespace ignores what it sends itself, so a child is asked for.
    world
        .script(&["--rm"], "sh -c 'kill -TERM $$'; exit $?")
        .exits_with(143);
    world.background("sleeper", &[], &["sleep", "1000"]);
    world.isle(["kill", "sleeper"]).succeeds();
    assert_eq!(world.isle(["wait", "sleeper"]).succeeds(), "137");
}

fn a_signal_to_run_reaches_the_program(world: &World) {
    let running = world
        .script(
            &["--rm"],
            "trap 'echo got TERM; exit 9' TERM; echo ready; while :; do sleep 0.05; done",
        )
        .spawn();
    running.wait_for_output("ready");
    running.signal(Signal::TERM);
    let outcome = running.wait();
    assert_eq!(outcome.code(), 9, "{outcome}");
    outcome.prints("got TERM");
}

fn output_and_errors_stay_apart(world: &World) {
    let outcome = world
        .script(&["--rm"], "echo out; echo err >&2")
        .exits_with(0);
    assert_eq!(outcome.stdout(), "out\n");
    assert_eq!(outcome.stderr(), "err\n");
}

fn standard_input_reaches_the_program_only_with_interactive(world: &World) {
    let image = world.busybox();
    let given = world
        .isle(["run", "--rm", "-i", &image, "cat"])
        .stdin("hello\n")
        .exits_with(0);
    assert_eq!(given.stdout(), "hello\n");
    let closed = world
        .isle(["run", "--rm", &image, "cat"])
        .stdin("hello\n")
        .exits_with(0);
    assert_eq!(closed.stdout(), "");
}

fn only_the_streams_that_are_attached_are_relayed(world: &World) {
    let image = world.busybox();
    let script = "echo out; echo err >&2; exit 3";
    for (stream, stdout, stderr) in [("stdout", "out\n", ""), ("STDERR", "", "err\n")] {
        let stream = stream.to_ascii_lowercase();
        let outcome = world.script(&["--rm", "-a", &stream], script).exits_with(3);
        assert_eq!(
            (outcome.stdout().as_str(), outcome.stderr().as_str()),
            (stdout, stderr)
        );
    }
    // Who only sends is told the id, and does not wait for the end.
    let outcome = world
        .isle(["run", "-i", "-a", "stdin", "--name", "n", &image, "cat"])
        .stdin("sent")
        .exits_with(0);
    assert_eq!(outcome.stdout().trim().len(), 64, "{outcome}");
    world.isle(["wait", "n"]).succeeds();
    assert_eq!(world.isle(["logs", "n"]).succeeds(), "sent");
    let config = &world.inspect("n")["Config"];
    assert_eq!(
        (&config["AttachStdin"], &config["AttachStdout"]),
        (&true.into(), &false.into())
    );
    for wrong in [&["-a", "stdlog"][..], &["-d", "-a", "stdout"]] {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(wrong);
        arguments.extend([image.as_str(), "true"]);
        world.isle(arguments).exits_with(125);
    }
}

fn exposed_ports_are_those_of_image_and_flags(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create", "--name", "n", "--expose", "80-81", "--expose", "53/udp", &image, "true",
        ])
        .succeeds();
    let ports = world.inspect("n")["Config"]["ExposedPorts"].clone();
    assert_eq!(
        ports,
        serde_json::json!({"53/udp": {}, "80/tcp": {}, "81/tcp": {}})
    );
    world
        .isle(["create", "--expose", "http", &image, "true"])
        .exits_with(125);
}

fn much_output_arrives_whole_and_in_order(world: &World) {
    let image = world.busybox();
    let outcome = world
        .isle(["run", "--rm", &image, "seq", "1", "200000"])
        .exits_with(0);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(
        outcome.stdout() == expected,
        "{} bytes",
        outcome.stdout().len()
    );
    // Binary input and output, more than any pipe holds.
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|number| ((number * 7) >> 3) as u8)
        .collect();
    let outcome = world
        .isle(["run", "--rm", "-i", &image, "cat"])
        .stdin(bytes.clone())
        .exits_with(0);
    assert!(
        outcome.stdout_bytes() == bytes,
        "{} bytes",
        outcome.stdout_bytes().len()
    );
}

fn environment_comes_from_flags_files_and_our_own(world: &World) {
    let image = world.busybox();
    let file = world.file(
        "environment",
        "# a comment\nFROM_FILE=a b\nINHERITED_TOO\n\nEMPTY=\n",
    );
    let outcome = world
        .isle([
            "run",
            "--rm",
            "-e",
            "GIVEN=x=y",
            "-e",
            "INHERITED",
            "-e",
            "NOT_THERE",
            "--env-file",
            &file,
            &image,
            "env",
        ])
        .env("INHERITED", "from outside")
        .env("INHERITED_TOO", "likewise")
        .exits_with(0);
    for line in [
        "GIVEN=x=y\n",
        "INHERITED=from outside\n",
        "INHERITED_TOO=likewise\n",
        "FROM_FILE=a b\n",
        "EMPTY=\n",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
        "HOME=/root\n",
        "HOSTNAME=",
    ] {
        outcome.prints(line);
    }
    assert!(!outcome.stdout().contains("NOT_THERE"), "{outcome}");
}

fn an_environment_file_with_a_bad_line_is_refused_and_named(world: &World) {
    let image = world.busybox();
    let file = world.file("environment", "GOOD=1\n=no name\n");
    world
        .isle(["run", "--rm", "--env-file", &file, &image, "true"])
        .exits_with(125)
        .complains("environment");
    world
        .isle(["run", "--rm", "--env-file", "/no/such/file", &image, "true"])
        .exits_with(125)
        .complains("/no/such/file");
}

fn working_directory_user_and_groups_are_as_asked(world: &World) {
    let image = world.busybox();
    let say = |arguments: &[&str]| {
        let mut all = vec!["run", "--rm"];
        all.extend(arguments);
        all.extend([
            image.as_str(),
            "sh",
            "-c",
            "pwd; id -u; id -g; id -G; echo $HOME",
        ]);
        world.isle(all).succeeds()
    };
    assert_eq!(say(&[]).lines().next(), Some("/"));
    // A working directory that is not there is made.
    assert_eq!(
        say(&["-w", "/new/place"]).lines().next(),
        Some("/new/place")
    );
    assert_eq!(say(&["-u", "user"]), "/\n1000\n1000\n1000 10\n/home");
    assert_eq!(say(&["-u", "1000:5"]).lines().nth(2), Some("5"));
    assert_eq!(say(&["-u", "4242"]).lines().nth(1), Some("4242"));
    let groups = say(&["-u", "user", "--group-add", "tty", "--group-add", "77"]);
    let groups: Vec<&str> = groups
        .lines()
        .nth(3)
        .unwrap_or_default()
        .split(' ')
        .collect();
    for group in ["1000", "5", "77"] {
        assert!(groups.contains(&group), "{groups:?}");
    }
}

fn an_unknown_user_is_refused(world: &World) {
    let image = world.busybox();
    let outcome = world
        .isle(["run", "--rm", "-u", "nosuchuser", &image, "true"])
        .run();
    assert!([125, 126].contains(&outcome.code()), "{outcome}");
    outcome.complains("nosuchuser");
}

fn the_entry_point_can_be_replaced_and_taken_away(world: &World) {
    let image = world.busybox();
    let say = |arguments: &[&str]| {
        let mut all = vec!["run", "--rm"];
        all.extend(arguments);
        world.isle(all).succeeds()
    };
    assert_eq!(say(&["--entrypoint", "echo", &image, "a", "b"]), "a b");
    assert_eq!(say(&["--entrypoint", "", &image, "echo", "c"]), "c");
}

fn the_hostname_is_the_short_id_unless_given(world: &World) {
    let image = world.busybox();
    assert_eq!(
        world
            .isle(["run", "--rm", "--hostname", "box", &image, "hostname"])
            .succeeds(),
        "box"
    );
    let id = world
        .isle(["run", "-d", "--name", "n", &image, "hostname"])
        .succeeds();
    world.isle(["wait", "n"]).succeeds();
    assert_eq!(world.isle(["logs", "n"]).succeeds(), id[..12]);
}

fn extra_hosts_and_dns_are_written(world: &World) {
    let image = world.busybox();
    let outcome = world
        .isle([
            "run",
            "--rm",
            "--add-host",
            "db:10.1.2.3",
            "--dns",
            "10.9.9.9",
            "--dns-search",
            "example.test",
            "--hostname",
            "box",
            &image,
            "cat",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/hostname",
        ])
        .run();
    let text = outcome.stdout().replace('\t', " ");
    for part in ["10.1.2.3 db", "localhost"] {
        assert!(text.contains(part), "no {part:?} in {outcome}");
    }
    assert!(text.ends_with("box\n"), "{outcome}");
}

fn the_container_id_file_is_written_and_never_overwritten(world: &World) {
    let image = world.busybox();
    let file = world.files().join("id");
    let path = file.to_string_lossy().into_owned();
    world.background("n", &["--cidfile", &path], &["true"]);
    let id = world
        .isle(["inspect", "--format", "{{.Id}}", "n"])
        .succeeds();
    assert_eq!(std::fs::read_to_string(&file).expect("readable").trim(), id);
    world
        .isle(["run", "--rm", "--cidfile", &path, &image, "true"])
        .exits_with(125)
        .complains(&path);
}

fn a_name_that_is_taken_is_refused_with_its_owner(world: &World) {
    let image = world.busybox();
    let id = world.isle(["create", "--name", "n", &image]).succeeds();
    world
        .isle(["run", "--name", "n", &image, "true"])
        .exits_with(125)
        .complains(&id[..12]);
    assert_eq!(world.isle(["ps", "-aq"]).succeeds().lines().count(), 1);
}

fn a_bad_name_is_refused(world: &World) {
    let image = world.busybox();
    for name in ["-x", "a/b", "ä", "a b"] {
        let flag = format!("--name={name}");
        let outcome = world.isle(["run", &flag, &image, "true"]).run();
        assert_eq!(outcome.code(), 125, "{outcome}");
    }
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

fn an_image_that_is_not_there_is_refused_with_pull_never(world: &World) {
    world
        .isle(["run", "--rm", "--pull", "never", "no-such-image", "true"])
        .exits_with(125)
        .complains("no-such-image");
}

fn without_a_network_there_is_only_loopback(world: &World) {
    let image = world.busybox();
    let text = world
        .isle([
            "run",
            "--rm",
            "--network",
            "none",
            &image,
            "cat",
            "/proc/net/dev",
        ])
        .succeeds();
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()))
        // Kernels make these in every network namespace.
        .filter(|name| !["sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0"].contains(name))
        .collect();
    assert_eq!(names, ["lo"]);
    // And loopback is up.
    world
        .isle([
            "run",
            "--rm",
            "--network",
            "none",
            &image,
            "ping",
            "-c",
            "1",
            "127.0.0.1",
        ])
        .exits_with(0);
}

fn the_host_network_is_the_hosts(world: &World) {
    let image = world.busybox();
    let inside = world
        .isle([
            "run",
            "--rm",
            "--network",
            "host",
            &image,
            "readlink",
            "/proc/self/ns/net",
        ])
        .succeeds();
    let outside = std::fs::read_link("/proc/self/ns/net").expect("readable");
    assert_eq!(inside, outside.to_string_lossy());
}

fn a_network_that_does_not_exist_is_refused_with_the_reason(world: &World) {
    let image = world.busybox();
    for arguments in [
        ["--network", "web"],
        ["--network", "name=web,alias=x"],
        ["-p", "8080:80"],
    ] {
        world
            .isle(["run", "--rm", arguments[0], arguments[1], &image, "true"])
            .exits_with(125)
            .complains("network");
    }
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

fn sizes_mounts_and_limits_that_make_no_sense_are_refused_by_name(world: &World) {
    let image = world.busybox();
    let cases: &[&[&str]] = &[
        &["-m", "lots"],
        &["-m", "1b"],
        &["-m", "-5"],
        &["--memory", "64m", "--memory-swap", "32m"],
        &["--cpus", "x"],
        &["--cpus", "-1"],
        &["--cpus", "100000"],
        &["--cpuset-cpus", "nine"],
        &["--pids-limit", "many"],
        &["--blkio-weight", "5"],
        &["--shm-size", "big"],
        &["--ulimit", "nofile"],
        &["--ulimit", "nosuch=1:2"],
        &["--ulimit", "nofile=9:3"],
        &["-v", "relative/path:/x"],
        &["-v", "/tmp:not-absolute"],
        &["-v", "/tmp:/x:nosuchoption"],
        &["--mount", "type=nosuch,target=/x"],
        &["--mount", "type=bind,target=/x"],
        &["--mount", "type=bind,source=/no/such/place,target=/x"],
        &["--mount", "type=tmpfs"],
        &["--mount", "type=volume,colour=red,target=/x"],
        &["--tmpfs", "relative"],
        &["--cap-add", "NO_SUCH_CAPABILITY"],
        &["--cap-drop", "CAP_NOPE"],
        &["--security-opt", "nosuch=1"],
        &["--security-opt", "seccomp=/no/such/profile.json"],
        &["--device", "/dev/nosuchdevice"],
        &["--device", "/dev/null:/dev/x:rwq"],
        &["--sysctl", "kernel.hostname"],
        &["--oom-score-adj", "5000"],
        &["--restart", "sometimes"],
        &["--restart", "on-failure:x"],
        &["--stop-signal", "SIGNOPE"],
        &["--stop-timeout", "soon"],
        &["--log-driver", "pigeon"],
        &["--log-opt", "max-size=huge"],
        &["--log-opt", "colour=red"],
        &["--add-host", "nothing"],
        &["--add-host", "name:not-an-address"],
        &["--dns", "not-an-address"],
        &["--pid", "nosuch"],
        &["--ipc", "nosuch"],
        &["--userns", "nosuch"],
        &["--platform", "plan9"],
        &["--isolation", "nosuch"],
        &["--health-interval", "often"],
        &["--health-retries", "-1"],
        &["--label", "=x"],
        &["-u", "a:b:c"],
        &["-w", "relative"],
        &["-e", "=x"],
        &["--detach-keys", "ctrl-nosuch"],
    ];
    for case in cases {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(*case);
        arguments.extend([image.as_str(), "true"]);
        let outcome = world.isle(arguments).run();
        assert_eq!(outcome.code(), 125, "{outcome}");
        assert!(!outcome.stderr().trim().is_empty(), "{outcome}");
        assert!(!outcome.stderr().contains("panicked"), "{outcome}");
    }
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

fn with_init_the_first_process_reaps_and_passes_signals_on(world: &World) {
    world
        .script(
            &["-d", "--init", "--name", "n"],
            "(sleep 0.1 &) ; trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done",
        )
        .succeeds();
    world.wait_for_log("n", "up");
    let first = world.isle(["exec", "n", "cat", "/proc/1/comm"]).succeeds();
    assert_ne!(first, "sh");
    wait_for("the orphan is reaped", || {
        !world
            .isle([
                "exec",
                "n",
                "sh",
                "-c",
                "grep -h ^State /proc/[0-9]*/status",
            ])
            .run()
            .stdout()
            .contains("zombie")
    });
    world.isle(["stop", "n"]).succeeds();
    assert_eq!(world.isle(["wait", "n"]).succeeds(), "5");
}

fn an_instance_removes_itself_with_rm(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--rm", "--name", "n", &image, "true"])
        .succeeds();
    wait_for("it is gone", || {
        world.isle(["ps", "-aq"]).succeeds().is_empty()
    });
    world
        .isle(["run", "-d", "--rm", "--name", "n", &image, "true"])
        .succeeds();
    wait_for("it is gone", || {
        world.isle(["ps", "-aq"]).succeeds().is_empty()
    });
}

fn labels_and_annotations_can_be_read_back(world: &World) {
    let image = world.busybox();
    let file = world.file("labels", "from.file=yes\n");
    world
        .isle([
            "create",
            "--name",
            "n",
            "-l",
            "a=1",
            "--label",
            "empty",
            "--label-file",
            &file,
            &image,
        ])
        .succeeds();
    let labels = &world.inspect("n")["Config"]["Labels"];
    assert_eq!(labels["a"], "1");
    assert_eq!(labels["empty"], "");
    assert_eq!(labels["from.file"], "yes");
    assert_eq!(
        world
            .isle(["ps", "-aq", "--filter", "label=a=1"])
            .succeeds()
            .lines()
            .count(),
        1
    );
    assert_eq!(
        world
            .isle(["ps", "-aq", "--filter", "label=a=2"])
            .succeeds(),
        ""
    );
}

fn namespaces_of_another_instance_can_be_joined(world: &World) {
    let image = world.busybox();
    world.background("a", &["--network", "none"], &["sleep", "1000"]);
    for (flag, file) in [("--pid", "pid"), ("--network", "net"), ("--ipc", "ipc")] {
        let path = format!("/proc/self/ns/{file}");
        let theirs = world.isle(["exec", "a", "readlink", &path]).succeeds();
        let ours = world
            .isle([
                "run",
                "--rm",
                flag,
                "container:a",
                &image,
                "readlink",
                &path,
            ])
            .succeeds();
        // A shared IPC namespace has to be asked for in Docker (`--ipc shareable`); here it is one flag.
        assert_eq!(ours, theirs, "{flag}");
        world
            .isle(["run", "--rm", flag, "container:nosuch", &image, "true"])
            .exits_with(125)
            .complains("nosuch");
    }
}

fn a_custom_sysctl_holds_inside_only(world: &World) {
    let image = world.busybox();
    let value = world
        .isle([
            "run",
            "--rm",
            "--network",
            "none",
            "--sysctl",
            "net.ipv4.ip_default_ttl=42",
            &image,
            "cat",
            "/proc/sys/net/ipv4/ip_default_ttl",
        ])
        .succeeds();
    assert_eq!(value, "42");
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").expect("readable");
    assert_ne!(host.trim(), "42");
}

fn a_detached_instance_runs_on_and_its_id_is_printed(world: &World) {
    let image = world.busybox();
    let id = world
        .isle(["run", "-d", "--name", "n", &image, "sleep", "1000"])
        .succeeds();
    assert_eq!(id.len(), 64);
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(world.status("n"), "running");
    assert_eq!(world.isle(["ps", "-q"]).succeeds(), id[..12]);
    assert_eq!(world.isle(["ps", "-q", "--no-trunc"]).succeeds(), id);
}
