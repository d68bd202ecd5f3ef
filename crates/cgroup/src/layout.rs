//! Which hierarchies the host has, and where.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::Error;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Version of a hierarchy's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `Documentation/admin-guide/cgroup-v1/`
    V1,
    /// `Documentation/admin-guide/cgroup-v2.rst`
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V1 => "1",
            Version::V2 => "2",
        })
    }
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its controllers (`memory`, `cpu`, …), or `name=systemd` for a named one without any.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Does it have this controller? `""` asks for the version 2 hierarchy.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        (controller.is_empty() && self.version == Version::V2)
            || self.controllers.iter().any(|name| name == controller)
    }
}

/// All hierarchies of the host. Read once from `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Finds out what the host has.
    ///
    /// # Errors
    /// When `/proc/self/mountinfo` cannot be read, or no hierarchy is mounted.
    pub fn detect() -> Result<Layout, Error> {
        let mountinfo = std::fs::read(MOUNTINFO).map_err(|source| Error::Layout {
            path: MOUNTINFO,
            source,
        })?;
        let is_in_user_namespace = isle_sys::features::is_in_user_namespace();
        // A user namespace may hide the host's groups under another mount: instances run without one then.
        let mut layout = Layout::from_mountinfo(&mountinfo, |place, version| {
            !is_in_user_namespace || is_hierarchy(place, version)
        });
        if layout.hierarchies.is_empty() && !is_in_user_namespace {
            return Err(Error::NoHierarchy);
        }
        for hierarchy in &mut layout.hierarchies {
            if hierarchy.version == Version::V2 {
                let path = hierarchy.mount_point.join("cgroup.controllers");
                let controllers = std::fs::read_to_string(&path)
                    .map_err(|source| Error::Read { path, source })?;
                hierarchy.controllers = controllers.split_whitespace().map(str::to_owned).collect();
            }
        }
        Ok(layout)
    }

    /// A layout made by hand: for tests against a tree of plain files, and for hosts whose
    /// hierarchies are mounted elsewhere.
    #[must_use]
    pub fn new(hierarchies: Vec<Hierarchy>) -> Layout {
        Layout { hierarchies }
    }

    /// Parses proc_pid_mountinfo(5). The controllers of version 2 are not in there.
    fn from_mountinfo(mountinfo: &[u8], is_there: impl Fn(&Path, Version) -> bool) -> Layout {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.split(|&byte| byte == b'\n') {
            // 36 35 98:0 /root /mount/point options optional-fields... - type source super-options
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            let Some(separator) = fields.iter().position(|field| *field == b"-") else {
                continue;
            };
            let (Some(mount_point), Some(&kind), Some(&options)) = (
                fields.get(4),
                fields.get(separator + 1),
                fields.get(separator + 3),
            ) else {
                continue;
            };
            let version = match kind {
                b"cgroup" => Version::V1,
                b"cgroup2" => Version::V2,
                _ => continue,
            };
            let controllers: Vec<String> = match version {
                Version::V2 => Vec::new(),
                Version::V1 => String::from_utf8_lossy(options)
                    .split(',')
                    .filter(|option| {
                        option.starts_with("name=")
                            || !matches!(
                                *option,
                                "rw" | "ro"
                                    | "xattr"
                                    | "noprefix"
                                    | "clone_children"
                                    | "none"
                                    | "cpuset_v2_mode"
                                    | "favordynmods"
                            ) && !option.starts_with("release_agent=")
                    })
                    .map(str::to_owned)
                    .collect(),
            };
            let mount_point = unescape(mount_point);
            if !is_there(&mount_point, version) {
                continue;
            }
            let known = hierarchies
                .iter()
                .any(|other| other.version == version && other.controllers == controllers);
            // The same hierarchy can be mounted more than once (a container's /sys, say).
            if !known {
                hierarchies.push(Hierarchy {
                    version,
                    mount_point,
                    controllers,
                });
            }
        }
        Layout { hierarchies }
    }

    /// Every hierarchy, in the order of the mounts.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The hierarchy that has this controller (`""`: version 2).
    #[must_use]
    pub fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|hierarchy| hierarchy.has(controller))
    }

    /// The version of the hierarchy in which a controller is; `None`: the host has it not.
    #[must_use]
    pub fn version_of(&self, controller: &str) -> Option<Version> {
        self.hierarchy(controller)
            .map(|hierarchy| hierarchy.version)
    }

    /// Is this a host with version 2 alone?
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.hierarchies
            .iter()
            .all(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Can memory plus swap be limited? Version 1 kernels may have swap accounting switched off;
    /// Docker then limits memory alone and warns.
    #[must_use]
    pub fn limits_swap(&self) -> bool {
        match self.hierarchy("memory") {
            None => false,
            Some(hierarchy) if hierarchy.version == Version::V1 => hierarchy
                .mount_point
                .join("memory.memsw.limit_in_bytes")
                .exists(),
            // The root group has no limits; swap accounting cannot be switched off since Linux 6.1,
            // and a kernel without swap has no /proc/swaps.
            Some(_) => Path::new("/proc/swaps").exists(),
        }
    }

    /// Can block devices be shared by weight? Needs the BFQ scheduler, or io.cost in version 2.
    #[must_use]
    pub fn limits_io_weight(&self) -> bool {
        match self.hierarchy("blkio") {
            Some(hierarchy) => ["blkio.bfq.weight", "blkio.weight"]
                .iter()
                .any(|file| hierarchy.mount_point.join(file).exists()),
            None => self.hierarchy("io").is_some(),
        }
    }

    /// The calling process's own group in the hierarchy of a controller (`""`: version 2), below
    /// its root: where a user without privileges may make groups, if it was delegated.
    ///
    /// # Errors
    /// When `/proc/self/cgroup` cannot be read.
    pub fn own_group(&self, controller: &str) -> Result<Option<PathBuf>, Error> {
        let path = "/proc/self/cgroup";
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Layout { path, source })?;
        Ok(group_of(&text, controller))
    }
}

