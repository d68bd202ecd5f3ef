//! Both ends of the channel together, without a virtual machine.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use isle_guest::{
    Connection, End, Error, FailureKind, Further, Prepare, RemoteProcess, Stdio, Tree, WORKLOAD,
    WindowSize, Workload,
};
use isle_types::Signal;
use oci_spec::runtime::Spec;
use support::namespaced::{Agent, is_possible};
use support::{
    Ends, is_readable, outcome, process, read_some, seccomp, spec, streams, until, user,
};

/// An agent, a host end, and a workload that does nothing.
struct Scene {
    agent: Agent,
    guest: Connection,
    spec: Spec,
    init: RemoteProcess,
    _ends: Ends,
}

fn workload(spec: &Spec) -> Workload<'_> {
    Workload {
        id: "abc",
        spec,
        user: None,
        seccomp: None,
        root_share: None,
    }
}

fn scene() -> Option<Scene> {
    if !is_possible() {
        return None;
    }
    let agent = Agent::start();
    let mut guest = Connection::open(agent.connect()).unwrap();
    guest.set_patience(std::time::Duration::from_secs(10));
    let mut spec = spec(&["sleep", "1000"]);
    // There is no kernel of its own here, and no file of Prepare.
    let mounts = spec.mounts().clone().unwrap();
    let own = |mount: &oci_spec::runtime::Mount| mount.typ().as_deref() != Some("bind");
    spec.set_mounts(Some(mounts.into_iter().filter(own).collect()));
    let (stdio, ends) = streams(false);
    let init = guest
        .launch(&Prepare::default(), &workload(&spec), stdio)
        .unwrap();
    guest.started(&init).unwrap();
    Some(Scene {
        agent,
        guest,
        spec,
        init,
        _ends: ends,
    })
}

impl Scene {
    fn exec_with(
        &mut self,
        words: &[&str],
        stdio: Stdio,
    ) -> Result<RemoteProcess, isle_guest::StartError> {
        let process = process(&self.spec, words);
        let further = Further {
            spec: &self.spec,
            process: &process,
            user: None,
            seccomp: None,
        };
        self.guest.exec(&further, stdio)
    }

    fn exec(&mut self, words: &[&str], has_input: bool) -> (RemoteProcess, Ends) {
        let (stdio, ends) = streams(has_input);
        let process = self.exec_with(words, stdio).unwrap();
        (process, ends)
    }

    fn run(&mut self, words: &[&str]) -> (End, String, String) {
        let (process, ends) = self.exec(words, false);
        let (ended, out, err) = outcome(&mut self.guest, &process, ends);
        (ended.end, out, err)
    }
}

