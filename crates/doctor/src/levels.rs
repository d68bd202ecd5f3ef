//! From checks to levels of isolation.

use crate::virtualization::{KERNEL, KVM};
use crate::{Check, Level, Section, State, kernel, programs};

pub(crate) fn levels(checks: &[Check]) -> Vec<Level> {
    vec![container(checks), sandbox(checks), vm(checks), wasm()]
}

/// What a container cannot do without: everything of these sections that says so.
fn container(checks: &[Check]) -> Level {
    const REQUIRED: [&str; 12] = [
        "openat2(2)",
        "clone3(2) into a control group",
        "pidfd_open(2)",
        "new mount API",
        "mount_setattr(2), idmapped mounts",
        kernel::OVERLAY,
        "mount, PID, IPC, UTS, network namespaces",
        "seccomp filters",
        "hierarchies",
        "user",
        "capabilities",
        "overlay upper directory",
    ];
    let notes: Vec<String> = checks
        .iter()
        .filter(|check| REQUIRED.contains(&check.name.as_str()) && check.state != State::Ok)
        .map(|check| format!("{}: {}", check.name, check.found))
        .collect();
    Level {
        isolation: "container".to_owned(),
        is_available: notes.is_empty(),
        is_host_ready: notes.is_empty(),
        notes,
    }
}

const NOT_YET: &str = "this version of Isle cannot run it yet";

fn is_ok(checks: &[Check], section: Section, name: &str) -> bool {
    checks
        .iter()
        .any(|check| check.section == section && check.name == name && check.state == State::Ok)
}

fn sandbox(checks: &[Check]) -> Level {
    let has_runsc = is_ok(checks, Section::Programs, "runsc");
    let mut notes = vec![NOT_YET.to_owned()];
    if !has_runsc {
        notes.push("runsc (gVisor) is not installed".to_owned());
    }
    Level {
        isolation: "sandbox".to_owned(),
        is_available: false,
        is_host_ready: has_runsc,
        notes,
    }
}

fn vm(checks: &[Check]) -> Level {
    let mut notes = Vec::new();
    let mut is_host_ready = true;
    for name in [programs::QEMU, "mkfs.erofs", "mke2fs"] {
        if !is_ok(checks, Section::Programs, name) {
            is_host_ready = false;
            notes.push(format!("{name} is not installed"));
        }
    }
    if !is_ok(checks, Section::Virtualization, KERNEL) {
        is_host_ready = false;
        notes.push("no guest kernel: isle kernel install, or isle kernel build".to_owned());
    }
    if !is_ok(checks, Section::Virtualization, KVM) {
        notes.push(
            "without usable KVM: software emulation, for compatibility, no security boundary"
                .to_owned(),
        );
    }
    Level {
        isolation: "vm".to_owned(),
        is_available: is_host_ready,
        is_host_ready,
        notes,
    }
}

fn wasm() -> Level {
    Level {
        isolation: "wasm".to_owned(),
        is_available: false,
        is_host_ready: true,
        notes: vec![NOT_YET.to_owned()],
    }
}
