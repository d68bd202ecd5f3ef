//! The disks of the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The node of the whole disk that a path is on, like `/dev/sda`; `None` when it is on none.
#[must_use]
pub fn disk_below(path: &Path) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    let number = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let mut folder = fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    if folder.join("partition").exists() {
        folder = folder.parent()?.to_owned();
    }
    let node = format!("/dev/{}", folder.file_name()?.to_str()?);
    fs::metadata(&node).is_ok().then_some(node)
}
