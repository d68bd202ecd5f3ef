//! The first process of an instance that was asked for with `--init`.
//!
//! `isle-init -- PROGRAM ARGUMENT…` runs the program, hands signals on to it, collects every
//! process that has lost its parent, and ends with the program's exit code (128 + n for a signal,
//! 126 and 127 when it cannot be run). The program is in the same process group and session, so a
//! terminal works as without it.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// `struct signalfd_siginfo`, see signalfd(2): only its first 16 bytes are of interest.
const SIGINFO_BYTES: usize = 128;
/// `si_code` of signals that the kernel sends: those of a terminal have gone to the program too.
const SI_KERNEL: i32 = 0x80;
const SIGCHLD: i32 = 17;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).skip_while(|word| word == "--");
    let Some(program) = words.next() else {
        eprintln!("isle-init: no program to run");
        return ExitCode::from(125);
    };
    match supervise(&program, words.collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("isle-init: cannot run {}: {error}", program.display());
            ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound => 127,
                _ => 126,
            })
        }
    }
}

fn supervise(program: &OsString, arguments: Vec<OsString>) -> io::Result<ExitCode> {
    // All that can be diverted; the two that cannot, and those that tell of errors of our own.
    let kept = [4, 5, 7, 8, 9, 11, 19, 31, 32, 33];
    let signals: Vec<i32> = (1..=64).filter(|signal| !kept.contains(signal)).collect();
    let signals = isle_sys::signals::divert(&signals)?;
    let mut command = Command::new(program);
    command.arg0(program).args(arguments);
    // Else it would inherit what is diverted here, and hear no signal.
    let child = isle_sys::signals::release_in(&mut command).spawn()?;
    let child = Pid::from_child(&child);
    let mut signals = std::fs::File::from(signals);
    loop {
        match poll(&mut [PollFd::new(&signals, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut info = [0; SIGINFO_BYTES];
        while matches!(signals.read(&mut info), Ok(SIGINFO_BYTES)) {
            let field = |at: usize| {
                let bytes = info.get(at..at + 4).and_then(|b| b.try_into().ok());
                i32::from_ne_bytes(bytes.unwrap_or_default())
            };
            let (number, code) = (field(0), field(8));
            if number != SIGCHLD
                && code != SI_KERNEL
                && let Some(signal) = Signal::from_named_raw(number)
            {
                // It may have ended a moment ago; that is found out below.
                let _ = kill_process(child, signal);
            }
        }
        if let Some(code) = collect(child) {
            return Ok(code);
        }
    }
}

/// Collects all that have ended; the exit code of the program when it is among them.
fn collect(child: Pid) -> Option<ExitCode> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            let code = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                (None, None) => continue,
            };
            found = Some(ExitCode::from(u8::try_from(code).unwrap_or(255)));
        }
    }
    found
}
