//! The ends of children: those of tasks, and all that have lost their parents.

use std::io::{Read, Seek};

use isle_guest_protocol::{End, Ended, Failure, FailureKind, MAX_FAILURE, WORKLOAD};
use rustix::process::{WaitOptions, WaitStatus, wait};

use crate::{Agent, control_group};

impl Agent {
    /// Collects all that have ended.
    pub(crate) fn collect(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let task = self.tasks.iter().find(|(_, task)| task.pid == pid);
            if let Some((&id, _)) = task {
                self.ended(id, status);
            }
        }
    }

    /// Lets all processes of the instance stand still, but not those of the agent.
    pub(crate) fn freeze(&self) -> Result<(), isle_cgroup::Error> {
        let cgroup = self.place.cgroup.as_ref();
        cgroup.map_or(Ok(()), isle_cgroup::Cgroup::freeze)
    }

    /// Lets them go on, once no task wants them to stand still.
    pub(crate) fn thaw_unless_wanted(&self) {
        if let Some(cgroup) = &self.place.cgroup
            && !self.tasks.values().any(|task| task.freezes)
        {
            // One that is not frozen is none the worse for it.
            let _ = cgroup.thaw();
        }
    }

    fn ended(&mut self, id: u32, status: WaitStatus) {
        let memory = control_group::out_of_memory(self.place.cgroup.as_ref());
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        task.pid = 0;
        let froze = std::mem::take(&mut task.freezes);
        let end = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Code(code as u8),
            (None, Some(signal)) => End::Signal(signal as u8),
            (None, None) => return,
        };
        let is_killed = end == End::Signal(9) && !task.was_killed;
        let out_of_memory =
            (is_killed && memory.kills > self.oom_kills).then(|| control_group::whose(memory));
        let end = match &mut task.complaint {
            Some(complaint) => outcome(end, complaint),
            None => end,
        };
        self.oom_kills = memory.kills;
        task.ended = Some(Ended {
            end,
            oom_kills: memory.kills,
            out_of_memory,
        });
        for output in [&mut task.stdout, &mut task.stderr].into_iter().flatten() {
            output.drain(&self.epoll, &mut self.buffer);
        }
        task.stdin = None;
        if id == WORKLOAD {
            self.workload = None;
        }
        if froze {
            self.thaw_unless_wanted();
        }
    }
}

/// How a helper has ended: what it has said went wrong.
fn outcome(end: End, complaint: &mut std::fs::File) -> End {
    if end == End::Code(0) {
        return End::Done;
    }
    let mut said = Vec::new();
    let _ = complaint.rewind();
    let _ = complaint.take(MAX_FAILURE as u64).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    let kind = match end {
        End::Code(2) => FailureKind::NoSuchPath,
        End::Code(3) => FailureKind::NotADirectory,
        End::Code(4) => FailureKind::ReadOnly,
        _ => FailureKind::Failed,
    };
    let message = match (said.trim(), end) {
        ("", End::Signal(signal)) => format!("it was ended by signal {signal}"),
        ("", _) => "it has failed and not said why".to_owned(),
        (said, _) => said.to_owned(),
    };
    End::Failed(Failure::new(kind, message))
}