/// Whether what is to be seen at a place is such a hierarchy, see statfs(2).
fn is_hierarchy(place: &Path, version: Version) -> bool {
    let magic = match version {
        Version::V1 => 0x0027_e0eb,
        Version::V2 => 0x6367_7270,
    };
    rustix::fs::statfs(place).is_ok_and(|found| i128::from(found.f_type) == magic)
}

/// Parses proc_pid_cgroup(5): `hierarchy-id:controller-list:path`.
fn group_of(text: &str, controller: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers
            .split(',')
            .any(|name| name == controller)
            .then(|| PathBuf::from(path))
    })
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\' && tail.len() >= 3)
            .then(|| std::str::from_utf8(&tail[..3]).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(layout: &Layout) -> String {
        layout
            .hierarchies
            .iter()
            .map(|h| {
                format!(
                    "v{} {} {}\n",
                    h.version,
                    h.mount_point.display(),
                    h.controllers.join(",")
                )
            })
            .collect()
    }

    #[test]
    fn a_hybrid_host_has_version_1_hierarchies_and_an_empty_version_2_one() {
        let layout = Layout::from_mountinfo(
            b"25 1 0:22 / /sys rw - sysfs sysfs rw\n\
              32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
              35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
              40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd\n\
              41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n\
              90 31 0:32 / /srv/again rw,relatime - cgroup cgroup rw,memory\n",
            |_, _| true,
        );
        assert_eq!(
            render(&layout),
            "v1 /sys/fs/cgroup/cpu,cpuacct cpu,cpuacct\n\
             v1 /sys/fs/cgroup/memory memory\n\
             v1 /sys/fs/cgroup/systemd name=systemd\n\
             v2 /sys/fs/cgroup/unified \n"
        );
        assert!(!layout.is_unified());
        assert_eq!(layout.version_of("cpuacct"), Some(Version::V1));
        assert_eq!(layout.version_of("hugetlb"), None);
        assert_eq!(layout.version_of(""), Some(Version::V2));
    }

    #[test]
    fn a_unified_host_has_one_hierarchy() {
        let layout = Layout::from_mountinfo(
            b"32 31 0:29 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            |_, _| true,
        );
        assert_eq!(render(&layout), "v2 /sys/fs/cgroup \n");
        assert!(layout.is_unified());
    }

    #[test]
    fn escaped_mount_points_are_read() {
        assert_eq!(
            unescape(b"/a\\040b\\134c\\04"),
            PathBuf::from("/a b\\c\\04")
        );
    }

    #[test]
    fn the_own_group_is_found_by_controller() {
        let text = "9:name=systemd:/init\n4:memory:/a:b\n1:cpu,cpuacct:/\n0::/user.slice\n";
        assert_eq!(group_of(text, "memory"), Some("/a:b".into()));
        assert_eq!(group_of(text, "cpuacct"), Some("/".into()));
        assert_eq!(group_of(text, ""), Some("/user.slice".into()));
        assert_eq!(group_of(text, "pids"), None);
    }
}