#[test]
fn streams_are_kept_apart_and_the_exit_code_comes_after_them() {
    let Some(mut scene) = scene() else { return };
    let (end, out, err) = scene.run(&["sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!(
        (end, out.as_str(), err.as_str()),
        (End::Code(9), "out\n", "err\n")
    );
    let (end, ..) = scene.run(&["sh", "-c", "kill -USR1 $$"]);
    assert_eq!(end, End::Signal(10));
}

#[test]
fn a_program_that_cannot_be_executed_is_told_apart_from_one_that_is_not_there() {
    let Some(mut scene) = scene() else { return };
    for (word, code) in [("nowhere", 127), ("/etc/passwd", 126), ("/tmp", 126)] {
        let error = scene.exec_with(&[word], streams(false).0).unwrap_err();
        assert_eq!(error.exit_code, code, "{error:?}");
    }
    let (end, ..) = scene.run(&["true"]);
    assert_eq!(end, End::Code(0));
}

#[test]
fn much_input_comes_back_as_it_was() {
    let Some(mut scene) = scene() else { return };
    let (process, mut ends) = scene.exec(&["cat"], true);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let (mut stdin, to_send) = (ends.stdin.take().unwrap(), sent.clone());
    let sending = std::thread::spawn(move || stdin.write_all(&to_send).unwrap());
    let mut received = Vec::new();
    until(&mut scene.guest, |_| {
        read_some(&mut ends.stdout, &mut received);
        is_readable(&process.ended)
    });
    sending.join().unwrap();
    read_some(&mut ends.stdout, &mut received);
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
    assert_eq!(scene.guest.reap(process.id).unwrap().end, End::Code(0));
}

#[test]
fn a_flood_that_nobody_reads_holds_up_nobody_else() {
    let Some(mut scene) = scene() else { return };
    let (flood, mut ends) = scene.exec(&["yes", "0123456789abcde"], false);
    for _ in 0..20 {
        let (end, out, _) = scene.run(&["echo", "here"]);
        assert_eq!((end, out.as_str()), (End::Code(0), "here\n"));
    }
    let mut read = Vec::new();
    until(&mut scene.guest, |_| {
        read_some(&mut ends.stdout, &mut read);
        read.len() > 2_000_000
    });
    assert!(
        read.chunks_exact(16)
            .all(|line| line == b"0123456789abcde\n")
    );
    scene.guest.signal(flood.id, Signal::TERM);
    until(&mut scene.guest, |_| {
        read_some(&mut ends.stdout, &mut read);
        is_readable(&flood.ended)
    });
    assert_eq!(scene.guest.reap(flood.id).unwrap().end, End::Signal(15));
}

#[test]
fn who_writes_to_nobody_hears_so() {
    let Some(mut scene) = scene() else { return };
    let (process, ends) = scene.exec(&["yes"], false);
    drop(ends);
    until(&mut scene.guest, |_| is_readable(&process.ended));
    assert_eq!(scene.guest.reap(process.id).unwrap().end, End::Signal(13));
}

#[test]
fn a_process_that_is_left_behind_with_the_output_does_not_hold_up_the_end() {
    let Some(mut scene) = scene() else { return };
    let (process, mut ends) = scene.exec(&["sh", "-c", "sleep 1000 & echo done"], false);
    let mut read = Vec::new();
    until(&mut scene.guest, |_| is_readable(&process.ended));
    read_some(&mut ends.stdout, &mut read);
    assert_eq!(read, b"done\n");
}

#[test]
fn a_terminal_has_a_size_and_one_stream() {
    let Some(mut scene) = scene() else { return };
    let size = WindowSize {
        rows: 30,
        columns: 100,
    };
    let process = scene
        .exec_with(&["sh"], Stdio::Terminal { size: Some(size) })
        .unwrap();
    let mut terminal = File::from(process.terminal.as_ref().unwrap().try_clone().unwrap());
    let mut seen = Vec::new();
    terminal.write_all(b"stty size\n").unwrap();
    until(&mut scene.guest, |_| {
        read_some(&mut terminal, &mut seen);
        String::from_utf8_lossy(&seen).contains("30 100\r\n")
    });
    scene.guest.resize(
        process.id,
        WindowSize {
            rows: 7,
            columns: 9,
        },
    );
    terminal.write_all(b"stty size; exit 3\n").unwrap();
    until(&mut scene.guest, |_| {
        read_some(&mut terminal, &mut seen);
        is_readable(&process.ended)
    });
    read_some(&mut terminal, &mut seen);
    assert!(String::from_utf8_lossy(&seen).contains("7 9\r\n"));
    assert_eq!(scene.guest.reap(process.id).unwrap().end, End::Code(3));
}

#[test]
fn letting_a_terminal_go_hangs_its_process_up() {
    let Some(mut scene) = scene() else { return };
    let mut process = scene
        .exec_with(&["sleep", "1000"], Stdio::Terminal { size: None })
        .unwrap();
    drop(process.terminal.take());
    until(&mut scene.guest, |_| is_readable(&process.ended));
    assert_eq!(scene.guest.reap(process.id).unwrap().end, End::Signal(1));
}

#[test]
fn a_host_end_that_is_replaced_loses_no_output() {
    let Some(mut scene) = scene() else { return };
    let script = "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done";
    let (process, mut ends) = scene.exec(&["sh", "-c", script], false);
    let mut read = Vec::new();
    let mut id = process.id;
    for round in 0..6 {
        // At another place each time, often in the middle of a frame.
        let goal = read.len() + 30_000 + 7_001 * round;
        until(&mut scene.guest, |guest| {
            read_some(&mut ends.stdout, &mut read);
            guest.tend().unwrap();
            read.len() > goal
        });
        scene.guest = Connection::resume(scene.agent.connect()).unwrap();
        let tasks: Vec<u32> = scene.guest.tasks().iter().map(|task| task.task).collect();
        assert_eq!(tasks, [WORKLOAD, id]);
        let (stdio, new) = streams(false);
        let process = scene.guest.adopt(id, stdio).unwrap();
        id = process.id;
        ends = new;
        if round == 5 {
            until(&mut scene.guest, |_| {
                read_some(&mut ends.stdout, &mut read);
                is_readable(&process.ended)
            });
            read_some(&mut ends.stdout, &mut read);
            assert_eq!(scene.guest.reap(id).unwrap().end, End::Code(0));
        }
    }
    let expected: String = (0..60_000).map(|n| format!("line {n}\n")).collect();
    assert!(
        read == expected.as_bytes(),
        "{} of {} bytes",
        read.len(),
        expected.len()
    );
}

#[test]
fn an_end_that_nobody_heard_is_told_to_the_next_host_end() {
    let Some(mut scene) = scene() else { return };
    let (process, ends) = scene.exec(&["sh", "-c", "echo last words; exit 4"], false);
    until(&mut scene.guest, |_| is_readable(&process.ended));
    // It has heard it, and dies before it says that it has.
    drop(ends);
    scene.guest = Connection::resume(scene.agent.connect()).unwrap();
    let (stdio, mut ends) = streams(false);
    let again = scene.guest.adopt(process.id, stdio).unwrap();
    until(&mut scene.guest, |_| is_readable(&again.ended));
    let mut read = Vec::new();
    read_some(&mut ends.stdout, &mut read);
    assert_eq!(read, b"last words\n");
    assert_eq!(scene.guest.reap(again.id).unwrap().end, End::Code(4));
    scene.guest.abandon(WORKLOAD).unwrap();
    let (end, ..) = scene.run(&["true"]);
    assert_eq!(end, End::Code(0));
}

#[test]
fn users_are_those_of_the_root_file_system() {
    let Some(mut scene) = scene() else { return };
    for (name, expected) in [
        ("ann", "uid=1000(ann) gid=100(users) groups=10(wheel)"),
        ("4242", "uid=4242 gid=0(root)"),
    ] {
        let process = process(&scene.spec, &["sh", "-c", "id; echo $HOME"]);
        let (stdio, ends) = streams(false);
        let further = Further {
            spec: &scene.spec,
            process: &process,
            user: Some(&user(name)),
            seccomp: Some(&seccomp()),
        };
        let process = scene.guest.exec(&further, stdio).unwrap();
        let (_, out, _) = outcome(&mut scene.guest, &process, ends);
        assert!(out.starts_with(expected), "{out}");
    }
    let process = process(&scene.spec, &["id"]);
    let further = Further {
        spec: &scene.spec,
        process: &process,
        user: Some(&user("nobody-here")),
        seccomp: None,
    };
    let error = scene.guest.exec(&further, streams(false).0).unwrap_err();
    assert!(error.error.to_string().contains("nobody-here"), "{error:?}");
}

fn archive_of(scene: &mut Scene, tree: Tree) -> Result<Vec<u8>, Error> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let task = scene.guest.read_tree(tree, writer)?;
    let mut reader = File::from(reader);
    let mut bytes = Vec::new();
    until(&mut scene.guest, |_| {
        read_some(&mut reader, &mut bytes);
        is_readable(&task.ended)
    });
    read_some(&mut reader, &mut bytes);
    scene.guest.reap_task(task.id)?;
    Ok(bytes)
}

