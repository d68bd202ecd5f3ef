//! Containers made for real, from a root file system with nothing but busybox.

mod bundle;

use bundle::{Bundle, Ended};

macro_rules! need_root {
    () => {
        if !bundle::can_make_containers() {
            eprintln!("skipped: making containers needs root and busybox");
            return;
        }
    };
}

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
        .sh("echo $$; hostname; ls /proc | grep -c '^[0-9]'; ls /sys/class/net; cat /proc/net/dev | grep -c :")
        .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "1", "{output:?}");
    assert_eq!(lines[1], "isle-test");
    // sh, ls and grep
    assert_eq!(lines[2], "3");
}

#[test]
fn the_loopback_interface_is_up() {
    need_root!();
    let output = Bundle::new().sh("cat /sys/class/net/lo/flags").run();
    assert_eq!(output.stdout, "0x9\n", "{output:?}");
}
