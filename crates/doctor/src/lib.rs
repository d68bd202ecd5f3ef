//! What this host can do, and the remedy for each thing missing.
//!
//! [`examine`] looks by doing: a feature counts as there when the kernel carries it out, not when
//! a version number suggests it. It changes nothing on the host and leaves nothing behind: what it
//! makes to try (an overlay that is mounted nowhere, interfaces in a network namespace of its own, a
//! virtual machine of 20 instructions, empty directories in the state root) is gone when it returns.
//!
//! ```no_run
//! let report = isle_doctor::examine("/var/lib/isle".as_ref());
//! for check in &report.checks {
//!     println!("{}: {} ({})", check.name, check.state.word(), check.found);
//! }
//! ```

#![forbid(unsafe_code)]

mod cgroups;
mod check;
mod host;
mod kernel;
mod levels;
mod network;
mod privileges;
mod programs;
mod report;
mod storage;
mod virtualization;

use std::path::Path;

pub use report::{Check, FORMAT, Host, Level, Report, Section, State};

/// What the host can do, without looking closer than that needs: no program is executed.
#[must_use]
pub fn levels_of(root: &Path) -> Vec<Level> {
    let mut checks = kernel::checks();
    checks.extend(cgroups::checks());
    checks.extend(privileges::checks());
    checks.extend(storage::checks(root));
    checks.extend(virtualization::checks(root));
    checks.extend(programs::presence());
    levels::levels(&checks)
}

/// Examines the host. `root` is the state root, there or not yet.
///
/// What cannot be found out is said in the check concerned; so there is no error. Takes some tens
/// of milliseconds, most of them for the versions of programs.
#[must_use]
pub fn examine(root: &Path) -> Report {
    let mut checks = kernel::checks();
    checks.extend(cgroups::checks());
    checks.extend(privileges::checks());
    checks.extend(storage::checks(root));
    checks.extend(network::checks());
    checks.extend(virtualization::checks(root));
    checks.extend(programs::checks());
    let levels = levels::levels(&checks);
    Report {
        format: FORMAT,
        host: host::host(),
        checks,
        levels,
    }
}
