//! When the agent cannot go on: the host hears why, and the guest is switched off.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use isle_guest_protocol::frame::{self, kind};
use isle_guest_protocol::{Failure, FailureKind};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::system::{RebootCommand, reboot};

static PORT: OnceLock<OwnedFd> = OnceLock::new();

/// Where last words go beside the console.
pub(crate) fn set_port(port: OwnedFd) {
    // There is one port.
    let _ = PORT.set(port);
}

/// Says why, everywhere, and switches the guest off.
pub(crate) fn speak(reason: &str) -> ! {
    let line = format!("isle-guest: {reason}\n");
    for console in ["/dev/kmsg", "/dev/console"] {
        let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if let Ok(console) = openat(CWD, console, flags, Mode::empty()) {
            let _ = rustix::io::write(console, line.as_bytes());
        }
    }
    if let Some(port) = PORT.get() {
        let reason = Failure::new(FailureKind::Failed, reason.to_owned()).message;
        let mut bytes = Vec::new();
        frame::put(&mut bytes, kind::LAST_WORDS, 0, reason.as_bytes());
        // When frames wait before it, the host hears this only if they are whole; the console has it in any case.
        let _ = rustix::io::write(port, &bytes);
    }
    switch_off()
}

/// Switches the guest off. Where nothing can switch the power off (no ACPI), the virtual machine ends when the guest
/// wants to boot again: QEMU runs with `-no-reboot`.
pub(crate) fn switch_off() -> ! {
    rustix::fs::sync();
    let command = match std::path::Path::new("/sys/firmware/acpi/tables").exists() {
        true => RebootCommand::PowerOff,
        false => RebootCommand::Restart,
    };
    let _ = reboot(command);
    // It was refused: this is no guest. The end of the first process is the end of all.
    std::process::exit(1)
}

/// A panic of the first process would be one of the kernel, which says nothing about its reason.
pub(crate) fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        speak(&format!("the agent has failed: {panic}"));
    }));
}
