//! Huge pages. `Documentation/admin-guide/cgroup-v1/hugetlb.rst`

use oci_spec::runtime::LinuxHugepageLimit;

use super::{Otherwise, Settings, limit_value};
use crate::{Error, Version};

const CONTROLLER: &str = "hugetlb";
const LIMIT: &str = "hugepageLimits";

pub(super) fn plan(limit: &LinuxHugepageLimit, settings: &mut Settings<'_>) -> Result<(), Error> {
    let size = limit.page_size();
    // The size becomes a part of a file's name.
    let is_size = size
        .strip_suffix("KB")
        .or_else(|| size.strip_suffix("MB"))
        .or_else(|| size.strip_suffix("GB"))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
    if !is_size {
        return Err(Error::Invalid {
            limit: LIMIT,
            value: size.clone(),
            expected: "a page size like 2MB or 1GB",
        });
    }
    let version = settings.version(CONTROLLER, LIMIT)?;
    let end = match version {
        Version::V1 => "limit_in_bytes",
        Version::V2 => "max",
    };
    let value = limit_value(version, limit.limit());
    let at = (CONTROLLER, version);
    settings.push(at, LIMIT, format!("hugetlb.{size}.{end}"), &value);
    // Without the limit on reservations a process is killed by a page fault instead of getting an
    // error from mmap(2). Kernels before 5.7 lack it.
    settings
        .push(at, LIMIT, format!("hugetlb.{size}.rsvd.{end}"), &value)
        .otherwise = Otherwise::Skip;
    Ok(())
}