fn path_tree(path: &str) -> Tree {
    Tree::Path {
        path: path.as_bytes().to_vec().into(),
        follow_link: false,
    }
}

#[test]
fn trees_go_out_and_come_in_as_archives() {
    let Some(mut scene) = scene() else { return };
    let (end, ..) = scene.run(&[
        "sh",
        "-c",
        "mkdir /tmp/a; yes | head -c 300000 > /tmp/a/big; ln -s big /tmp/a/link; touch /tmp/a/mine",
    ]);
    assert_eq!(end, End::Code(0));
    let bytes = archive_of(&mut scene, path_tree("/tmp/a")).unwrap();
    let (input, mut output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map(|(reader, writer)| (reader, File::from(writer)))
        .unwrap();
    let sending = std::thread::spawn(move || output.write_all(&bytes).unwrap());
    scene.run(&["mkdir", "/tmp/b"]);
    let task = scene.guest.write_tree(b"/tmp/b", true, input).unwrap();
    until(&mut scene.guest, |_| is_readable(&task.ended));
    sending.join().unwrap();
    scene.guest.reap_task(task.id).unwrap();
    let (_, out, _) = scene.run(&[
        "sh",
        "-c",
        "wc -c < /tmp/b/a/big; ls /tmp/b/a; md5sum < /tmp/a/big; md5sum < /tmp/b/a/link",
    ]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..4], ["300000", "big", "link", "mine"]);
    assert_eq!(lines[4], lines[5]);
    let stat = scene.guest.stat(b"/tmp/a/link").unwrap();
    assert_eq!(stat.link_target.as_deref(), Some(&b"/tmp/a/big"[..]));
    assert_eq!(&*stat.name, b"link");
}

