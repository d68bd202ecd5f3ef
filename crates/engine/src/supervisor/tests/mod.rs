//! The whole supervisor with real processes, under a fake back end and a ledger in memory.

mod fake;
mod real;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use isle_types::Signal;

use self::fake::{Play, Stage, encoded, is_quiet, raw};
use super::{identity, streams};
use crate::config::{HealthCheck, HealthTest, LogDriver, OnUnhealthy, RestartPolicy};
use crate::control::{Control, ControlError};
use crate::protocol::{Cause, Request};
use crate::session::{Attachment, Output, WindowSize};
use crate::state::{Exit, ExitReason, HealthStatus, MemoryOf, Status};
use crate::{AttachRequest, ExecRequest, InstanceLock, UpdateRequest, WaitCondition};

/// Everything up to the end: output, errors, and how it ended.
fn receive(attachment: &mut Attachment) -> (Vec<u8>, Vec<u8>, Option<Exit>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match attachment.receive().unwrap() {
            Some(Output::Stdout(bytes)) => stdout.extend(bytes),
            Some(Output::Stderr(bytes)) => stderr.extend(bytes),
            Some(Output::Exit(exit)) => return (stdout, stderr, Some(exit)),
            None => return (stdout, stderr, None),
        }
    }
}

fn exited(code: i32) -> Exit {
    Exit {
        code,
        reason: ExitReason::Exited,
    }
}

fn killed_by(signal: Signal) -> Exit {
    Exit {
        code: 128 + signal.number(),
        reason: ExitReason::Signalled { signal },
    }
}

/// Receives until the output so far ends with the given text.
fn expect(attachment: &mut Attachment, text: &str) {
    let mut seen = Vec::new();
    while !seen.ends_with(text.as_bytes()) {
        match attachment.receive().unwrap() {
            Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => seen.extend(bytes),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&seen)),
        }
    }
}

fn exec(control: Control, args: &[&str]) -> crate::ExecSession {
    let request = ExecRequest {
        args: args.iter().map(ToString::to_string).collect(),
        open_stdin: true,
        ..ExecRequest::default()
    };
    control.exec(&request, None).unwrap()
}

fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn output_and_exit_code_reach_the_foreground_client_and_the_log() {
    let (stage, mut client) = Play::new("echo out; echo err >&2; exit 3").attached();
    let (stdout, stderr, exit) = receive(&mut client);
    assert_eq!((&stdout[..], &stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(exit, Some(exited(3)));
    let state = stage.state();
    assert_eq!(
        (state.status, state.exit),
        (Status::Exited, Some(exited(3)))
    );
    assert_eq!(state.pid, None);
    assert!(state.finished_at >= state.started_at);
    let log = stage.log();
    assert!(
        log.contains(r#"{"log":"out\n","stream":"stdout","time":""#),
        "{log}"
    );
    assert!(
        log.contains(r#"{"log":"err\n","stream":"stderr","time":""#),
        "{log}"
    );
    let (paths, id) = (stage.paths.clone(), stage.id);
    let book = stage.end();
    assert_eq!(book.lock().unwrap().notes, ["start", "die 3"]);
    assert!(!InstanceLock::is_held(&paths, &id).unwrap());
}

#[test]
fn nothing_is_left_in_the_run_directory_but_the_lock() {
    let mut stage = Play::new("exit 0").detached();
    stage.join();
    let left: Vec<_> = std::fs::read_dir(stage.paths.instance_run(&stage.id))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
    assert_eq!(*stage.clean_ups.lock().unwrap(), 1);
    assert!(matches!(
        Control::connect(&stage.paths, &stage.id),
        Err(ControlError::NoSupervisor)
    ));
}

#[test]
fn a_slow_foreground_client_gets_every_byte_and_the_instance_waits_for_it() {
    let (stage, mut client) = Play::new(
        "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' x; i=$((i+1)); done",
    )
    .with(|config| config.log.driver = LogDriver::None)
    .attached();
    let mut count = 0;
    for _ in 0..5 {
        if let Some(Output::Stdout(bytes)) = client.receive().unwrap() {
            count += bytes.len();
        }
    }
    // It does not end while 4 MB are to be received and nobody does.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(stage.state().status, Status::Running);
    let (rest, _, exit) = receive(&mut client);
    assert!(rest.iter().all(|byte| *byte == b'x'));
    assert_eq!(count + rest.len(), 4_000_000);
    assert_eq!(exit, Some(exited(0)));
    stage.end();
}

#[test]
fn what_is_not_received_yet_is_received_after_the_end() {
    let (stage, mut client) = Play::new("head -c 200000 /dev/zero").attached();
    stage.until("the end", |book| {
        book.state
            .as_ref()
            .is_some_and(|s| s.status == Status::Exited)
    });
    // Another supervisor can have the instance while this one still has something to say.
    let patience = Duration::from_secs(10);
    let lock = InstanceLock::acquire(&stage.paths, &stage.id, patience).unwrap();
    assert!(lock.is_some());
    let (stdout, _, exit) = receive(&mut client);
    assert_eq!((stdout.len(), exit), (200_000, Some(exited(0))));
    stage.end();
}

#[test]
fn standard_input_is_passed_on_and_ends() {
    let (stage, mut client) = Play::new("cat; echo end")
        .with(|config| config.process.open_stdin = true)
        .attached();
    client.send_stdin(b"hello\n").unwrap();
    client.close_stdin().unwrap();
    let (stdout, _, exit) = receive(&mut client);
    assert_eq!(String::from_utf8(stdout).unwrap(), "hello\nend\n");
    assert_eq!(exit, Some(exited(0)));
    stage.end();
}

#[test]
fn much_input_and_output_at_once_do_not_stand_still() {
    let (stage, mut client) = Play::new("cat")
        .with(|config| {
            config.process.open_stdin = true;
            config.log.driver = LogDriver::None;
        })
        .attached();
    let mut input = client.input().unwrap();
    let sender = std::thread::spawn(move || {
        let piece: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        for _ in 0..50 {
            input.send_stdin(&piece).unwrap();
        }
        input.close_stdin().unwrap();
    });
    let (stdout, _, exit) = receive(&mut client);
    sender.join().unwrap();
    assert_eq!((stdout.len(), exit), (5_000_000, Some(exited(0))));
    assert!(
        stdout
            .chunks(100_000)
            .all(|c| c.iter().zip(0_u32..).all(|(b, n)| *b == n as u8))
    );
    stage.end();
}

#[test]
fn input_ends_when_the_foreground_client_goes() {
    let (stage, client) = Play::new("cat; exit 5")
        .with(|config| config.process.open_stdin = true)
        .attached();
    drop(client);
    let book = stage.end();
    let exit = book.lock().unwrap().state.clone().unwrap().exit;
    assert_eq!(exit, Some(exited(5)));
}

#[test]
fn a_detached_instance_keeps_its_input_for_later_clients() {
    let stage = Play::new("read a; read b; echo $a $b")
        .with(|config| config.process.open_stdin = true)
        .detached();
    let mut first = stage.attach();
    first.send_stdin(b"one\n").unwrap();
    drop(first);
    let mut second = stage.attach();
    second.send_stdin(b"two\n").unwrap();
    let (stdout, _, exit) = receive(&mut second);
    assert_eq!((&stdout[..], exit), (&b"one two\n"[..], Some(exited(0))));
    stage.end();
}

#[test]
fn a_client_that_lags_is_given_up_and_the_instance_goes_on() {
    let stage =
        Play::new("read go; head -c 20000000 /dev/zero | tr '\\0' x; echo >&2 done; read end")
            .with(|config| {
                config.process.open_stdin = true;
                config.log.driver = LogDriver::None;
            })
            .detached();
    let mut lagging = stage.attach();
    let mut other = stage
        .control()
        .attach(
            AttachRequest {
                stdin: true,
                stderr: true,
                ..AttachRequest::default()
            },
            None,
        )
        .unwrap();
    other.send_stdin(b"go\n").unwrap();
    expect(&mut other, "done\n");
    let mut count = 0;
    let error = loop {
        match lagging.receive() {
            Ok(Some(Output::Stdout(bytes))) => count += bytes.len(),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        error.to_string().contains("not received in time"),
        "{error}"
    );
    assert!(count < 20_000_000);
    other.send_stdin(b"end\n").unwrap();
    assert_eq!(receive(&mut other).2, Some(exited(0)));
    stage.end();
}

#[test]
fn exec_gives_the_client_the_streams_and_the_exit_code() {
    let stage = Play::new("exec sleep 1000").detached();
    let mut session = exec(
        stage.control(),
        &["sh", "-c", "read x; echo $x; echo err >&2; exit 4"],
    );
    let mut stdin = std::fs::File::from(session.stdin.take().unwrap());
    stdin.write_all(b"hello\n").unwrap();
    assert_eq!(read_all(session.stdout.take().unwrap()), "hello\n");
    assert_eq!(read_all(session.stderr.take().unwrap()), "err\n");
    assert_eq!(session.wait().unwrap(), exited(4));

    let mut session = exec(stage.control(), &["sleep", "1000"]);
    session.signal(Signal::TERM).unwrap();
    assert_eq!(session.wait().unwrap(), killed_by(Signal::TERM));

    let missing = ExecRequest {
        args: vec!["/no/such/program".to_owned()],
        ..ExecRequest::default()
    };
    match stage.control().exec(&missing, None) {
        Err(ControlError::Refused(failed)) => assert_eq!(failed.exit_code, 127),
        other => panic!("{other:?}"),
    }
    stage.until("exec events", |book| {
        book.notes.iter().any(|note| note == "exec_die 4")
    });
    stage.control().stop(None, None).unwrap();
    stage.end();
}

#[test]
fn exec_with_a_terminal_hands_out_the_master() {
    let stage = Play::new("exec sleep 1000").detached();
    let request = ExecRequest {
        args: vec![
            "sh".to_owned(),
            "-c".to_owned(),
            "stty size; read x".to_owned(),
        ],
        tty: true,
        open_stdin: true,
        ..ExecRequest::default()
    };
    let window = WindowSize {
        rows: 11,
        columns: 99,
    };
    let mut session = stage.control().exec(&request, Some(window)).unwrap();
    let mut terminal = std::fs::File::from(session.terminal.take().unwrap());
    let mut seen = Vec::new();
    while !seen.ends_with(b"11 99\r\n") {
        let mut bytes = [0; 100];
        let count = terminal.read(&mut bytes).unwrap();
        seen.extend(&bytes[..count]);
    }
    terminal.write_all(b"\n").unwrap();
    assert_eq!(session.wait().unwrap(), exited(0));
    stage.control().stop(None, None).unwrap();
    stage.end();
}

#[test]
fn a_process_of_exec_survives_its_client() {
    let stage = Play::new("exec sleep 1000").detached();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("done");
    let script = format!(
        "head -c 1000000 /dev/zero && echo ok > {0}.tmp && mv {0}.tmp {0}",
        file.display()
    );
    drop(exec(stage.control(), &["sh", "-c", &script]));
    stage.until("the end of the process", |_| file.exists());
    stage.control().stop(None, None).unwrap();
    stage.end();
}

#[test]
fn stop_sends_the_stop_signal_and_tells_when_it_is_over() {
    let stage = Play::new("trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done")
        .with(|config| {
            config.stop_signal = Some("USR1".parse().unwrap());
            config.restart = RestartPolicy::Always;
        })
        .detached();
    let mut client = stage.attach();
    stage.until("output", |_| true);
    while !stage.log().contains("ready") {
        std::thread::sleep(Duration::from_millis(2));
    }
    stage.control().stop(None, None).unwrap();
    let state = stage.state();
    assert_eq!(
        (state.status, state.exit),
        (Status::Exited, Some(exited(9)))
    );
    assert!(state.is_stopped_by_user);
    assert_eq!(receive(&mut client).2, Some(exited(9)));
    let book = stage.end();
    let notes = book.lock().unwrap().notes.clone();
    assert_eq!(notes, ["start", "attach", "kill", "die 9", "stop"]);
}

#[test]
fn what_does_not_stop_in_time_is_killed() {
    let stage = Play::new("trap '' TERM; echo ready; while :; do sleep 0.01; done").detached();
    while !stage.log().contains("ready") {
        std::thread::sleep(Duration::from_millis(2));
    }
    let timeout = Some(Duration::from_millis(50));
    stage.control().stop(None, timeout).unwrap();
    assert_eq!(stage.state().exit, Some(killed_by(Signal::KILL)));
    stage.end();
}

#[test]
fn a_kill_without_memory_is_told_as_such() {
    let mut play = Play::new("kill -KILL $$");
    play.out_of_memory = true;
    let book = play.detached().end();
    let book = book.lock().unwrap();
    let exit = book.state.clone().unwrap().exit.unwrap();
    assert_eq!(
        (exit.code, exit.reason),
        (
            137,
            ExitReason::OutOfMemory {
                whose: Some(MemoryOf::Instance)
            }
        )
    );
    assert_eq!(book.notes, ["start", "oom", "die 137"]);
}

#[test]
fn what_cannot_be_started_is_told_and_written() {
    let (stage, result) = Play::new("/no/such/program").start(None, None);
    match result {
        Err(ControlError::Refused(failed)) => {
            assert_eq!(failed.exit_code, 127);
            assert!(failed.message.starts_with("cannot execute it: "));
        }
        other => panic!("{other:?}"),
    }
    let book = stage.end();
    let state = book.lock().unwrap().state.clone().unwrap();
    assert_eq!(state.status, Status::Created);
    let exit = state.exit.unwrap();
    assert_eq!(exit.code, 127);
    assert!(matches!(exit.reason, ExitReason::CouldNotStart { .. }));
}

#[test]
fn an_instance_to_be_removed_is_gone_before_its_exit_code_is_told() {
    let play = Play::new("exit 6").with(|config| config.auto_remove = true);
    let (stage, mut client) = play.attached();
    let (_, _, exit) = receive(&mut client);
    assert!(stage.book.lock().unwrap().is_removed);
    assert_eq!(exit, Some(exited(6)));
    let run = stage.paths.instance_run(&stage.id);
    let book = stage.end();
    let book = book.lock().unwrap();
    assert!(book.are_files_removed);
    assert_eq!(book.notes, ["start", "die 6", "destroy"]);
    drop(book);
    assert!(!run.exists());
}

#[test]
fn a_failing_instance_is_started_again_as_often_as_the_policy_says() {
    let play = Play::new("exit 2").with(|config| {
        config.restart = RestartPolicy::OnFailure {
            max_retries: Some(2),
        };
    });
    let book = play.detached().end();
    let book = book.lock().unwrap();
    let state = book.state.clone().unwrap();
    assert_eq!((state.status, state.restart_count), (Status::Exited, 2));
    let run = ["start", "die 2"];
    assert_eq!(book.notes, [run, run, run].concat());
}

#[test]
fn a_stop_ends_the_wait_for_a_restart() {
    let stage = Play::new("exit 1")
        .with(|config| config.restart = RestartPolicy::Always)
        .detached();
    stage.until("a restart", |book| {
        book.state
            .as_ref()
            .is_some_and(|state| state.status == Status::Restarting && state.restart_count == 2)
    });
    match stage.control().signal(Signal::TERM) {
        Err(error) => assert_eq!(error.cause(), Some(Cause::NotRunning)),
        Ok(()) => panic!("nothing runs"),
    }
    stage.control().stop(None, None).unwrap();
    assert_eq!(stage.state().status, Status::Exited);
    stage.end();
}

#[test]
fn restart_runs_it_again_in_the_same_supervisor() {
    let stage = Play::new("exec sleep 1000").detached();
    let first = stage.state().pid;
    stage.control().restart(None, None).unwrap();
    let state = stage.state();
    assert_eq!(state.status, Status::Running);
    assert!(state.pid.is_some() && state.pid != first);
    assert_eq!((state.restart_count, state.is_stopped_by_user), (0, false));
    stage.control().stop(None, None).unwrap();
    let book = stage.end();
    let book = book.lock().unwrap();
    #[rustfmt::skip]
    assert_eq!(book.notes, ["start", "kill", "die 143", "stop", "start", "restart", "kill", "die 143", "stop"]);
}

#[test]
fn pause_and_resume_follow_each_other_only() {
    let stage = Play::new("exec sleep 1000").detached();
    let mut control = stage.control();
    let cause = |result: Result<(), ControlError>| result.unwrap_err().cause();
    assert_eq!(cause(control.resume()), Some(Cause::NotPaused));
    control.pause().unwrap();
    assert_eq!(stage.state().status, Status::Paused);
    assert_eq!(cause(control.pause()), Some(Cause::Paused));
    let refused = stage.control().attach(AttachRequest::default(), None);
    assert_eq!(refused.unwrap_err().cause(), Some(Cause::Paused));
    control.resume().unwrap();
    control.pause().unwrap();
    // Stopping thaws it.
    stage.control().stop(None, None).unwrap();
    assert_eq!(stage.state().exit, Some(killed_by(Signal::TERM)));
    stage.end();
}

#[test]
fn who_holds_it_and_hangs_up_leaves_nothing_frozen() {
    let stage = Play::new("exec sleep 1000").detached();
    let waits_for = |status: Status| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while stage.state().status != status {
            assert!(std::time::Instant::now() < deadline, "it is not {status}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    let (mut first, mut second) = (stage.control(), stage.control());
    first.hold().unwrap();
    second.hold().unwrap();
    assert_eq!(stage.state().status, Status::Paused);
    first.resume().unwrap();
    assert_eq!(
        stage.state().status,
        Status::Paused,
        "the other one holds it still"
    );
    drop(second);
    waits_for(Status::Running);
    // What a person has paused is nobody else's to hold or to thaw.
    stage.control().pause().unwrap();
    let refused = first.hold().unwrap_err();
    assert_eq!(refused.cause(), Some(Cause::Paused));
    drop(first);
    assert_eq!(stage.state().status, Status::Paused);
    stage.control().stop(None, None).unwrap();
    stage.end();
}

#[test]
fn update_and_stats_are_answered() {
    let stage = Play::new("exec sleep 1000").detached();
    let mut control = stage.control();
    assert_eq!(control.stats().unwrap().pids, 7);
    let mut update = UpdateRequest {
        restart: Some(RestartPolicy::UnlessStopped),
        ..UpdateRequest::default()
    };
    control.update(&update).unwrap();
    update.resources.pids_limit = Some(0);
    update.restart = Some(RestartPolicy::No);
    let error = control.update(&update).unwrap_err().to_string();
    assert!(error.contains("pids.max"), "{error}");
    let restart = stage.book.lock().unwrap().restart;
    assert_eq!(restart, Some(RestartPolicy::UnlessStopped));
    stage.control().stop(None, None).unwrap();
    stage.end();
}

#[test]
fn those_who_wait_are_told_when_it_has_come_to_that() {
    let stage = Play::new("exec sleep 1000")
        .with(|config| config.auto_remove = true)
        .detached();
    let waiters: Vec<_> = [
        WaitCondition::NotRunning,
        WaitCondition::NextExit,
        WaitCondition::Removed,
    ]
    .map(|condition| {
        let mut control = stage.control();
        std::thread::spawn(move || control.wait(condition))
    })
    .into();
    // Whoever has connected is served before whoever connects later; stop comes last.
    std::thread::sleep(Duration::from_millis(50));
    stage.control().signal(Signal::TERM).unwrap();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap().unwrap(), killed_by(Signal::TERM));
    }
    stage.end();
}

#[test]
fn a_terminal_is_relayed_and_resized() {
    let (stage, mut client) = Play::new("stty size; read x; stty size; exit 8")
        .with(|config| {
            config.process.tty = true;
            config.process.open_stdin = true;
        })
        .attached();
    expect(&mut client, "24 80\r\n");
    let size = WindowSize {
        rows: 5,
        columns: 7,
    };
    client.resize(size).unwrap();
    client.send_stdin(b"\n").unwrap();
    let (stdout, _, exit) = receive(&mut client);
    assert!(stdout.ends_with(b"5 7\r\n"), "{stdout:?}");
    assert_eq!(exit, Some(exited(8)));
    stage.end();
}

#[test]
fn a_replay_ends_where_the_live_output_begins() {
    let stage = Play::new("echo one; printf two; read x; echo three")
        .with(|config| config.process.open_stdin = true)
        .detached();
    while !stage.log().contains("one") {
        std::thread::sleep(Duration::from_millis(2));
    }
    // "two" has no line end, and may be in the pipe still: both ways it comes once.
    let request = AttachRequest {
        stdin: true,
        stdout: true,
        stderr: true,
        replay_log: true,
    };
    let log = crate::log::path(&stage.paths, &stage.id);
    let mut client = stage.control().attach(request, Some(log)).unwrap();
    client.send_stdin(b"\n").unwrap();
    let (stdout, _, exit) = receive(&mut client);
    assert_eq!(String::from_utf8(stdout).unwrap(), "one\ntwothree\n");
    assert_eq!(exit, Some(exited(0)));
    stage.end();
}

fn health_check(script: &str, on_unhealthy: OnUnhealthy) -> HealthCheck {
    HealthCheck {
        test: HealthTest::Shell(script.to_owned()),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(20),
        start_period: Duration::ZERO,
        start_interval: Duration::from_millis(5),
        retries: 2,
        on_unhealthy,
    }
}

#[test]
fn health_follows_its_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("well");
    let script = format!("echo looking; test -e {}", file.display());
    let stage = Play::new("exec sleep 1000")
        .with(|config| config.health_check = Some(health_check(&script, OnUnhealthy::None)))
        .detached();
    let health_is = |stage: &Stage, wanted| {
        stage.until("the verdict", |book| {
            let health = book.state.as_ref().and_then(|state| state.health.as_ref());
            health.is_some_and(|health| health.status == wanted)
        });
    };
    health_is(&stage, HealthStatus::Unhealthy);
    std::fs::write(&file, "").unwrap();
    health_is(&stage, HealthStatus::Healthy);
    let health = stage.state().health.unwrap();
    assert_eq!((health.failing_streak, health.log.len() <= 5), (0, true));
    assert_eq!(health.log.last().unwrap().output, "looking\n");
    let notes = stage.book.lock().unwrap().notes.join(", ");
    assert_eq!(
        notes,
        "start, health_status: unhealthy, health_status: healthy"
    );
    stage.control().stop(None, None).unwrap();
    stage.end();
}

#[test]
fn a_check_that_takes_too_long_is_killed_and_has_failed() {
    let mut check = health_check("exec sleep 1000", OnUnhealthy::Kill);
    check.timeout = Duration::from_millis(30);
    let book = Play::new("exec sleep 1000")
        .with(|config| config.health_check = Some(check))
        .detached()
        .end();
    let state = book.lock().unwrap().state.clone().unwrap();
    assert_eq!(state.exit, Some(killed_by(Signal::KILL)));
    let health = state.health.unwrap();
    assert_eq!(health.status, HealthStatus::Unhealthy);
    assert_eq!(health.log[0].exit_code, -1);
    assert!(health.log[0].output.contains("longer than 0.03 s"));
}

#[test]
fn an_unhealthy_instance_is_restarted_when_asked_for() {
    let stage = Play::new("exec sleep 1000")
        .with(|config| config.health_check = Some(health_check("exit 1", OnUnhealthy::Restart)))
        .detached();
    stage.until("a restart", |book| {
        book.notes.iter().any(|note| note == "restart")
    });
    stage.control().stop(None, None).unwrap();
    stage.end();
}

#[test]
fn nonsense_on_the_socket_hurts_nobody() {
    let stage = Play::new("exec sleep 1000").detached();
    let mut silent = Vec::new();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"i",
        b"i\x01\x03\0\xff\xff\xff\xff",
        b"i\x02\x01\0\0\0\0\0",
        &encoded(&Request::CloseStdin),
        &encoded(&Request::Stdin(vec![1; 100])),
    ] {
        let mut socket = raw(&stage);
        let _ = socket.write_all(bytes);
        silent.push(socket);
    }
    // One that never receives, and never stops asking.
    let mut flood = raw(&stage);
    flood.set_nonblocking(true).unwrap();
    let request = encoded(&Request::Stats);
    for _ in 0..100_000 {
        if flood.write(&request).is_err() {
            break;
        }
    }
    assert_eq!(stage.control().stats().unwrap().pids, 7);
    drop(silent);
    stage.control().stop(None, None).unwrap();
    drop(flood);
    stage.end();
}

#[test]
fn a_front_door_that_hangs_up_is_not_noticed() {
    let (stage, client) = Play::new("while :; do echo x || exit 1; done").attached();
    drop(client);
    std::thread::sleep(Duration::from_millis(30));
    let mut watcher = stage.attach();
    expect(&mut watcher, "x\n");
    drop(watcher);
    stage.control().stop(None, None).unwrap();
    assert_eq!(stage.state().exit, Some(killed_by(Signal::TERM)));
    stage.end();
}

#[test]
fn a_flood_of_output_leaves_a_bounded_log() {
    let (stage, mut client) = Play::new("yes | head -c 3000000")
        .with(|config| {
            config.log.max_size = isle_types::ByteSize(100_000);
            config.log.max_files = 2;
        })
        .attached();
    receive(&mut client);
    let size: u64 = std::fs::read_dir(stage.paths.instance(&stage.id))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size < 250_000, "{size}");
    stage.end();
}

/// The supervisor was killed, and a new one takes over: same process, and nothing that it has
/// written meanwhile is lost.
#[test]
fn a_new_supervisor_takes_over_a_running_process() {
    let stage = Stage::new();
    let directory = stage.paths.instance_run(&stage.id);
    std::fs::create_dir_all(&directory).unwrap();
    let (reader, stdout) = streams::make_fifo(&directory, streams::STDOUT).unwrap();
    let (_, stderr) = streams::make_fifo(&directory, streams::STDERR).unwrap();
    let mut child = std::process::Command::new("sh")
        .args(["-c", "echo while nobody watched; sleep 1000; exit 5"])
        .stdin(std::process::Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    identity::write(&directory, pid).unwrap();
    // The first supervisor has gone.
    drop(reader);

    let found = identity::find(&directory).unwrap();
    assert!(found.is_some());
    let stage = stage.run(Play::new(""), move |supervisor| {
        supervisor.state.status = Status::Running;
        supervisor.state.pid = Some(pid);
        supervisor.take_over(found);
    });
    stage.until("the log", |_| stage.log().contains("while nobody watched"));
    let state = stage.state();
    assert_eq!((state.status, state.pid), (Status::Running, Some(pid)));
    let mut client = stage.attach();
    assert!(is_quiet(client.fd(), 20));
    child.kill().unwrap();
    // As init would.
    child.wait().unwrap();
    assert_eq!(receive(&mut client).2, Some(killed_by(Signal::KILL)));
    assert_eq!(stage.state().status, Status::Exited);
    stage.end();
}

#[test]
fn a_process_that_ended_unseen_is_told_as_that() {
    let stage = Stage::new().run(Play::new(""), |supervisor| {
        supervisor.state.status = Status::Running;
        supervisor.take_over(None);
    });
    let book = stage.end();
    let state = book.lock().unwrap().state.clone().unwrap();
    assert_eq!(state.status, Status::Exited);
    assert_eq!(state.exit.unwrap().reason, ExitReason::SupervisorLost);
}
