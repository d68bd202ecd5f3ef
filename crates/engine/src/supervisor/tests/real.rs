//! Real containers under the program `isle-shim`: a root file system that is nothing but busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use isle_types::{InstanceId, Signal};

use super::fake::instance;
use super::{exec, exited, killed_by, receive};
use crate::config::{InstanceConfig, RestartPolicy, SeccompChoice};
use crate::control::{Control, ControlError};
use crate::protocol::Cause;
use crate::session::Attachment;
use crate::state::{ExitReason, InstanceState, Status};
use crate::{AttachRequest, InstanceLock, Paths, Store, launch, log};

const BUSYBOX: &str = "/bin/busybox";

/// A state root of its own with one image layer. `None`, with the reason on standard error, where
/// no container can run.
struct Host {
    _folder: tempfile::TempDir,
    paths: Paths,
}

fn host() -> Option<Host> {
    let shim = std::env::current_exe().unwrap();
    let shim = shim.parent().unwrap().join("../isle-shim");
    let missing = match () {
        () if !rustix::process::geteuid().is_root() => "root",
        () if !std::path::Path::new(BUSYBOX).exists() => "busybox-static",
        () if !shim.exists() => "cargo build -p isle-shim",
        () => {
            // Overlayfs does not take another overlayfs as its upper directory.
            let folder = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
            let paths = Paths {
                root: folder.path().to_owned(),
                run: folder.path().join("run"),
            };
            let bin = folder.path().join("layers/0/bin");
            fs::create_dir_all(&bin).unwrap();
            fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
            for name in ["sh", "sleep", "echo", "cat", "true", "id", "kill"] {
                symlink("busybox", bin.join(name)).unwrap();
            }
            for name in ["proc", "sys", "dev", "etc", "tmp"] {
                fs::create_dir(folder.path().join("layers/0").join(name)).unwrap();
            }
            return Some(Host {
                _folder: folder,
                paths,
            });
        }
    };
    eprintln!("skipped: needs {missing}");
    None
}

