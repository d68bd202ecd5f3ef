//! The way out of the house's network: pasta(1), which continues in sockets of the host what leaves through a tap.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::building::{NAME_SERVER, network_file};
use crate::residents::{process_folder, processes};
use crate::{HouseError, words};

const PROGRAM: &str = "pasta";
/// So long it may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pasta that runs.
#[derive(Debug)]
pub(crate) struct Pasta {
    pub(crate) pid: Pid,
    pub(crate) ended: OwnedFd,
}

impl Pasta {
    /// The one for the network of a house, started when there is none; the network has its address and routes when this
    /// returns.
    ///
    /// # Errors
    /// [`HouseError::NoPasta`], [`HouseError::Pasta`].
    pub(crate) fn get(folder: &Path) -> Result<Pasta, HouseError> {
        if let Some(pasta) = Pasta::find(folder) {
            return Ok(pasta);
        }
        let network = network_file(folder);
        let output = Command::new(PROGRAM)
            // No port of the host leads in, and none of the house out, but those that were asked for.
            .args(["--config-net", "--quiet", "--no-netns-quit", "--no-map-gw"])
            .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
            .args(["--dns-forward", NAME_SERVER])
            .arg("--netns")
            .arg(&network)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let output = match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HouseError::NoPasta);
            }
            output => output.map_err(HouseError::system("start pasta"))?,
        };
        if !output.status.success() {
            return Err(HouseError::Pasta(said(&output.stderr)));
        }
        Pasta::find(folder).ok_or_else(|| HouseError::Pasta("it has ended at once".to_owned()))
    }

    /// One that runs, whoever has started it.
    pub(crate) fn find(folder: &Path) -> Option<Pasta> {
        let network = network_file(folder);
        let network = network.as_os_str().as_encoded_bytes();
        processes().find_map(|pid| {
            let ended = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let words = fs::read(process_folder(pid).join("cmdline")).ok()?;
            let mut words = words.split(|byte| *byte == 0);
            let is_pasta = words.next()?.ends_with(PROGRAM.as_bytes());
            let is_ours = is_pasta && words.any(|word| word == network);
            is_ours.then_some(Pasta { pid, ended })
        })
    }

    /// Ends it, and waits until it has.
    pub(crate) fn end(self) {
        let _ = pidfd_send_signal(&self.ended, Signal::TERM);
        let begin = Instant::now();
        let mut fds = [rustix::event::PollFd::new(
            &self.ended,
            rustix::event::PollFlags::IN,
        )];
        let timeout = rustix::event::Timespec {
            tv_sec: PATIENCE.as_secs() as i64,
            tv_nsec: 0,
        };
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        if begin.elapsed() >= PATIENCE {
            let _ = pidfd_send_signal(&self.ended, Signal::KILL);
        }
    }
}

/// What it complains about, in one line.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Failed to send"))
        .collect();
    let mut text = lines.join("; ");
    text.truncate(text.floor_char_boundary(words::LONGEST / 4));
    text
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn only_the_complaint_is_told() {
        let stderr = b"Failed to send 55 bytes to syslog\nCouldn't open network namespace /x\n";
        assert_eq!(said(stderr), "Couldn't open network namespace /x");
    }
}
