//! Settings of the kernel under `/proc/sys/net`, see `Documentation/networking/ip-sysctl.rst`.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::Error;

/// Gives a setting a value, unless it has it. Of one that the kernel lacks (IPv6 is off) `false` is told.
pub(crate) fn ensure(setting: &str, value: &'static str) -> Result<bool, Error> {
    let path = PathBuf::from(format!("/proc/sys/net/{setting}"));
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == value => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        _ => {}
    }
    fs::write(&path, value).map_err(|source| Error::Setting {
        path,
        value,
        source,
    })?;
    Ok(true)
}

/// The host passes packets on from link to link.
///
/// A host that forwards IPv6 no longer listens to routers, unless it is told to (`accept_ra` 2): links that did before
/// go on with it, or the host would lose its way to the world.
pub(crate) fn forward(is_ipv6: bool) -> Result<(), Error> {
    if !is_ipv6 {
        ensure("ipv4/ip_forward", "1")?;
        return Ok(());
    }
    if fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding")
        .is_ok_and(|text| text.trim() == "0")
        && let Ok(links) = fs::read_dir("/proc/sys/net/ipv6/conf")
    {
        for link in links.filter_map(Result::ok) {
            let name = link.file_name();
            let is_asked = fs::read_to_string(link.path().join("accept_ra"))
                .is_ok_and(|text| text.trim() == "1");
            if is_asked && let Some(name) = name.to_str() {
                ensure(&format!("ipv6/conf/{name}/accept_ra"), "2")?;
            }
        }
    }
    ensure("ipv6/conf/all/forwarding", "1")?;
    Ok(())
}

/// Whether what goes through bridges passes the host's IP rules too (the module br_netfilter).
pub(crate) fn bridges_are_filtered() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|text| text.trim() != "0")
}
