//! `/sys/fs/cgroup` inside, as the host has it: version 2, version 1, or both.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use isle_sys::launch::{MountSource, Step, Target};
use isle_sys::mount::{self, Attributes};

use super::mount_options::MountOptions;
use super::mounts::Context;
use super::need::{Need, Needs};
use crate::PlanError;

/// One hierarchy of the host.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// Empty: version 2.
    controllers: Vec<String>,
}

/// Reads `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = left.split(' ').nth(4) else {
            continue;
        };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1).unwrap_or(""));
        let controllers = match kind {
            Some("cgroup2") => Vec::new(),
            Some("cgroup") => options
                .split(',')
                .filter(|option| {
                    !matches!(
                        *option,
                        "rw" | "ro" | "noprefix" | "clone_children" | "cpuset_v2_mode" | "xattr"
                    ) && !option.starts_with("release_agent=")
                })
                .map(str::to_owned)
                .collect(),
            _ => continue,
        };
        let hierarchy = Hierarchy {
            mount_point: PathBuf::from(mount_point),
            controllers,
        };
        if !found
            .iter()
            .any(|other| other.controllers == hierarchy.controllers)
        {
            found.push(hierarchy);
        }
    }
    found
}

/// The steps for a mount of type `cgroup` at `target`.
pub(super) fn steps(
    target: &CStr,
    options: &MountOptions,
    context: &Context<'_>,
    needs: &mut Needs,
) -> Result<Vec<Step>, PlanError> {
    if context.is_for_guest {
        let only = Hierarchy {
            mount_point: PathBuf::from("/sys/fs/cgroup"),
            controllers: Vec::new(),
        };
        return from_hierarchies(&[only], target, options, context, needs);
    }
    let mountinfo =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(|source| PlanError::Read {
            what: "/proc/self/mountinfo".to_owned(),
            source,
        })?;
    from_hierarchies(&hierarchies(&mountinfo), target, options, context, needs)
}

fn from_hierarchies(
    hierarchies: &[Hierarchy],
    target: &CStr,
    options: &MountOptions,
    context: &Context<'_>,
    needs: &mut Needs,
) -> Result<Vec<Step>, PlanError> {
    let attributes = options.attributes.set | options.recursive_attributes.set;
    let mut one = |hierarchy: &Hierarchy, target: CString| {
        let source = if context.has_cgroup_namespace {
            let is_v2 = hierarchy.controllers.is_empty();
            let mut data = Vec::new();
            for controller in &hierarchy.controllers {
                let c = |text: &str| CString::new(text).unwrap_or_default();
                match controller.split_once('=') {
                    // a hierarchy without controllers is known by its name and "none"
                    Some((key, value)) => {
                        data.extend([(c("none"), None), (c(key), Some(c(value)))]);
                    }
                    None => data.push((c(controller), None)),
                }
            }
            MountSource::New {
                filesystem: if is_v2 { c"cgroup2" } else { c"cgroup" }.to_owned(),
                options: data,
                attributes,
            }
        } else {
            MountSource::Tree(needs.add(Need::CgroupTree {
                mount_point: hierarchy.mount_point.clone(),
                controller: hierarchy.controllers.first().cloned().unwrap_or_default(),
                attributes: Attributes::new(attributes, 0, mount::PRIVATE),
            }))
        };
        Step::Mount {
            source,
            target,
            kind: Target::Directory,
            attributes: Attributes::default(),
            recursive_attributes: Attributes::default(),
            copy_up: false,
        }
    };
    if let [only] = hierarchies
        && only.controllers.is_empty()
    {
        return Ok(vec![one(only, target.to_owned())]);
    }
    let mut steps = vec![Step::Mount {
        source: MountSource::New {
            filesystem: c"tmpfs".to_owned(),
            options: vec![
                (c"source".to_owned(), Some(c"tmpfs".to_owned())),
                (c"mode".to_owned(), Some(c"755".to_owned())),
            ],
            attributes: attributes & !mount::RDONLY,
        },
        target: target.to_owned(),
        kind: Target::Directory,
        attributes: Attributes::default(),
        recursive_attributes: Attributes::default(),
        copy_up: false,
    }];
    for hierarchy in hierarchies {
        let name = hierarchy.mount_point.file_name().unwrap_or_default();
        let below = |name: &[u8]| {
            let path = [target.to_bytes(), b"/", name].concat();
            CString::new(path)
                .map_err(|_| PlanError::invalid("mounts", "cgroup", "it holds a NUL byte"))
        };
        steps.push(one(hierarchy, below(name.as_bytes())?));
        if hierarchy.controllers.len() > 1 {
            for controller in &hierarchy.controllers {
                steps.push(Step::Link {
                    target: CString::new(name.as_bytes()).unwrap_or_default(),
                    path: below(controller.as_bytes())?,
                });
            }
        }
    }
    if attributes & mount::RDONLY != 0 {
        steps.push(Step::SetAttributes {
            path: target.to_owned(),
            attributes: Attributes::new(mount::RDONLY, 0, 0),
            recursive_attributes: Attributes::default(),
        });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_with_their_controllers() {
        let found = hierarchies(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        let all: Vec<(&str, String)> = found
            .iter()
            .map(|h| (h.mount_point.to_str().unwrap(), h.controllers.join("+")))
            .collect();
        assert_eq!(
            all,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu+cpuacct".to_owned()),
                ("/sys/fs/cgroup/systemd", "name=systemd".to_owned()),
                ("/sys/fs/cgroup/unified", String::new())
            ]
        );
    }

    #[test]
    fn version_two_alone_is_one_mount() {
        let host = [Hierarchy {
            mount_point: PathBuf::from("/sys/fs/cgroup"),
            controllers: Vec::new(),
        }];
        let context = Context {
            bundle: std::path::Path::new("/"),
            has_device_nodes: true,
            has_cgroup_namespace: true,
            is_for_guest: false,
            mappings: None,
            label: None,
        };
        let steps = from_hierarchies(
            &host,
            c"sys/fs/cgroup",
            &MountOptions::default(),
            &context,
            &mut Needs::default(),
        )
        .unwrap();
        let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["mount cgroup2 on /sys/fs/cgroup"]);
    }
}
