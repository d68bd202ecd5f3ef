//! The file system under the state root.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};

use crate::{Check, Section, State};

const SECTION: Section = Section::Storage;

pub(crate) fn checks(root: &Path) -> Vec<Check> {
    // The state root may not be there yet: what it will be made in counts.
    let place = root.ancestors().find(|path| path.is_dir());
    let Some(place) = place else {
        return vec![
            Check::ok(
                SECTION,
                "state root",
                format!("{}: not there", root.display()),
            )
            .or_state(false, State::Missing)
            .meaning("images, instances and their files", &["container"])
            .remedy("give another one with --root"),
        ];
    };
    vec![kind(root, place), space(place), upper(place), quota(place)]
}

/// `f_type` of statfs(2) in words.
fn file_system_name(kind: u64) -> &'static str {
    match kind {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0xca45_1a4e => "bcachefs",
        _ => "another file system",
    }
}

fn kind(root: &Path, place: &Path) -> Check {
    let check = match rustix::fs::statfs(place) {
        Ok(stat) => {
            #[allow(
                clippy::unnecessary_cast,
                clippy::cast_sign_loss,
                reason = "differs by machine"
            )]
            let name = file_system_name(stat.f_type as u64);
            Check::ok(
                SECTION,
                "state root",
                format!("{} on {name}", root.display()),
            )
        }
        Err(errno) => Check::ok(
            SECTION,
            "state root",
            format!("{}: {errno}", place.display()),
        )
        .or_state(false, State::Unusable),
    };
    let is_writable = rustix::fs::access(place, rustix::fs::Access::WRITE_OK).is_ok();
    let check = check.or_state(is_writable, State::Unusable);
    check
        .meaning("images, instances and their files", &["container", "vm"])
        .remedy("make it writable for this user, or give another one with --root")
}

fn space(place: &Path) -> Check {
    const ENOUGH: u64 = 1 << 30;
    let check = match rustix::fs::statvfs(place) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let files = stat.f_favail;
            // Some file systems make inodes as they need them and say 0 of 0.
            let has_files = stat.f_files == 0 || files > 10_000;
            Check::ok(
                SECTION,
                "free space",
                format!("{:.1} GiB, {files} files", free as f64 / ENOUGH as f64),
            )
            .or_state(free >= ENOUGH && has_files, State::Unusable)
        }
        Err(errno) => {
            Check::ok(SECTION, "free space", errno.to_string()).or_state(false, State::Unusable)
        }
    };
    check
        .meaning(
            "images and the files that instances write",
            &["container", "vm"],
        )
        .remedy("isle image prune, or a larger file system (--root)")
}

/// Directories of a probe, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(place: &Path) -> std::io::Result<Scratch> {
        let path = place.join(format!(".isle-doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a file system that went read-only meanwhile keeps an empty directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn upper(place: &Path) -> Check {
    let name = "overlay upper directory";
    match try_upper(place) {
        Ok(()) => Check::ok(SECTION, name, "works"),
        Err(error) => Check::ok(SECTION, name, error.to_string()).or_state(false, State::Unusable),
    }
    .meaning("instances write into a layer of their own above the image", &["container"])
    .remedy("put the state root on ext4, xfs, btrfs or tmpfs (--root); overlayfs and NFS cannot be written above")
}

/// Makes an overlay without mounting it anywhere: the kernel checks everything when it is created.
fn try_upper(place: &Path) -> std::io::Result<()> {
    let scratch = Scratch::new(place)?;
    let directory = |name: &str| {
        let path = scratch.0.join(name);
        fs::create_dir(&path).map(|()| path)
    };
    let (lower, upper, work) = (directory("lower")?, directory("upper")?, directory("work")?);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "lowerdir", lower.as_path())?;
    fsconfig_set_string(&context, "upperdir", upper.as_path())?;
    fsconfig_set_string(&context, "workdir", work.as_path())?;
    fsconfig_create(&context)?;
    Ok(())
}

fn quota(place: &Path) -> Check {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let options = place
        .canonicalize()
        .ok()
        .and_then(|place| super_options(&mountinfo, &place));
    let has_quota = options.as_deref().is_some_and(|options| {
        options
            .split(',')
            .any(|o| matches!(o, "prjquota" | "pquota"))
    });
    let found = if has_quota {
        "project quotas are on"
    } else {
        "project quotas are off"
    };
    Check::ok(SECTION, "disk quota", found)
        .or_state(has_quota, State::Missing)
        .meaning("--storage-opt size: a limit for what one instance writes", &["--storage-opt size"])
        .remedy("mount the state root's ext4 or xfs with prjquota (ext4: tune2fs -O project,quota first)")
}

/// The super block's options of the mount that holds a path, proc_pid_mountinfo(5).
fn super_options(mountinfo: &str, path: &Path) -> Option<String> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            path.starts_with(point)
                .then(|| (point.len(), file_system.split(' ').nth(2)))
        })
        // The deepest mount point, and the last mounted on it.
        .max_by_key(|(length, _)| *length)
        .and_then(|(_, options)| options.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts() {
        let mountinfo = "1 0 8:1 / / rw - ext4 /dev/a rw,errors=x\n\
                         2 1 8:2 / /var/lib rw - xfs /dev/b rw,prjquota\n";
        let of = |path: &str| super_options(mountinfo, Path::new(path));
        assert_eq!(of("/var/lib/isle").as_deref(), Some("rw,prjquota"));
        assert_eq!(of("/var/library").as_deref(), Some("rw,errors=x"));
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let place = tempfile::tempdir().unwrap();
        let checks = checks(&place.path().join("state"));
        assert_eq!(checks.len(), 4);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
