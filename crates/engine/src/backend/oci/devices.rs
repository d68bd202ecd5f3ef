//! Device nodes inside, and what the device cgroup allows.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};

use crate::config::Device;

/// A node that the container gets, with what it may do with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) device: LinuxDevice,
    pub(crate) permissions: String,
}

/// What every container may use, as runc's `specconv.AllowedDevices`: any node may be made, and
/// `null zero full random urandom tty`, `console`, `ptmx` and terminals may be used.
pub(crate) fn default_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{B, C};
    vec![
        rule(false, None, None, None, "rwm"),
        rule(true, Some(C), None, None, "m"),
        rule(true, Some(B), None, None, "m"),
        rule(true, Some(C), Some(1), Some(3), "rwm"),
        rule(true, Some(C), Some(1), Some(5), "rwm"),
        rule(true, Some(C), Some(1), Some(7), "rwm"),
        rule(true, Some(C), Some(1), Some(8), "rwm"),
        rule(true, Some(C), Some(1), Some(9), "rwm"),
        rule(true, Some(C), Some(5), Some(0), "rwm"),
        rule(true, Some(C), Some(5), Some(1), "rwm"),
        rule(true, Some(C), Some(5), Some(2), "rwm"),
        rule(true, Some(C), Some(136), None, "rwm"),
    ]
}

/// Everything, for a privileged container.
pub(crate) fn allow_all() -> Vec<LinuxDeviceCgroup> {
    vec![rule(true, None, None, None, "rwm")]
}

/// What lets a container use one node.
pub(crate) fn allow(node: &Node) -> LinuxDeviceCgroup {
    rule(
        true,
        Some(node.device.typ()),
        Some(node.device.major()),
        Some(node.device.minor()),
        &node.permissions,
    )
}

fn rule(
    is_allowed: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(is_allowed)
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// The nodes that one `--device` means: the node itself, or all nodes below a directory.
///
/// # Errors
/// When it is not there, or is neither.
pub(crate) fn resolve(device: &Device) -> io::Result<Vec<Node>> {
    let metadata = fs::metadata(&device.host_path)?;
    if !metadata.is_dir() {
        let node = node(&metadata, device.path.clone(), &device.permissions);
        return node
            .map(|node| vec![node])
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is not a device node"));
    }
    let mut nodes = Vec::new();
    walk(
        &device.host_path,
        &device.path,
        &device.permissions,
        &mut nodes,
    )?;
    match nodes.is_empty() {
        false => Ok(nodes),
        true => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "there is no device node in this directory",
        )),
    }
}

/// All nodes of the host's `/dev`, for a privileged container.
pub(crate) fn of_host() -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    walk(Path::new("/dev"), Path::new("/dev"), "rwm", &mut nodes)?;
    // The container has a console, terminals and message queues of its own.
    nodes.retain(|node| node.device.path() != Path::new("/dev/console"));
    Ok(nodes)
}

fn walk(host: &Path, inside: &Path, permissions: &str, nodes: &mut Vec<Node>) -> io::Result<()> {
    const OF_THE_CONTAINER: [&str; 4] = ["pts", "shm", "fd", "mqueue"];
    let mut entries = fs::read_dir(host)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Ok(metadata) = entry.metadata() else {
            // Nodes come and go.
            continue;
        };
        let inside = inside.join(&name);
        if metadata.is_dir() {
            if !OF_THE_CONTAINER.iter().any(|known| name == *known) {
                walk(&entry.path(), &inside, permissions, nodes)?;
            }
        } else if let Some(node) = node(&metadata, inside, permissions) {
            nodes.push(node);
        }
    }
    Ok(())
}

fn node(metadata: &fs::Metadata, path: PathBuf, permissions: &str) -> Option<Node> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let number = metadata.rdev();
    let device = LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(rustix::fs::major(number))
        .minor(rustix::fs::minor(number))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .expect("all fields are given");
    Some(Node {
        device,
        permissions: permissions.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str) -> Device {
        Device {
            host_path: path.into(),
            path: "/dev/inside".into(),
            permissions: "rw".to_owned(),
        }
    }

    #[test]
    fn a_node_keeps_its_numbers_and_owner() {
        let nodes = resolve(&device("/dev/null")).unwrap();
        let [node] = nodes.as_slice() else {
            panic!("{nodes:?}")
        };
        assert_eq!((node.device.major(), node.device.minor()), (1, 3));
        assert_eq!(node.device.path(), Path::new("/dev/inside"));
        assert_eq!(allow(node).to_string(), "c 1:3 rw");
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for path in ["/etc/passwd", "/etc", "/nowhere"] {
            resolve(&device(path)).expect_err(path);
        }
    }

    #[test]
    fn the_hosts_devices_leave_out_terminals_of_the_container() {
        let nodes = of_host().unwrap();
        let has = |path: &str| nodes.iter().any(|n| n.device.path() == Path::new(path));
        assert!(has("/dev/null"));
        assert!(!has("/dev/console"));
        assert!(!has("/dev/pts/0"));
    }
}
