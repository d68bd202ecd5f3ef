//! The file system of a container: mounts, devices, links, masked and read-only paths.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use isle_sys::launch::{MountSource, Step, Target};
use isle_sys::mount::{self, Attributes};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxIdMapping, Mount, Spec};

use super::cgroup_mounts;
use super::mount_options::{self, MountOptions};
use super::need::{IdMap, Need, Needs};
use crate::PlanError;

/// A path as the steps take it: relative to the root, without `..`.
pub(super) fn inside(field: &'static str, path: &Path) -> Result<CString, PlanError> {
    let bytes = path.as_os_str().as_bytes();
    let mut relative = Vec::with_capacity(bytes.len());
    for component in bytes.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            // `/a/../b` is `/b` by the letter, and never leaves the root
            b".." => match relative.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => relative.truncate(slash),
                None => relative.clear(),
            },
            component => {
                if !relative.is_empty() {
                    relative.push(b'/');
                }
                relative.extend_from_slice(component);
            }
        }
    }
    if relative.len() > 4000 {
        return Err(PlanError::invalid(
            field,
            path.to_string_lossy(),
            "it is longer than 4000 bytes",
        ));
    }
    CString::new(relative)
        .map_err(|_| PlanError::invalid(field, path.to_string_lossy(), "it holds a NUL byte"))
}

/// What the mounts depend on besides themselves.
pub(super) struct Context<'a> {
    pub(super) bundle: &'a Path,
    /// mknod(2) is not refused, as it is in user namespaces.
    pub(super) has_device_nodes: bool,
    pub(super) has_cgroup_namespace: bool,
    pub(super) is_for_guest: bool,
    pub(super) mappings: Option<IdMap>,
    pub(super) label: Option<&'a str>,
}

fn id_map(
    mount: &Mount,
    options: &MountOptions,
    context: &Context<'_>,
) -> Result<Option<IdMap>, PlanError> {
    let given = |mappings: &Option<Vec<LinuxIdMapping>>| mappings.clone().unwrap_or_default();
    let (uids, gids) = (given(mount.uid_mappings()), given(mount.gid_mappings()));
    if uids.is_empty() != gids.is_empty() {
        return Err(PlanError::invalid(
            "mounts.uidMappings",
            mount.destination().to_string_lossy(),
            "uidMappings and gidMappings come together",
        ));
    }
    if !uids.is_empty() {
        return Ok(Some(IdMap { uids, gids }));
    }
    match (options.id_map, &context.mappings) {
        (None, _) => Ok(None),
        (Some(_), Some(mappings)) => Ok(Some(mappings.clone())),
        (Some(_), None) => Err(PlanError::invalid(
            "mounts.options",
            "idmap",
            "it needs uidMappings and gidMappings of the mount, or a user namespace",
        )),
    }
}

fn bind(
    mount: &Mount,
    options: &MountOptions,
    context: &Context<'_>,
    needs: &mut Needs,
) -> Result<Step, PlanError> {
    let destination = mount.destination().to_string_lossy();
    let source = mount.source().as_ref().ok_or_else(|| {
        PlanError::invalid("mounts", destination.clone(), "a bind mount has a source")
    })?;
    // Options of a file system mean nothing here: mount(2) takes no notice of them for a bind mount either, and
    // engines give some.
    if options.copy_up {
        return Err(PlanError::invalid(
            "mounts.options",
            "tmpcopyup",
            "it is for tmpfs only",
        ));
    }
    let id_map = id_map(mount, options, context)?;
    let slot = needs.add(Need::Tree {
        path: context.bundle.join(source),
        recursive: options.recursive,
        attributes: options.attributes,
        recursive_attributes: options.recursive_attributes,
        propagation: options.propagation.unwrap_or((mount::SLAVE, true)),
        is_id_map_recursive: options.id_map == Some(true),
        id_map,
    });
    Ok(Step::Mount {
        source: MountSource::Tree(slot),
        target: inside("mounts.destination", mount.destination())?,
        kind: Target::Directory,
        attributes: Attributes::default(),
        recursive_attributes: Attributes::default(),
        copy_up: false,
    })
}