#[test]
fn paths_that_are_not_there_are_refused_before_anything_is_sent() {
    let Some(mut scene) = scene() else { return };
    let kind = |error: Error| match error {
        Error::Refused(failure) => failure.kind,
        error => panic!("{error}"),
    };
    assert_eq!(
        kind(archive_of(&mut scene, path_tree("/nowhere")).unwrap_err()),
        FailureKind::NoSuchPath
    );
    assert_eq!(
        kind(scene.guest.stat(b"/nowhere").unwrap_err()),
        FailureKind::NoSuchPath
    );
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let error = scene
        .guest
        .write_tree(b"/etc/passwd", true, null())
        .unwrap_err();
    assert_eq!(kind(error), FailureKind::NotADirectory);
}

#[test]
fn a_broken_archive_is_a_failure_with_its_reason() {
    let Some(mut scene) = scene() else { return };
    let (input, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    File::from(output).write_all(&[b'x'; 2000]).unwrap();
    let task = scene.guest.write_tree(b"/tmp", true, input).unwrap();
    until(&mut scene.guest, |_| is_readable(&task.ended));
    let error = scene.guest.reap_task(task.id).unwrap_err().to_string();
    assert!(error.contains("archive"), "{error}");
}

#[test]
fn killing_all_ends_the_workload_and_what_was_executed_in_it() {
    let Some(mut scene) = scene() else { return };
    let (process, _ends) = scene.exec(&["sleep", "1000"], false);
    scene.guest.kill_all().unwrap();
    until(&mut scene.guest, |_| {
        is_readable(&process.ended) && is_readable(&scene.init.ended)
    });
    assert_eq!(scene.guest.reap(WORKLOAD).unwrap().end, End::Signal(9));
    assert_eq!(scene.guest.reap(process.id).unwrap().end, End::Signal(9));
    let error = scene.exec_with(&["true"], streams(false).0).unwrap_err();
    assert!(
        error.error.to_string().contains("does not run"),
        "{error:?}"
    );
}

#[test]
fn a_guest_that_goes_away_is_lost_at_once() {
    let Some(Scene {
        agent,
        mut guest,
        init,
        ..
    }) = scene()
    else {
        return;
    };
    drop(agent);
    // The one that stands for QEMU closes its sockets with the agent.
    let error = loop {
        match guest.tend() {
            Ok(()) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Closed), "{error}");
    assert!(is_readable(&init.ended));
    assert!(matches!(guest.reap(init.id), Err(Error::Closed)));
    assert!(matches!(guest.stats(), Err(Error::Closed)));
}
