//! What is mounted, and where.

use std::collections::BTreeSet;

use super::{Checked, refuse};
use crate::config::{Mount, MountSource};
use crate::volume::{Backing, is_name};

/// Looks at the mounts of a configuration.
///
/// # Errors
/// The first that cannot be carried out.
pub(super) fn check(mounts: &[Mount]) -> Checked {
    const PROPAGATIONS: [&str; 6] = [
        "private", "rprivate", "shared", "rshared", "slave", "rslave",
    ];
    let mut targets = BTreeSet::new();
    for mount in mounts {
        let field = match mount.source {
            MountSource::Tmpfs { .. } => "--tmpfs",
            MountSource::Bind { .. } | MountSource::Volume(_) => "--volume",
        };
        let target = mount.target.as_str();
        if !target.starts_with('/') || target.contains('\0') {
            let reason = "the place inside must be an absolute path";
            return Err(refuse(field, target, reason, None));
        }
        if target == "/" {
            let reason = "the place inside cannot be the root";
            return Err(refuse(field, target, reason, None));
        }
        if target.split('/').any(|part| part == "..") {
            let reason = "the place inside must not have .. in it";
            return Err(refuse(field, target, reason, None));
        }
        if !targets.insert(target) {
            return Err(refuse(
                field,
                target,
                "duplicate mount point",
                Some("mount one of them elsewhere"),
            ));
        }
        match &mount.source {
            MountSource::Bind {
                path,
                create_source,
                propagation,
                non_recursive,
                writable_below,
            } => {
                if *writable_below && (!mount.read_only || *non_recursive) {
                    let reason = "it is about the mounts below one that is read-only";
                    let hint = Some("add readonly, and leave bind-nonrecursive out");
                    return Err(refuse("bind-recursive", "writable", reason, hint));
                }
                if !path.is_absolute() {
                    let reason = "the path on the host must be absolute";
                    let hint = Some("for a volume's name use letters, digits, _ . and - only");
                    return Err(refuse(field, path.display(), reason, hint));
                }
                if !create_source && std::fs::symlink_metadata(path).is_err() {
                    let reason = "there is no such file or directory on the host";
                    let hint = Some("make it first, or use -v, which makes a missing directory");
                    return Err(refuse("--mount", path.display(), reason, hint));
                }
                if let Some(propagation) = propagation
                    && !PROPAGATIONS.contains(&propagation.as_str())
                {
                    let reason = format!("a propagation is one of {}", PROPAGATIONS.join(", "));
                    return Err(refuse(field, propagation, reason, None));
                }
            }
            MountSource::Volume(volume) => {
                if let Some(name) = &volume.name
                    && !is_name(name)
                {
                    let reason = "a volume's name has letters, digits, _ . and - only, and begins \
                                  with a letter or digit";
                    let hint = Some("a folder of the host is given by its absolute path");
                    return Err(refuse(field, name, reason, hint));
                }
                Backing::parse(&volume.options)?;
                if let Some(subpath) = &volume.subpath
                    && !is_place_below(subpath)
                {
                    let reason = "it must be a relative path without .. in it";
                    return Err(refuse("volume-subpath", subpath, reason, None));
                }
            }
            MountSource::Tmpfs { options, mode, .. } => {
                tmpfs_options(target, options)?;
                if let Some(mode) = mode
                    && *mode > 0o7777
                {
                    let shown = format!("{mode:o}");
                    return Err(refuse("tmpfs-mode", shown, "it is not a mode", None));
                }
            }
        }
    }
    Ok(())
}

fn is_place_below(subpath: &str) -> bool {
    !subpath.is_empty()
        && !subpath.starts_with('/')
        && !subpath.contains(['\0', '\n'])
        && subpath.split('/').all(|part| part != "..")
}

fn tmpfs_options(target: &str, options: &[String]) -> Checked {
    const FLAGS: [&str; 18] = [
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "ro",
        "rw",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
    ];
    const VALUES: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    for option in options {
        let is_known = match option.split_once('=') {
            None => FLAGS.contains(&option.as_str()),
            Some((key, value)) => VALUES.contains(&key) && !value.is_empty(),
        };
        if !is_known {
            let reason = format!("tmpfs has no option {option:?}");
            return Err(refuse("--tmpfs", target, reason, Some("see tmpfs(5)")));
        }
    }
    Ok(())
}
