//! Runs the health check, as an exec of its own, and acts on the verdict.

use std::os::fd::OwnedFd;
use std::time::Instant;

use isle_types::Signal;
use jiff::Timestamp;

use super::health::OUTPUT_KEPT;
use super::ledger::Note;
use super::owner::Supervisor;
use super::poller::{Interest, Token};
use super::streams::{self, Got};
use crate::ExecRequest;
use crate::backend::{Ended, Process, StartError, Stdio};
use crate::config::OnUnhealthy;
use crate::state::{HealthResult, HealthStatus};

/// A health check that runs at this moment.
#[derive(Debug)]
pub(super) struct RunningCheck {
    process: Process,
    output: Option<OwnedFd>,
    text: Vec<u8>,
    start: Timestamp,
    /// When it has failed because it takes too long; `None` once it was killed for that.
    pub(super) deadline: Option<Instant>,
    is_late: bool,
}

impl Supervisor {
    pub(super) fn begin_check(&mut self) {
        let Some(monitor) = &mut self.monitor else {
            return;
        };
        if self.state.status == crate::state::Status::Paused {
            // A frozen instance is neither healthy nor ill: look again later.
            if let Some(health) = &self.state.health {
                monitor.schedule(health, Instant::now());
            }
            return;
        }
        monitor.due = None;
        let request = ExecRequest {
            args: monitor.args(),
            ..ExecRequest::default()
        };
        let timeout = monitor.check().timeout;
        let start = Timestamp::now();
        match self.execute_check(&request) {
            Ok((process, output)) => {
                self.check = Some(RunningCheck {
                    process,
                    output: Some(output),
                    text: Vec::new(),
                    start,
                    deadline: match timeout.is_zero() {
                        true => None,
                        false => Instant::now().checked_add(timeout),
                    },
                    is_late: false,
                });
            }
            Err(error) => self.take_result(start, -1, error.message),
        }
    }

    fn execute_check(&mut self, request: &ExecRequest) -> Result<(Process, OwnedFd), StartError> {
        let cannot = || super::life::cannot("make the streams of a health check");
        let (ours, theirs) = streams::pipe(true).map_err(cannot())?;
        let stdio = Stdio::Streams {
            stdin: streams::null().map_err(cannot())?,
            stdout: theirs.try_clone().map_err(cannot())?,
            stderr: theirs,
        };
        let process = self.backend.exec(request, stdio)?;
        let watch = |fd: &OwnedFd, token| self.poller.add(fd, token, Interest::READ);
        let watched = watch(&process.ended, Token::CheckEnded)
            .and_then(|()| watch(&ours, Token::CheckOutput));
        watched.map_err(cannot())?;
        Ok((process, ours))
    }

    pub(super) fn read_check_output(&mut self) {
        let Some(check) = &mut self.check else { return };
        let mut bytes = [0; 4096];
        while let Some(output) = &check.output {
            match streams::read(output, &mut bytes) {
                Got::Bytes(count) => {
                    let room = OUTPUT_KEPT - check.text.len();
                    check.text.extend_from_slice(&bytes[..count.min(room)]);
                }
                Got::Nothing => return,
                Got::End => {
                    if let Some(output) = check.output.take() {
                        self.poller.remove(output);
                    }
                }
            }
        }
    }

    pub(super) fn check_timed_out(&mut self) {
        let Some(check) = &mut self.check else { return };
        check.deadline = None;
        check.is_late = true;
        if let Err(error) = self.backend.signal(&check.process, Signal::KILL) {
            self.complain("kill a health check", &error);
        }
    }

    pub(super) fn check_ended(&mut self) {
        self.read_check_output();
        let Some(check) = self.check.take() else {
            return;
        };
        self.poller.remove(&check.process.ended);
        if let Some(output) = &check.output {
            self.poller.remove(output);
        }
        let code = match self.backend.reap(&check.process) {
            Ok(Ended::Code(code)) => i32::from(code),
            Ok(Ended::Signal(signal)) => 128 + signal.number(),
            Ok(Ended::Unknown | Ended::Crashed(_)) => -1,
            Err(error) => {
                self.complain("collect a health check", &error);
                -1
            }
        };
        let timeout = self.monitor.as_ref().map(|m| m.check().timeout);
        match check.is_late {
            true => {
                let seconds = timeout.unwrap_or_default().as_secs_f64();
                let text = format!("the health check took longer than {seconds} s");
                self.take_result(check.start, -1, text);
            }
            false => {
                let text = String::from_utf8_lossy(&check.text).into_owned();
                self.take_result(check.start, code, text);
            }
        }
    }

    /// The instance has ended, and its health check with it.
    pub(super) fn drop_check(&mut self) {
        if let Some(check) = self.check.take() {
            self.poller.remove(&check.process.ended);
            if let Some(output) = &check.output {
                self.poller.remove(output);
            }
            let _ = self.backend.signal(&check.process, Signal::KILL);
            self.collect_later(check.process);
        }
    }

    fn take_result(&mut self, start: Timestamp, exit_code: i32, output: String) {
        let now = Instant::now();
        let (Some(monitor), Some(health)) = (&mut self.monitor, &mut self.state.health) else {
            return;
        };
        let result = HealthResult {
            start,
            end: Timestamp::now(),
            exit_code,
            output,
        };
        let verdict = monitor.take(health, result, now);
        monitor.schedule(health, now);
        let on_unhealthy = monitor.check().on_unhealthy;
        if let Some(verdict) = verdict {
            let word = match verdict {
                HealthStatus::Starting => "starting",
                HealthStatus::Healthy => "healthy",
                HealthStatus::Unhealthy => "unhealthy",
            };
            self.notes.push(Note::new(format!("health_status: {word}")));
        }
        self.save();
        if verdict != Some(HealthStatus::Unhealthy) {
            return;
        }
        // It is ending by the user's wish: a check that failed on the way must not start it again.
        if self.state.is_stopped_by_user {
            return;
        }
        let (signal, timeout) = (self.settings.stop_signal, self.settings.stop_timeout);
        match on_unhealthy {
            OnUnhealthy::None => {}
            OnUnhealthy::Kill => self.kill_now(),
            OnUnhealthy::Restart => {
                self.start_again = true;
                self.begin_stop(signal, timeout);
            }
            OnUnhealthy::Stop => {
                self.state.is_stopped_by_user = true;
                self.begin_stop(signal, timeout);
            }
        }
    }
}
