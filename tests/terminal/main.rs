//! Terminals: `-it`, detaching, attaching, window size, raw mode.

#![forbid(unsafe_code)]

use isle_tests::{Need, World};
use rustix::process::{Pid, Signal, kill_process};

isle_tests::stories! {
    a_shell_on_a_terminal_can_be_used,
    the_terminal_is_as_it_was_after_every_exit [Need::Isle],
    detach_keys_leave_it_running_and_attach_comes_back [Need::Isle],
    own_detach_keys_replace_the_usual_ones [Need::Isle],
    the_window_size_is_passed_on_and_follows,
    control_c_on_a_terminal_reaches_the_program,
    exec_on_a_terminal_has_a_terminal_of_its_own,
    a_terminal_is_refused_where_standard_input_is_none,
    attach_without_a_terminal_passes_both_streams [Need::Isle],
}

const PROMPT: &str = "ready> ";

fn a_shell_on_a_terminal_can_be_used(world: &World) {
    let image = world.busybox();
    let mut terminal = world
        .isle(["run", "--rm", "-it", "-e", "PS1=ready> ", &image, "sh"])
        .on_terminal();
    terminal.expect(PROMPT);
    terminal.send("tty; echo $((6*7)); exit 3\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("42");
    assert_eq!(terminal.wait(), 3);
    assert!(!terminal.is_raw());
}

fn the_terminal_is_as_it_was_after_every_exit(world: &World) {
    let image = world.busybox();
    // The program ends by itself, is killed, or cannot even be started.
    let mut failing = world
        .isle(["run", "--rm", "-it", &image, "no-such-program"])
        .on_terminal();
    assert_eq!(failing.wait(), 127);
    assert!(!failing.is_raw());
    let mut killed = world
        .isle([
            "run",
            "-it",
            "--name",
            "k",
            "-e",
            "PS1=ready> ",
            &image,
            "sh",
        ])
        .on_terminal();
    killed.expect(PROMPT);
    assert!(killed.is_raw());
    world.isle(["kill", "k"]).succeeds();
    assert_eq!(killed.wait(), 137);
    assert!(!killed.is_raw());
    let mut terminated = world
        .isle([
            "run",
            "-it",
            "--name",
            "t",
            "--sig-proxy=false",
            "-e",
            "PS1=ready> ",
            &image,
            "sh",
        ])
        .on_terminal();
    terminated.expect(PROMPT);
    let pid = Pid::from_raw(terminated.pid()).expect("a child has a pid");
    kill_process(pid, Signal::TERM).expect("our own child");
    let _ = terminated.wait();
    assert!(!terminated.is_raw());
    world.isle(["rm", "-f", "t"]).succeeds();
}

fn detach_keys_leave_it_running_and_attach_comes_back(world: &World) {
    let image = world.busybox();
    let mut first = world
        .isle([
            "run",
            "-it",
            "--name",
            "n",
            "-e",
            "PS1=ready> ",
            &image,
            "sh",
        ])
        .on_terminal();
    first.expect(PROMPT);
    first.send("x=kept\n");
    first.expect(PROMPT);
    first.send("\x10\x11");
    assert_eq!(first.wait(), 0);
    assert!(!first.is_raw());
    assert_eq!(world.status("n"), "running");
    let mut second = world.isle(["attach", "n"]).on_terminal();
    second.send("\n");
    second.expect(PROMPT);
    second.send("echo $x; exit 4\n");
    second.expect("kept");
    assert_eq!(second.wait(), 4);
}

fn own_detach_keys_replace_the_usual_ones(world: &World) {
    let image = world.busybox();
    let mut terminal = world
        .isle([
            "run",
            "-it",
            "--name",
            "n",
            "--detach-keys",
            "ctrl-x,z",
            "-e",
            "PS1=ready> ",
            &image,
            "sh",
        ])
        .on_terminal();
    terminal.expect(PROMPT);
    // A part of the sequence that is not completed goes to the program.
    terminal.send("\x18echo whole\n");
    terminal.expect("whole");
    terminal.expect(PROMPT);
    terminal.send("\x18z");
    assert_eq!(terminal.wait(), 0);
    assert_eq!(world.status("n"), "running");
    world.isle(["rm", "-f", "n"]).succeeds();
}

fn the_window_size_is_passed_on_and_follows(world: &World) {
    let image = world.busybox();
    let mut terminal = world
        .isle(["run", "--rm", "-it", "-e", "PS1=ready> ", &image, "sh"])
        .on_terminal();
    terminal.expect(PROMPT);
    terminal.send("stty size\n");
    terminal.expect("24 80");
    terminal.resize(50, 132);
    // The size arrives some moments later: asked for until it has.
    terminal.send("until stty size | grep 132; do sleep 0.05; done\n");
    terminal.expect("\n50 132");
    terminal.send("exit\n");
    assert_eq!(terminal.wait(), 0);
}

fn control_c_on_a_terminal_reaches_the_program(world: &World) {
    let mut terminal = world
        .script(
            &["--rm", "-it"],
            "trap 'echo interrupted; exit 6' INT; echo up; while :; do sleep 0.05; done",
        )
        .on_terminal();
    terminal.expect("up");
    terminal.send("\x03");
    terminal.expect("interrupted");
    assert_eq!(terminal.wait(), 6);
}

fn exec_on_a_terminal_has_a_terminal_of_its_own(world: &World) {
    world.background("n", &[], &["sleep", "1000"]);
    let mut terminal = world
        .isle(["exec", "-it", "-e", "PS1=ready> ", "n", "sh"])
        .on_terminal();
    terminal.expect(PROMPT);
    terminal.send("tty; stty size; exit 11\n");
    terminal.expect("/dev/pts/");
    terminal.expect("24 80");
    assert_eq!(terminal.wait(), 11);
    assert!(!terminal.is_raw());
}

fn a_terminal_is_refused_where_standard_input_is_none(world: &World) {
    let image = world.busybox();
    // Docker: "the input device is not a TTY"; Podman goes on without.
    let outcome = world
        .isle(["run", "--rm", "-it", &image, "true"])
        .stdin("")
        .run();
    assert!([0, 1, 125].contains(&outcome.code()), "{outcome}");
}

fn attach_without_a_terminal_passes_both_streams(world: &World) {
    world
        .script(
            &["-d", "-i", "--name", "n"],
            "read x; echo out $x; echo err >&2; exit 8",
        )
        .succeeds();
    let outcome = world.isle(["attach", "n"]).stdin("line\n").exits_with(8);
    assert_eq!(outcome.stdout(), "out line\n");
    assert_eq!(outcome.stderr(), "err\n");
}
