//! What QEMU tells without being asked.
//! <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>

use serde_json::Value;

/// An event of the QEMU Machine Protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `SHUTDOWN`: the machine is off; QEMU ends.
    Shutdown {
        /// The guest wanted it.
        by_guest: bool,
        /// QEMU's word for why: `guest-shutdown`, `guest-reset` (a kernel that panics resets, too),
        /// `guest-panic`, `host-qmp-quit`, `host-signal`, …
        reason: String,
    },
    /// `RESET`
    Reset {
        /// The guest wanted it.
        by_guest: bool,
    },
    /// `STOP`: no virtual processor runs.
    Stop,
    /// `RESUME`: they run.
    Resume,
    /// `GUEST_PANICKED`: the guest's kernel said so by a device for it.
    GuestPanicked {
        /// What QEMU does: `pause`, `poweroff`, `run`.
        action: String,
    },
    /// `BLOCK_IO_ERROR`: a disk of the host failed.
    BlockError {
        /// The node, like `disk1`.
        node: String,
        /// `read` or `write`.
        operation: String,
        /// What QEMU does: `ignore`, `report` (to the guest), `stop`.
        action: String,
        /// There is no room left.
        is_full: bool,
        /// Why, in words.
        reason: String,
    },
    /// `BALLOON_CHANGE`: the guest has this much memory now.
    Balloon {
        /// Bytes.
        actual_bytes: u64,
    },
    /// `MIGRATION`: how loading or saving the state goes.
    Migration {
        /// QEMU's word: `setup`, `active`, `completed`, `failed`, …
        status: String,
    },
    /// Any other.
    Other {
        /// Its name.
        name: String,
    },
}

impl Event {
    /// From a message with the key `event`.
    pub(super) fn from_message(name: &str, data: &Value) -> Event {
        let word = |key: &str| {
            data.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let is = |key: &str| data.get(key).and_then(Value::as_bool).unwrap_or(false);
        match name {
            "SHUTDOWN" => Event::Shutdown {
                by_guest: is("guest"),
                reason: word("reason"),
            },
            "RESET" => Event::Reset {
                by_guest: is("guest"),
            },
            "STOP" => Event::Stop,
            "RESUME" => Event::Resume,
            "GUEST_PANICKED" => Event::GuestPanicked {
                action: word("action"),
            },
            "BLOCK_IO_ERROR" => Event::BlockError {
                node: word("node-name"),
                operation: word("operation"),
                action: word("action"),
                is_full: is("nospace"),
                reason: word("reason"),
            },
            "BALLOON_CHANGE" => Event::Balloon {
                actual_bytes: data.get("actual").and_then(Value::as_u64).unwrap_or(0),
            },
            "MIGRATION" => Event::Migration {
                status: word("status"),
            },
            name => Event::Other {
                name: name.to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let data = json!({"device": "", "node-name": "disk1", "operation": "write",
            "action": "stop", "nospace": true, "reason": "No space left on device"});
        let Event::BlockError { node, is_full, .. } = Event::from_message("BLOCK_IO_ERROR", &data)
        else {
            panic!("another event");
        };
        assert_eq!((node.as_str(), is_full), ("disk1", true));
    }

    #[test]
    fn what_is_not_known_keeps_its_name() {
        let event = Event::from_message("RTC_CHANGE", &Value::Null);
        assert_eq!(
            event,
            Event::Other {
                name: "RTC_CHANGE".to_owned()
            }
        );
    }
}