fn new_file_system(
    mount: &Mount,
    filesystem: &str,
    mut options: MountOptions,
    context: &Context<'_>,
) -> Result<Step, PlanError> {
    let c = |text: &str| {
        CString::new(text).map_err(|_| PlanError::invalid("mounts", text, "it holds a NUL byte"))
    };
    if mount.uid_mappings().as_ref().is_some_and(|m| !m.is_empty()) || options.id_map.is_some() {
        return Err(PlanError::invalid(
            "mounts.uidMappings",
            mount.destination().to_string_lossy(),
            "only bind mounts have mapped ids",
        ));
    }
    if options.copy_up && filesystem != "tmpfs" {
        return Err(PlanError::invalid(
            "mounts.options",
            "tmpcopyup",
            "it is for tmpfs only",
        ));
    }
    // devpts has one instance a mount, whatever this says
    if filesystem == "devpts" {
        options
            .data
            .retain(|(key, _)| key.as_c_str() != c"newinstance");
    }
    if let (Some(label), "tmpfs" | "devpts" | "mqueue") = (context.label, filesystem) {
        options.data.push((c("context")?, Some(c(label)?)));
    }
    let source = mount.source().as_ref().map_or_else(
        || filesystem.to_owned(),
        |s| s.to_string_lossy().into_owned(),
    );
    let mut data = vec![(c("source")?, Some(c(&source)?))];
    data.append(&mut options.data);
    let mut attributes = Attributes::new(0, 0, 0);
    if let Some((propagation, _)) = options.propagation {
        attributes.propagation = propagation;
    }
    Ok(Step::Mount {
        source: MountSource::New {
            filesystem: c(filesystem)?,
            options: data,
            attributes: options.attributes.set | options.recursive_attributes.set,
        },
        target: inside("mounts.destination", mount.destination())?,
        kind: Target::Directory,
        attributes,
        recursive_attributes: Attributes::default(),
        copy_up: options.copy_up,
    })
}

/// The steps for `mounts`, in their order.
pub(super) fn mounts(
    spec: &Spec,
    context: &Context<'_>,
    needs: &mut Needs,
) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let none = Vec::new();
        let options = mount_options::parse(mount.options().as_ref().unwrap_or(&none))?;
        let target = inside("mounts.destination", mount.destination())?;
        if target.is_empty() {
            return Err(PlanError::invalid(
                "mounts.destination",
                mount.destination().to_string_lossy(),
                "the root file system comes from `root`",
            ));
        }
        if options.remount {
            let mut attributes = options.attributes;
            let mut recursive_attributes = options.recursive_attributes;
            match options.propagation {
                Some((kind, true)) => recursive_attributes.propagation = kind,
                Some((kind, false)) => attributes.propagation = kind,
                None => {}
            }
            steps.push(Step::SetAttributes {
                path: target,
                attributes,
                recursive_attributes,
            });
            continue;
        }
        let kind = mount.typ().as_deref().unwrap_or("");
        steps.push(match kind {
            _ if options.bind => bind(mount, &options, context, needs)?,
            "bind" => bind(mount, &options, context, needs)?,
            "" | "none" => {
                return Err(PlanError::invalid(
                    "mounts.type",
                    mount.destination().to_string_lossy(),
                    "a mount has a type, or the option bind or rbind",
                ));
            }
            "cgroup" | "cgroup2" => {
                steps.extend(cgroup_mounts::steps(&target, &options, context, needs)?);
                continue;
            }
            filesystem => new_file_system(mount, filesystem, options, context)?,
        });
    }
    // A read-only /dev gets its nodes first.
    let dev = spec.mounts().iter().flatten().rfind(|mount| {
        inside("mounts.destination", mount.destination()).is_ok_and(|d| d.as_c_str() == c"dev")
    });
    let is_bound = dev.is_some_and(|mount| {
        mount.typ().as_deref() == Some("bind")
            || mount
                .options()
                .iter()
                .flatten()
                .any(|option| option == "bind" || option == "rbind")
    });
    if !is_bound {
        let mut read_only = false;
        for step in &mut steps {
            if let Step::Mount {
                source: MountSource::New { attributes, .. },
                target,
                ..
            } = step
                && target.as_c_str() == c"dev"
            {
                read_only = *attributes & mount::RDONLY != 0;
                *attributes &= !mount::RDONLY;
            }
        }
        steps.extend(devices(spec, context, needs)?);
        steps.extend(links()?);
        if read_only {
            steps.push(Step::SetAttributes {
                path: c"dev".to_owned(),
                attributes: Attributes::new(mount::RDONLY, 0, 0),
                recursive_attributes: Attributes::default(),
            });
        }
    }
    Ok(steps)
}

