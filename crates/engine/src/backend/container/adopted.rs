//! The end of a first process that an earlier supervisor has started.

use std::io;
use std::time::{Duration, Instant};

use crate::backend::{Ended, Process, stat_field};

/// How a process has ended that is not our child. The kernel tells it of a process that its
/// parent has collected, from Linux 6.15 on; and of one that was not, to root. `None` otherwise.
pub(crate) fn how_it_ended(process: &Process) -> io::Result<Option<Ended>> {
    // Its parent is init now, which collects it soon.
    let patience = Instant::now() + Duration::from_secs(1);
    loop {
        if let Some(status) = isle_sys::pidfd::exit_status(&process.ended)? {
            return Ok(decode(status));
        }
        let of_zombie = std::fs::read_to_string(format!("/proc/{}/stat", process.pid));
        match of_zombie {
            Ok(stat) if stat_field(&stat, 3) == Some("Z") => {
                if let Some(status) = stat_field(&stat, 52).and_then(|text| text.parse().ok()) {
                    return Ok(decode(status));
                }
            }
            _ if Instant::now() >= patience => return Ok(None),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A status as waitpid(2) has it.
fn decode(status: i32) -> Option<Ended> {
    let signal = status & 0x7f;
    match signal {
        0 => Some(Ended::Code(((status >> 8) & 0xff) as u8)),
        _ => isle_types::Signal::from_number(signal)
            .ok()
            .map(Ended::Signal),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_end_of_a_zombie_is_read_without_collecting_it() {
        for (script, expected) in [
            ("exit 7", Some(Ended::Code(7))),
            (
                "kill -TERM $$",
                Some(Ended::Signal(isle_types::Signal::TERM)),
            ),
        ] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let ended = rustix::process::pidfd_open(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::PidfdFlags::empty(),
            )
            .unwrap();
            let process = Process {
                pid,
                ended,
                terminal: None,
                task: 0,
            };
            let mut fds = [rustix::event::PollFd::new(
                &process.ended,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            if !rustix::process::geteuid().is_root() {
                eprintln!("skipped: needs root");
            } else {
                assert_eq!(how_it_ended(&process).unwrap(), expected);
            }
            child.wait().unwrap();
        }
    }
}
