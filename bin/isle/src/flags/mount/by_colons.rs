//! `-v`.

use isle_engine::config::{Mount, MountSource, VolumeMount};

use super::{FlagError, PROPAGATIONS, check_relabel, host_path, volume_name};

/// `-v [SOURCE:]TARGET[:OPTIONS]`: a source with a slash or a leading dot is a path of the host,
/// another one names a volume.
pub fn volume(text: &str) -> Result<Mount, FlagError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => {
            return Err(FlagError::new(
                format!("{text:?} has too many colons"),
                "write SOURCE:TARGET or SOURCE:TARGET:OPTIONS; use --mount for paths with a colon",
            ));
        }
    };
    let target = super::target(target)?;
    let mut read_only = false;
    let mut no_copy = false;
    let mut propagation = None;
    let is_path = source.is_some_and(|source| source.starts_with(['/', '.', '~']));
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => read_only = true,
            "rw" => read_only = false,
            "nocopy" if !is_path => no_copy = true,
            "nocopy" => {
                return Err(FlagError::new(
                    "nocopy does not go with a directory of the host",
                    "leave it out: only volumes are filled from the image",
                ));
            }
            // Hints for virtual machines of other systems: without meaning on Linux, as in Docker.
            "cached" | "delegated" | "consistent" => {}
            "z" | "Z" => check_relabel(option)?,
            name if PROPAGATIONS.contains(&name) && is_path => propagation = Some(name.to_owned()),
            name if PROPAGATIONS.contains(&name) => {
                return Err(FlagError::new(
                    format!("{name} does not go with a volume"),
                    "leave it out: nothing is mounted below a volume of the host's own",
                ));
            }
            _ => {
                return Err(FlagError::new(
                    format!("volume option {option:?} is not known"),
                    "known are ro, rw, nocopy, z, Z and [r]private, [r]shared, [r]slave",
                ));
            }
        }
    }
    let source = match source {
        None => MountSource::Volume(VolumeMount {
            no_copy,
            ..VolumeMount::default()
        }),
        Some("") => {
            return Err(FlagError::new(
                format!("{text:?} has an empty source"),
                "write a path of the host or the name of a volume before the colon",
            ));
        }
        Some(path) if is_path => MountSource::Bind {
            path: host_path(path)?,
            create_source: true,
            propagation,
            non_recursive: false,
            writable_below: false,
        },
        Some(name) => MountSource::Volume(VolumeMount {
            no_copy,
            ..VolumeMount::named(volume_name(name)?)
        }),
    };
    Ok(Mount {
        source,
        target,
        read_only,
    })
}