/// See config-linux.md, "Default Devices".
const DEFAULT_DEVICES: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn devices(spec: &Spec, context: &Context<'_>, needs: &mut Needs) -> Result<Vec<Step>, PlanError> {
    let none = Vec::new();
    let given = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_ref())
        .unwrap_or(&none);
    let mut steps = Vec::new();
    for (path, major, minor) in DEFAULT_DEVICES {
        if given.iter().any(|device| device.path() == Path::new(path)) {
            continue;
        }
        let mut device = LinuxDevice::default();
        device
            .set_path(PathBuf::from(path))
            .set_typ(LinuxDeviceType::C)
            .set_major(major)
            .set_minor(minor)
            .set_file_mode(Some(0o666));
        steps.push(self::device(&device, context, needs)?);
    }
    for device in given {
        steps.push(self::device(device, context, needs)?);
    }
    Ok(steps)
}

fn device(
    device: &LinuxDevice,
    context: &Context<'_>,
    needs: &mut Needs,
) -> Result<Step, PlanError> {
    const FILE_TYPE: u32 = 0o170_000;
    let path = inside("linux.devices.path", device.path())?;
    let text = device.path().to_string_lossy();
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => 0o020_000,
        LinuxDeviceType::B => 0o060_000,
        LinuxDeviceType::P => 0o010_000,
        LinuxDeviceType::A => {
            return Err(PlanError::invalid(
                "linux.devices.type",
                text,
                "a device node is of type c, b, u or p",
            ));
        }
    };
    let number = |value: i64, field| {
        u32::try_from(value)
            .map_err(|_| PlanError::invalid(field, value.to_string(), "not a device number"))
    };
    let number = if kind == 0o010_000 {
        0
    } else {
        rustix::fs::makedev(
            number(device.major(), "linux.devices.major")?,
            number(device.minor(), "linux.devices.minor")?,
        )
    };
    // In a user namespace mknod(2) is refused: the host's node is mounted.
    if !context.has_device_nodes && kind != 0o010_000 {
        let stat = rustix::fs::stat(device.path()).map_err(|errno| PlanError::Read {
            what: format!("the device {text} of the host"),
            source: errno.into(),
        })?;
        if stat.st_mode & FILE_TYPE != kind || stat.st_rdev != number {
            return Err(PlanError::invalid(
                "linux.devices.path",
                text,
                "in a user namespace a device is the host's file of that name, which is another \
                 device",
            ));
        }
        let slot = needs.add(Need::Tree {
            path: device.path().clone(),
            recursive: false,
            attributes: Attributes::default(),
            recursive_attributes: Attributes::default(),
            propagation: (mount::PRIVATE, false),
            is_id_map_recursive: false,
            id_map: None,
        });
        return Ok(Step::Mount {
            source: MountSource::Tree(slot),
            target: path,
            kind: Target::File,
            attributes: Attributes::default(),
            recursive_attributes: Attributes::default(),
            copy_up: false,
        });
    }
    Ok(Step::Device {
        path,
        mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
        device: number,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// See config-linux.md, "Dev symbolic links".
fn links() -> Result<Vec<Step>, PlanError> {
    Ok([
        (c"/proc/self/fd", c"dev/fd"),
        (c"/proc/self/fd/0", c"dev/stdin"),
        (c"/proc/self/fd/1", c"dev/stdout"),
        (c"/proc/self/fd/2", c"dev/stderr"),
        (c"/proc/kcore", c"dev/core"),
        (c"pts/ptmx", c"dev/ptmx"),
    ]
    .into_iter()
    .map(|(target, path)| Step::Link {
        target: target.to_owned(),
        path: path.to_owned(),
    })
    .collect())
}

/// Masked and read-only paths.
pub(super) fn hidden(spec: &Spec) -> Result<Vec<Step>, PlanError> {
    let Some(linux) = spec.linux() else {
        return Ok(Vec::new());
    };
    let mut steps = Vec::new();
    for path in linux.readonly_paths().iter().flatten() {
        steps.push(Step::ReadOnly(inside(
            "linux.readonlyPaths",
            Path::new(path),
        )?));
    }
    for path in linux.masked_paths().iter().flatten() {
        steps.push(Step::Mask(inside("linux.maskedPaths", Path::new(path))?));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_never_lead_out_of_the_root() {
        for (path, expected) in [
            ("/", ""),
            ("/a//b/./c/", "a/b/c"),
            ("/a/../../../etc", "etc"),
            ("a/b/../c", "a/c"),
            ("..", ""),
        ] {
            assert_eq!(
                inside("x", Path::new(path)).unwrap().to_str().unwrap(),
                expected
            );
        }
        inside("x", Path::new("/a\0b")).unwrap_err();
    }
}