impl Host {
    fn create(
        &self,
        number: u8,
        script: &str,
        change: impl FnOnce(&mut InstanceConfig),
    ) -> InstanceId {
        let id = InstanceId::from_bytes([number; 32]);
        let mut config = InstanceConfig::default();
        config.process.entrypoint = Some(Vec::new());
        config.process.command = Some(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        config.process.env = vec!["PATH=/bin".into()];
        config.security.seccomp = SeccompChoice::Unconfined;
        change(&mut config);
        let mut row = instance(id, config);
        row.name = format!("n{number}").parse().unwrap();
        fs::create_dir_all(self.paths.instance(&id)).unwrap();
        let store = Store::open(&self.paths).unwrap();
        store
            .insert(&row, &[PathBuf::from("layers/0")], |_| Ok(()))
            .unwrap();
        id
    }

    fn state(&self, id: &InstanceId) -> Option<InstanceState> {
        let store = Store::open(&self.paths).unwrap();
        store.get(id).unwrap().map(|instance| instance.state)
    }

    fn control(&self, id: &InstanceId) -> Control {
        Control::connect(&self.paths, id).unwrap()
    }

    fn attached(&self, id: &InstanceId) -> Result<Attachment, ControlError> {
        let request = AttachRequest {
            stdin: true,
            stdout: true,
            stderr: true,
            replay_log: false,
        };
        launch::start(&self.paths, id, Some(request), None).map(Option::unwrap)
    }

    /// Waits until its supervisor has gone.
    fn over(&self, id: &InstanceId) {
        until("the end of the supervisor", || {
            !InstanceLock::is_held(&self.paths, id).unwrap()
        });
    }

    /// Kills the supervisor, as a user who knows no mercy.
    fn kill_supervisor(&self, id: &InstanceId) {
        let socket = super::super::address::connect(&self.paths.instance_run(id)).unwrap();
        let peer = rustix::net::sockopt::socket_peercred(&socket).unwrap();
        rustix::process::kill_process(peer.pid, rustix::process::Signal::KILL).unwrap();
        self.over(id);
    }

    fn log(&self, id: &InstanceId) -> String {
        fs::read_to_string(log::path(&self.paths, id)).unwrap_or_default()
    }

    fn complaints(&self, id: &InstanceId) -> String {
        fs::read_to_string(super::super::complaints(&self.paths, id)).unwrap_or_default()
    }
}

fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < patience, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_container_runs_and_its_exit_code_comes_back() {
    let Some(host) = host() else { return };
    let id = host.create(1, "echo out; echo err >&2; exit 3", |_| {});
    let mut client = host.attached(&id).unwrap();
    let (stdout, stderr, exit) = receive(&mut client);
    assert_eq!((&stdout[..], &stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(exit, Some(exited(3)));
    let state = host.state(&id).unwrap();
    assert_eq!(
        (state.status, state.exit),
        (Status::Exited, Some(exited(3)))
    );
    host.over(&id);
    assert_eq!(host.complaints(&id), "");

    // Once more: the same instance, its files kept.
    let mut client = host.attached(&id).unwrap();
    assert_eq!(receive(&mut client).2, Some(exited(3)));
    host.over(&id);
    assert_eq!(host.log(&id).lines().count(), 4);
}

#[test]
fn an_instance_to_be_removed_leaves_nothing() {
    let Some(host) = host() else { return };
    let id = host.create(2, "exit 0", |config| config.auto_remove = true);
    let mut client = host.attached(&id).unwrap();
    assert_eq!(receive(&mut client).2, Some(exited(0)));
    assert_eq!(host.state(&id), None);
    until("the removal", || !host.paths.instance_run(&id).exists());
    assert!(!host.paths.instance(&id).exists());
}

#[test]
fn what_is_not_in_the_image_is_127() {
    let Some(host) = host() else { return };
    let id = host.create(3, "", |config| {
        config.process.command = Some(vec!["/no/such".into()]);
    });
    match host.attached(&id) {
        Err(ControlError::Refused(failed)) => assert_eq!(failed.exit_code, 127, "{failed:?}"),
        other => panic!("{other:?}"),
    }
    let state = host.state(&id).unwrap();
    assert_eq!(state.status, Status::Created);
    host.over(&id);
}

#[test]
fn exec_kill_and_a_second_start_of_a_running_container() {
    let Some(host) = host() else { return };
    let id = host.create(4, "exec sleep 1000", |_| {});
    assert!(
        launch::start(&host.paths, &id, None, None)
            .unwrap()
            .is_none()
    );
    assert_eq!(host.state(&id).unwrap().status, Status::Running);
    let mut session = exec(host.control(&id), &["/bin/sh", "-c", "exit 4"]);
    assert_eq!(session.wait().unwrap(), exited(4));
    let again = launch::start(&host.paths, &id, None, None).unwrap_err();
    assert_eq!(again.cause(), Some(Cause::AlreadyRunning), "{again}");
    let mut control = host.control(&id);
    control.pause().unwrap();
    control.resume().unwrap();
    host.control(&id).signal(Signal::KILL).unwrap();
    host.over(&id);
    assert_eq!(host.state(&id).unwrap().exit, Some(killed_by(Signal::KILL)));
    assert_eq!(host.complaints(&id), "");
}

#[test]
fn a_container_survives_its_supervisor_and_gets_a_new_one() {
    let Some(host) = host() else { return };
    let script = "n=0; while sleep 0.01; do n=$((n+1)); echo $n; [ $n != 300 ] || exit 7; done";
    let id = host.create(5, script, |_| {});
    launch::start(&host.paths, &id, None, None).unwrap();
    let pid = host.state(&id).unwrap().pid.unwrap();
    until("output", || host.log(&id).contains("\"5\\n\""));
    host.kill_supervisor(&id);
    assert!(is_alive(pid));
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_alive(pid));
    launch::adopt(&host.paths, &id).unwrap();
    let state = host.state(&id).unwrap();
    assert_eq!((state.status, state.pid), (Status::Running, Some(pid)));
    // It is a supervisor like any other.
    let mut session = exec(host.control(&id), &["/bin/sh", "-c", "exit 4"]);
    assert_eq!(session.wait().unwrap(), exited(4));
    let exit = host
        .control(&id)
        .wait(crate::WaitCondition::NotRunning)
        .unwrap();
    assert_eq!(exit, exited(7));
    host.over(&id);
    assert_eq!(host.complaints(&id), "");
    // Not a line is missing, and none comes twice.
    let lines: Vec<String> = (1..=300).map(|n| format!("{n}\n")).collect();
    let request = crate::LogRequest {
        stdout: true,
        ..crate::LogRequest::default()
    };
    let found: Vec<String> = log::Reader::open(log::path(&host.paths, &id), &request, None)
        .unwrap()
        .map(|entry| String::from_utf8(entry.unwrap().bytes).unwrap())
        .collect();
    assert_eq!(found, lines);
}

#[test]
fn a_container_that_ends_without_a_supervisor_is_told_and_restarted_by_its_policy() {
    let Some(host) = host() else { return };
    let id = host.create(6, "exec sleep 1000", |_| {});
    launch::start(&host.paths, &id, None, None).unwrap();
    let pid = host.state(&id).unwrap().pid.unwrap();
    host.kill_supervisor(&id);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    until("the end", || !is_alive(pid));
    launch::adopt(&host.paths, &id).unwrap();
    let state = host.state(&id).unwrap();
    assert_eq!(state.status, Status::Exited);
    assert_eq!(state.exit.unwrap().reason, ExitReason::SupervisorLost);
    host.over(&id);

    let id = host.create(7, "exec sleep 1000", |config| {
        config.restart = RestartPolicy::Always;
    });
    launch::start(&host.paths, &id, None, None).unwrap();
    let pid = host.state(&id).unwrap().pid.unwrap();
    host.kill_supervisor(&id);
    // The user asks for a start: it runs already, and has a supervisor from then on.
    let error = launch::start(&host.paths, &id, None, None).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::AlreadyRunning));
    until("the new supervisor", || {
        Control::connect(&host.paths, &id).is_ok()
    });
    assert!(is_alive(pid));
    host.control(&id).stop(None, Some(Duration::ZERO)).unwrap();
    assert!(!is_alive(pid));
    host.over(&id);
}

#[test]
fn a_terminal_inside_is_relayed() {
    let Some(host) = host() else { return };
    let id = host.create(8, "read x; echo got $x; exit 2", |config| {
        config.process.tty = true;
        config.process.open_stdin = true;
    });
    let mut client = host.attached(&id).unwrap();
    client.send_stdin(b"word\n").unwrap();
    let (stdout, _, exit) = receive(&mut client);
    let text = String::from_utf8(stdout).unwrap();
    assert!(text.ends_with("got word\r\n"), "{text:?}");
    assert_eq!(exit, Some(exited(2)));
    host.over(&id);
}
