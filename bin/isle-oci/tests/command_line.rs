//! The command line as containerd, Podman and Docker use it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const ISLE: &str = env!("CARGO_BIN_EXE_isle-oci");

macro_rules! need_root {
    () => {
        if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
            eprintln!("skipped: making containers needs root and busybox");
            return;
        }
    };
}

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A bundle and a state directory of its own. Control groups are left alone: their tests are the
/// control group crate's, and several runs on one host must not meet.
struct Host {
    directory: tempfile::TempDir,
    config: Value,
}

impl Host {
    fn new() -> Host {
        let directory = tempfile::Builder::new()
            .prefix("isle-oci-test-")
            .tempdir()
            .unwrap();
        let root = directory.path().join("rootfs");
        fs::create_dir_all(root.join("bin")).unwrap();
        // by another process: see the tests of isle-runtime
        let copied = Command::new("cp")
            .arg("/bin/busybox")
            .arg(root.join("bin/busybox"))
            .status();
        assert!(copied.unwrap().success());
        for name in ["sh", "sleep", "cat", "true", "echo", "tty", "id"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let mut host = Host {
            config: Value::Null,
            directory,
        };
        assert_eq!(host.isle(&["spec", "--bundle", host.path()]).code, Some(0));
        let text = fs::read(host.directory.path().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        host.config = config;
        host
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn state_root(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn args(mut self, args: &[&str]) -> Host {
        self.config["process"]["args"] = json!(args);
        self.write();
        self
    }

    fn write(&self) {
        fs::write(
            self.directory.path().join("config.json"),
            self.config.to_string(),
        )
        .unwrap();
    }

    fn isle(&self, args: &[&str]) -> Output {
        let manager = if self.config["linux"]["cgroupsPath"].is_string() {
            "--cgroup-manager=cgroupfs"
        } else {
            "--cgroup-manager=disabled"
        };
        // files, not pipes: a container that goes on would keep a pipe open
        let (out, err) = (
            tempfile::NamedTempFile::new().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        let status = Command::new(ISLE)
            .arg("--root")
            .arg(self.state_root())
            .arg(manager)
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(out.path()).unwrap())
            .stderr(File::create(err.path()).unwrap())
            .status()
            .unwrap();
        Output {
            code: status.code(),
            stdout: fs::read_to_string(out.path()).unwrap(),
            stderr: fs::read_to_string(err.path()).unwrap(),
        }
    }

    fn create(&self, id: &str) {
        let output = self.isle(&["create", "--bundle", self.path(), id]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }

    fn status(&self, id: &str) -> String {
        let output = self.isle(&["state", id]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        let state: Value = serde_json::from_str(&output.stdout).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    fn wait_for(&self, id: &str, status: &str) {
        let started = Instant::now();
        while self.status(id) != status {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{}",
                self.status(id)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir(self.state_root()) else {
            return;
        };
        for entry in entries.flatten() {
            let id = entry.file_name().into_string().unwrap_or_default();
            let _ = self.isle(&["delete", "--force", &id]);
        }
    }
}

#[test]
fn a_container_goes_from_created_to_gone() {
    need_root!();
    let host = Host::new().args(&["sleep", "100"]);
    let pid_file = host.directory.path().join("pid");
    let output = host.isle(&[
        "create",
        "--bundle",
        host.path(),
        "--pid-file",
        pid_file.to_str().unwrap(),
        "a",
    ]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(host.status("a"), "created");
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert!(Path::new("/proc").join(&pid).exists());
    // what is made waits with nothing open but its streams and its socket
    assert_eq!(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 4);

    assert_eq!(host.isle(&["start", "a"]).code, Some(0));
    assert_eq!(host.status("a"), "running");
    let again = host.isle(&["start", "a"]);
    assert!(
        again.stderr.contains("it is running already"),
        "{}",
        again.stderr
    );
    let delete = host.isle(&["delete", "a"]);
    assert!(delete.stderr.contains("it is running"), "{}", delete.stderr);
    assert_ne!(delete.code, Some(0));

    assert_eq!(host.isle(&["kill", "a", "KILL"]).code, Some(0));
    host.wait_for("a", "stopped");
    let kill = host.isle(&["kill", "a"]);
    assert!(
        kill.stderr.contains("container not running"),
        "{}",
        kill.stderr
    );
    assert_eq!(host.isle(&["delete", "a"]).code, Some(0));
    let state = host.isle(&["state", "a"]);
    assert_eq!(
        (state.code, state.stderr.as_str()),
        (Some(1), "isle-oci: container \"a\" does not exist\n")
    );
    assert_eq!(fs::read_dir(host.state_root()).unwrap().count(), 0);
}

#[test]
fn run_gives_output_and_exit_code_and_leaves_nothing() {
    need_root!();
    let mut host = Host::new().args(&["sh", "-c", "echo out; echo err >&2; exit 42"]);
    let output = host.isle(&["run", "--bundle", host.path(), "a"]);
    assert_eq!(output.code, Some(42));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    host = host.args(&[
        "sh",
        "-c",
        "kill -TERM $$; kill -KILL $$; busybox kill -9 -1; exit 1",
    ]);
    assert_eq!(
        host.isle(&["run", "--bundle", host.path(), "a"]).code,
        Some(1)
    );
    host = host.args(&["nonesuch"]);
    assert_eq!(
        host.isle(&["run", "--bundle", host.path(), "a"]).code,
        Some(127)
    );
    host = host.args(&["/bin"]);
    assert_eq!(
        host.isle(&["run", "--bundle", host.path(), "a"]).code,
        Some(126)
    );
    assert_eq!(fs::read_dir(host.state_root()).unwrap().count(), 0);
}

#[test]
fn exec_runs_beside_the_first_process() {
    need_root!();
    let host = Host::new().args(&["sleep", "100"]);
    host.create("a");
    assert_eq!(host.isle(&["start", "a"]).code, Some(0));
    let output = host.isle(&[
        "exec",
        "--env",
        "X=1",
        "--cwd",
        "/bin",
        "--user",
        "5:6",
        "a",
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $X; cat /proc/1/cmdline; exit 9",
    ]);
    assert_eq!(output.code, Some(9), "{}", output.stderr);
    assert_eq!(output.stdout, "5\n6\n/bin\n1\nsleep\x00100\x00");
    assert_eq!(host.isle(&["exec", "a", "nonesuch"]).code, Some(127));
    assert_eq!(host.isle(&["exec", "a", "/bin"]).code, Some(126));
    let process = host.directory.path().join("process.json");
    fs::write(&process, json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["echo", "from a file"], "env": ["PATH=/bin"]}).to_string()).unwrap();
    let output = host.isle(&["exec", "--process", process.to_str().unwrap(), "a"]);
    assert_eq!(output.stdout, "from a file\n", "{}", output.stderr);
    let cwd = host.isle(&["exec", "--cwd", "/proc/self/fd/7", "a", "true"]);
    assert_eq!(cwd.code, Some(1));
    assert!(cwd.stderr.contains("working directory"), "{}", cwd.stderr);
}

/// CVE-2019-5736: the program is the runtime itself, as it is seen from inside.
#[test]
fn the_file_of_the_runtime_stays_as_it_is() {
    need_root!();
    let before = fs::read(ISLE).unwrap();
    let host = Host::new().args(&["/proc/self/exe"]);
    assert_ne!(
        host.isle(&["run", "--bundle", host.path(), "a"]).code,
        Some(0)
    );
    // A container that tries to write to every program it can see, while others enter it.
    let host = host.args(&[
        "sh",
        "-c",
        "while true; do for p in /proc/[0-9]*; do echo x 2>/dev/null >$p/exe; done; done",
    ]);
    host.create("b");
    assert_eq!(host.isle(&["start", "b"]).code, Some(0));
    for _ in 0..20 {
        let _ = host.isle(&["exec", "b", "/proc/self/exe"]);
        let _ = host.isle(&["exec", "b", "true"]);
    }
    assert!(
        fs::read(ISLE).unwrap() == before,
        "the host's program has changed"
    );
}

#[test]
fn errors_reach_the_log_as_json_and_name_what_is_wrong() {
    need_root!();
    let mut host = Host::new().args(&["true"]);
    host.config["linux"]["rootfsPropagation"] = json!("sideways");
    host.write();
    let log = host.directory.path().join("log");
    let output = host.isle(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "create",
        "--bundle",
        host.path(),
        "a",
    ]);
    assert_eq!(output.code, Some(1));
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"]
            .as_str()
            .unwrap()
            .starts_with("invalid linux.rootfsPropagation \"sideways\""),
        "{line}"
    );
    for (args, text) in [
        (vec!["state", "../a"], "invalid container id"),
        (vec!["state", "none"], "does not exist"),
        (vec!["--systemd-cgroup", "state", "a"], "does not exist"),
        (vec!["checkpoint", "a"], "not supported"),
        (vec!["restore", "a"], "not supported"),
        (vec!["create", "--bundle", "/nonesuch", "a"], "/nonesuch"),
        (vec!["kill", "none", "SIGNONE"], "SIGNONE"),
    ] {
        let output = host.isle(&args);
        assert_eq!(output.code, Some(1), "{args:?}");
        assert!(output.stderr.contains(text), "{args:?}: {}", output.stderr);
    }
    assert!(!host.state_root().exists() || fs::read_dir(host.state_root()).unwrap().count() == 0);
}

#[test]
fn a_created_container_whose_program_is_missing_is_not_left_behind() {
    need_root!();
    let host = Host::new().args(&["nonesuch"]);
    let output = host.isle(&["create", "--bundle", host.path(), "a"]);
    assert_eq!(output.code, Some(127), "{}", output.stderr);
    assert!(
        output.stderr.contains("executable file not found"),
        "{}",
        output.stderr
    );
    assert_eq!(fs::read_dir(host.state_root()).unwrap().count(), 0);
}

#[test]
fn a_program_that_fails_at_start_is_named_by_start() {
    need_root!();
    let host = Host::new().args(&["/plain"]);
    let plain = host.directory.path().join("rootfs/plain");
    fs::write(&plain, "no program").unwrap();
    fs::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host.create("a");
    let output = host.isle(&["start", "a"]);
    assert_eq!(
        output.stderr,
        "isle-oci: cannot execute \"/plain\": exec format error\n"
    );
    assert_eq!(output.code, Some(126));
    host.wait_for("a", "stopped");
}

#[test]
fn hooks_after_start_and_after_stop_run_once() {
    need_root!();
    let mut host = Host::new();
    let log = host.directory.path().join("log");
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >> {}", log.display())], "env": ["PATH=/bin:/usr/bin"]}]);
    host.config["hooks"] = json!({"poststart": hook("poststart"), "poststop": hook("poststop")});
    let host = host.args(&["true"]);
    assert_eq!(
        host.isle(&["run", "--bundle", host.path(), "a"]).code,
        Some(0)
    );
    assert_eq!(fs::read_to_string(&log).unwrap(), "poststart\npoststop\n");
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    need_root!();
    let mut host = Host::new();
    host.config["process"]["terminal"] = json!(true);
    host.config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    let host = host.args(&["sh", "-c", "tty; busybox stty size"]);
    assert!(
        host.isle(&["create", "--bundle", host.path(), "a"])
            .stderr
            .contains("--console-socket")
    );
    let path = host.directory.path().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let receiver = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 64];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(
            &stream,
            &mut [std::io::IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            rustix::net::RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let master = ancillary.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        master.unwrap()
    });
    let output = host.isle(&[
        "create",
        "--bundle",
        host.path(),
        "--console-socket",
        path.to_str().unwrap(),
        "a",
    ]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let master = receiver.join().unwrap();
    assert_eq!(host.isle(&["start", "a"]).code, Some(0));
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = rustix::io::read(&master, &mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n33 77\r\n");
}

#[test]
fn state_that_was_left_half_made_can_be_removed_by_force() {
    need_root!();
    let host = Host::new().args(&["sleep", "100"]);
    fs::create_dir_all(host.state_root().join("half")).unwrap();
    host.create("whole");
    let list = host.isle(&["list", "--quiet"]);
    assert_eq!(list.stdout, "whole\n");
    assert_ne!(host.isle(&["delete", "half"]).code, Some(0));
    assert_eq!(host.isle(&["delete", "--force", "half"]).code, Some(0));
    assert_eq!(host.isle(&["delete", "--force", "whole"]).code, Some(0));
    assert_eq!(host.isle(&["delete", "--force", "never"]).code, Some(0));
    assert_eq!(host.isle(&["list", "--format", "json"]).stdout, "[]\n");
}

#[test]
fn two_creations_of_one_id_make_one_container() {
    need_root!();
    let host = Host::new().args(&["sleep", "100"]);
    let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| host.isle(&["create", "--bundle", host.path(), "a"]).code))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(
        codes.iter().filter(|code| **code == Some(0)).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(host.status("a"), "created");
}

#[test]
fn what_it_says_about_itself_is_json() {
    let output = Command::new(ISLE).arg("features").output().unwrap();
    let features: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(features["linux"]["cgroup"]["systemd"], true);
    assert!(
        features["mountOptions"]
            .as_array()
            .unwrap()
            .contains(&json!("rro"))
    );
}

#[test]
fn without_root_it_says_what_it_cannot_do_and_does_the_rest() {
    need_root!();
    use std::os::unix::process::CommandExt;
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program = directory.path().join("isle-oci");
    assert!(
        Command::new("cp")
            .arg(ISLE)
            .arg(&program)
            .status()
            .unwrap()
            .success()
    );
    let run = |args: &[&str]| {
        Command::new(&program)
            .args(args)
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap()
    };
    assert!(run(&["features"]).status.success());
    let output = run(&["run", "a"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot read"), "{text}");
}

#[test]
fn a_control_group_limits_counts_freezes_and_goes() {
    need_root!();
    let mut host = Host::new();
    let name = format!("isle-oci-test-{}", std::process::id());
    host.config["linux"]["cgroupsPath"] = json!(format!("/{name}"));
    let host = host.args(&["sleep", "100"]);
    let output = host.isle(&["create", "--bundle", host.path(), "a"]);
    if output.stderr.contains("control group") {
        eprintln!("skipped: {}", output.stderr);
        return;
    }
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(host.isle(&["start", "a"]).code, Some(0));
    let state: Value = serde_json::from_str(&host.isle(&["state", "a"]).stdout).unwrap();
    let ps = host.isle(&["ps", "--format", "json", "a"]);
    assert_eq!(
        ps.stdout.trim(),
        format!("[{}]", state["pid"]),
        "{}",
        ps.stderr
    );
    assert_eq!(host.isle(&["pause", "a"]).code, Some(0));
    assert_eq!(host.status("a"), "paused");
    let exec = host.isle(&["exec", "a", "true"]);
    assert!(exec.stderr.contains("it is paused"), "{}", exec.stderr);
    assert_eq!(host.isle(&["resume", "a"]).code, Some(0));
    assert_eq!(host.status("a"), "running");
    let update = host.isle(&["update", "--pids-limit", "1", "a"]);
    assert_eq!(update.code, Some(0), "{}", update.stderr);
    let exec = host.isle(&["exec", "a", "true"]);
    assert_ne!(exec.code, Some(0), "the limit of processes is in effect");
    let events = host.isle(&["events", "--stats", "a"]);
    let events: Value = serde_json::from_str(&events.stdout).unwrap();
    assert_eq!(events["data"]["pids"]["current"], 1);
    assert_eq!(host.isle(&["kill", "--all", "a", "KILL"]).code, Some(0));
    host.wait_for("a", "stopped");
    assert_eq!(host.isle(&["delete", "a"]).code, Some(0));
    let left: Vec<_> = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|hierarchy| hierarchy.unwrap().path().join(&name))
        .filter(|path| path.exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_policy_that_knows_few_system_calls_lets_the_container_start() {
    need_root!();
    // those of an old profile: without openat2, close_range, faccessat2
    let names = "access arch_prctl brk capget capset chdir clone close dup2 execve exit exit_group fcntl fork fstat \
                 getcwd getpid getppid getuid geteuid getgid getegid getrandom ioctl lseek mmap mprotect munmap \
                 newfstatat open openat poll prctl pread64 prlimit64 read readlink readlinkat rseq rt_sigaction \
                 rt_sigprocmask rt_sigreturn set_robust_list set_tid_address setgid setgroups setuid sigaltstack \
                 stat uname vfork wait4 write writev";
    for no_new_privileges in [false, true] {
        let mut host = Host::new().args(&["sh", "-c", "echo started; id -u"]);
        host.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        host.config["process"]["user"] = json!({"uid": 7, "gid": 7});
        host.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": names.split_whitespace().collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW"}],
        });
        host.write();
        let output = host.isle(&["run", "--bundle", host.path(), "a"]);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (Some(0), "started\n7\n"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn a_hook_that_fails_ends_the_container_and_hooks_after_the_end_run() {
    need_root!();
    let mut host = Host::new().args(&["sleep", "100"]);
    let ran = host.directory.path().join("poststop");
    let hook = |script: String| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let after = hook(format!("cat > {}", ran.display()));
    host.config["hooks"] = json!({"createRuntime": hook("exit 3".to_owned()), "poststop": after});
    host.write();
    let output = host.isle(&["create", "--bundle", host.path(), "a"]);
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("createRuntime hook"),
        "{}",
        output.stderr
    );
    let state: Value = serde_json::from_slice(&fs::read(&ran).unwrap()).unwrap();
    assert_eq!(state["status"], "stopped");
    assert_eq!(fs::read_dir(host.state_root()).unwrap().count(), 0);

    fs::remove_file(&ran).unwrap();
    host.config["hooks"] = json!({"poststart": hook("exit 3".to_owned()), "poststop": after});
    host.write();
    host.create("a");
    let output = host.isle(&["start", "a"]);
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("poststart hook"),
        "{}",
        output.stderr
    );
    assert_eq!(host.status("a"), "stopped");
    assert_eq!(host.isle(&["delete", "a"]).code, Some(0));
    assert!(ran.exists());

    // and one that hangs
    host.config["hooks"] =
        json!({"prestart": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    host.write();
    let output = host.isle(&["create", "--bundle", host.path(), "a"]);
    assert!(
        output.stderr.contains("longer than its timeout"),
        "{}",
        output.stderr
    );
    assert_eq!(fs::read_dir(host.state_root()).unwrap().count(), 0);
}

#[test]
fn capabilities_that_cannot_be_granted_are_warned_of() {
    need_root!();
    let mut host = Host::new().args(&["true"]);
    host.config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    host.write();
    let log = host.directory.path().join("log");
    let log_flag = log.to_str().unwrap();
    let output = host.isle(&["--log", log_flag, "run", "--bundle", host.path(), "a"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let log = fs::read_to_string(log).unwrap();
    assert!(
        log.contains("level=warning") && log.contains("CAP_OF_TOMORROW"),
        "{log}"
    );
}

#[test]
fn a_file_for_a_user_without_privileges_can_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().to_str().unwrap();
    let written = Command::new(ISLE)
        .args([
            "spec",
            "--rootless",
            "--file",
            "other.json",
            "--bundle",
            bundle,
        ])
        .status()
        .unwrap();
    assert!(written.success());
    let text = fs::read(directory.path().join("other.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(config["linux"]["uidMappings"][0]["size"], 1);
    let kinds = config["linux"]["namespaces"].to_string();
    assert!(
        kinds.contains("user") && !kinds.contains("network"),
        "{kinds}"
    );
}

#[test]
fn without_systemd_its_control_groups_are_refused_with_the_way_out() {
    need_root!();
    let mut host = Host::new().args(&["true"]);
    host.config["linux"]["cgroupsPath"] = json!("system.slice:isle:a");
    host.write();
    let nowhere = host.directory.path().join("nowhere");
    let run = |host: &Host| {
        let output = Command::new(ISLE)
            .arg("--root")
            .arg(host.state_root())
            .args(["--systemd-cgroup", "run", "--bundle", host.path(), "a"])
            .env(
                "DBUS_SYSTEM_BUS_ADDRESS",
                format!("unix:path={}", nowhere.display()),
            )
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    if Path::new("/run/systemd/private").exists() {
        eprintln!("skipped: systemd answers on this host");
        return;
    }
    let error = run(&host);
    assert!(
        error.contains("no systemd answers") && error.contains("cgroupfs"),
        "{error}"
    );
    assert_eq!(fs::read_dir(host.state_root()).unwrap().count(), 0);
    host.config["linux"]["cgroupsPath"] = json!("/a/b");
    host.write();
    let error = run(&host);
    assert!(error.contains("slice:prefix:name"), "{error}");
}

#[test]
fn nobody_has_to_read_the_answer() {
    let mut child = Command::new(ISLE)
        .arg("features")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && error.is_empty(), "{error}");
}
