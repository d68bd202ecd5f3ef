//! Who takes part, and in which version.

use std::path::PathBuf;
use std::process::Command;

/// `isle` or `isle-oci`, as `cargo xtask bench` built it.
pub fn isle(name: &str, variable: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from(name), PathBuf::from)
}

/// One line for the head of the report.
pub fn versions() -> String {
    let programs = ["crun", "runc", "podman", "docker", "dockerd"];
    let versions: Vec<String> = programs
        .iter()
        .filter_map(|program| {
            let output = Command::new(program).arg("--version").output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().next().map(str::to_owned)
        })
        .collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}; Linux {}; {} CPUs",
        versions.join("; "),
        kernel.trim(),
        std::thread::available_parallelism().map_or(0, usize::from)
    )
}
