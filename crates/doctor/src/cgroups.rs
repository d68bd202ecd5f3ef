//! Control groups: where they are, and what they can limit.

use isle_cgroup::{Layout, Version};
use rustix::fs::{Access, access};

use crate::{Check, Section, State};

const SECTION: Section = Section::Cgroups;

pub(crate) fn checks() -> Vec<Check> {
    let layout = match Layout::detect() {
        Ok(layout) => layout,
        Err(error) => {
            return vec![
                Check::ok(SECTION, "hierarchies", error.to_string())
                    .or_state(false, State::Missing)
                    .meaning(
                        "limits, counting, and ending all processes of a container",
                        &["container"],
                    )
                    .remedy(error.hint().unwrap_or_default()),
            ];
        }
    };
    let mut checks = vec![hierarchies(&layout)];
    for (name, controllers, meaning) in [
        (
            "memory controller",
            &["memory"][..],
            "--memory, and memory in stats",
        ),
        ("cpu controller", &["cpu"], "--cpus, --cpu-shares"),
        (
            "cpuset controller",
            &["cpuset"],
            "--cpuset-cpus, --cpuset-mems",
        ),
        ("pids controller", &["pids"], "--pids-limit"),
        (
            "I/O controller",
            &["io", "blkio"],
            "--device-read-bps and the like, and I/O in stats",
        ),
        ("hugetlb controller", &["hugetlb"], "limits of huge pages"),
    ] {
        let place = controllers
            .iter()
            .find_map(|controller| layout.version_of(controller));
        let found = match place {
            Some(version) => format!("version {version}"),
            None => "not there".to_owned(),
        };
        checks.push(
            Check::ok(SECTION, name, found)
                .or_state(place.is_some(), State::Missing)
                .meaning(meaning, &["container", "vm"])
                .remedy(format!(
                    "boot without cgroup_disable={0}, on a kernel that has it (/proc/cgroups)",
                    controllers[0]
                )),
        );
    }
    checks.push(devices(&layout));
    checks.push(
        Check::there(SECTION, "swap limit", layout.limits_swap())
            .meaning(
                "--memory-swap; without it a memory limit does not hold back swap",
                &["container"],
            )
            .remedy("boot with swapaccount=1"),
    );
    checks.push(
        Check::there(SECTION, "I/O weight", layout.limits_io_weight())
            .meaning("--blkio-weight", &["container"])
            .remedy("choose the BFQ scheduler for the disk (CONFIG_IOSCHED_BFQ), or use version 2"),
    );
    checks.push(freezer(&layout));
    checks
}

fn hierarchies(layout: &Layout) -> Check {
    let v1 = layout
        .hierarchies()
        .iter()
        .filter(|hierarchy| hierarchy.version == Version::V1)
        .count();
    let found = match (v1, layout.hierarchy("")) {
        (0, _) => "version 2".to_owned(),
        (count, None) => format!("version 1 ({count} hierarchies)"),
        (count, Some(_)) => format!("hybrid: version 1 ({count} hierarchies) and version 2"),
    };
    let read_only: Vec<String> = layout
        .hierarchies()
        .iter()
        .filter(|hierarchy| access(&hierarchy.mount_point, Access::WRITE_OK).is_err())
        .map(|hierarchy| hierarchy.mount_point.display().to_string())
        .collect();
    let is_writable = read_only.is_empty();
    let found = if is_writable {
        found
    } else {
        format!("{found}; not writable: {}", read_only.join(", "))
    };
    Check::ok(SECTION, "hierarchies", found)
        .or_state(is_writable, State::Unusable)
        .meaning(
            "limits, counting, and ending all processes of a container",
            &["container"],
        )
        .remedy("run as root, or in a group delegated to you (systemd: Delegate=yes)")
}

fn devices(layout: &Layout) -> Check {
    let found = match (layout.hierarchy("devices"), layout.hierarchy("")) {
        (Some(_), _) => "devices controller of version 1",
        (None, Some(_)) => "programs of version 2",
        (None, None) => "not there",
    };
    Check::ok(SECTION, "device rules", found)
        .or_state(found != "not there", State::Missing)
        .meaning(
            "a container opens only the devices it was given",
            &["container"],
        )
        .remedy("boot a kernel with CONFIG_CGROUP_BPF, or CONFIG_CGROUP_DEVICE for version 1")
}

fn freezer(layout: &Layout) -> Check {
    // Files of version 2 without a controller; the root group has none of them.
    let version_2 = layout.hierarchy("").map(|_| kernel_release());
    let found = match (version_2, layout.hierarchy("freezer")) {
        (Some(release), _) if release >= (5, 14) => "cgroup.freeze and cgroup.kill",
        (Some(release), _) if release >= (5, 2) => "cgroup.freeze; killing by freeze and signal",
        (_, Some(_)) => "freezer controller of version 1",
        _ => "not there",
    };
    Check::ok(SECTION, "freezing and killing", found)
        .or_state(found != "not there", State::Missing)
        .meaning("pause, and ending every process at once", &["container"])
        .remedy("mount cgroup2 (Linux 5.2), or the freezer controller")
}

/// Major and minor version of the running kernel.
fn kernel_release() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
