//! How a machine ends, and why it has.

use std::time::Duration;

use isle_guest::{Connection, Error};
use isle_qemu::{Ended, Vm};

/// How long a guest may take to say that it has killed a process, before it is ended itself.
const KILL_PATIENCE: Duration = Duration::from_secs(3);
/// How long QEMU may take to end after its sockets have.
pub const END: Duration = Duration::from_millis(200);

/// Kills the process of a task. No process can escape it, and neither can a guest that hangs: `true` when it does not answer, and its
/// machine is to be ended. The guest has `patience` again afterwards.
pub fn kill(guest: &mut Connection, task: u32, patience: Duration) -> bool {
    guest.set_patience(KILL_PATIENCE);
    let killed = guest.kill(task);
    guest.set_patience(patience);
    matches!(killed, Err(Error::NoAnswer { .. }))
}

/// What QEMU has said before its end, when it has said something.
#[must_use]
pub fn last_words(machine: &Vm) -> Option<String> {
    let said = machine.said();
    let said = said.trim();
    (!said.is_empty()).then(|| said.to_owned())
}

/// Why a machine is off, as far as QEMU or its end tell.
pub fn why_off(machine: &mut Vm) -> Option<String> {
    let ended = machine.has_ended(END)?;
    match (machine.why_off().as_deref(), ended) {
        (Some("guest-reset" | "guest-panic"), _) => {
            Some("the guest's kernel has panicked, or was told to start again".to_owned())
        }
        (Some("guest-shutdown"), _) => Some("it was switched off from inside".to_owned()),
        (_, Ended::Signal(number)) => Some(format!("QEMU was ended by signal {number}")),
        (_, Ended::Code(_)) => None,
    }
}
