//! RDMA handles and objects. `Documentation/admin-guide/cgroup-v1/rdma.rst`; the same in version 2.

use std::collections::HashMap;

use oci_spec::runtime::LinuxRdma;

use super::Settings;
use crate::Error;

const CONTROLLER: &str = "rdma";

pub(super) fn plan(
    rdma: &HashMap<String, LinuxRdma>,
    settings: &mut Settings<'_>,
) -> Result<(), Error> {
    let mut devices: Vec<_> = rdma.iter().collect();
    devices.sort_by_key(|(device, _)| *device);
    for (device, limits) in devices {
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(Error::Invalid {
                limit: "rdma",
                value: device.clone(),
                expected: "the name of an RDMA device",
            });
        }
        let mut value = device.clone();
        if let Some(handles) = limits.hca_handles() {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limits.hca_objects() {
            value.push_str(&format!(" hca_object={objects}"));
        }
        if value.len() > device.len() {
            let version = settings.version(CONTROLLER, "rdma")?;
            settings.push((CONTROLLER, version), "rdma", "rdma.max", value);
        }
    }
    Ok(())
}
