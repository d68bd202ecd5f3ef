//! Class and priority of packets: version 1 alone (`net_cls.rst`, `net_prio.rst`).

use oci_spec::runtime::LinuxNetwork;

use super::Settings;
use crate::{Error, Version};

pub(super) fn plan(network: &LinuxNetwork, settings: &mut Settings<'_>) -> Result<(), Error> {
    if let Some(class) = network.class_id().filter(|&class| class != 0) {
        on_version_1(settings, "net_cls", "network.classID")?;
        let at = ("net_cls", Version::V1);
        settings.push(at, "network.classID", "net_cls.classid", class);
    }
    for priority in network.priorities().iter().flatten() {
        on_version_1(settings, "net_prio", "network.priorities")?;
        if priority.name().is_empty() || priority.name().contains(char::is_whitespace) {
            return Err(Error::Invalid {
                limit: "network.priorities",
                value: priority.name().clone(),
                expected: "the name of a network interface",
            });
        }
        let value = format!("{} {}", priority.name(), priority.priority());
        let at = ("net_prio", Version::V1);
        settings.push(at, "network.priorities", "net_prio.ifpriomap", value);
    }
    Ok(())
}

fn on_version_1(
    settings: &Settings<'_>,
    controller: &'static str,
    limit: &'static str,
) -> Result<(), Error> {
    if settings.layout.is_unified() {
        return Err(Error::NotInVersion {
            limit,
            version: Version::V2,
        });
    }
    settings.version(controller, limit).map(drop)
}
