//! What the house is made of: namespaces and mounts.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use isle_netlink::link::Link;
use isle_netlink::{Batch, Socket};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::HouseError;
use crate::residents::Spaces;

/// Where the control groups are that are not the user's.
const GROUPS: &str = "/sys/fs/cgroup";
/// Who the host asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The number of `lo` in every network.
const LOOPBACK: u32 = 1;
/// pasta passes on what is sent here for a name.
pub(crate) const NAME_SERVER: &str = "169.254.1.1";

/// The house's network, a mount that only those in the house see.
pub(crate) fn network_file(folder: &Path) -> PathBuf {
    folder.join("net")
}

/// Which namespaces the house has: for the next keeper, should this one be killed.
fn spaces_file(folder: &Path) -> PathBuf {
    folder.join("namespaces")
}

/// How the house came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    /// Anew: without maps.
    New,
    /// The one of a keeper that was killed: somebody lives in it still.
    Old,
}

/// Makes the namespaces of a house, or enters those that an earlier keeper made and that somebody is in.
///
/// # Errors
/// What the host refuses.
pub(crate) fn build(folder: &Path) -> Result<Built, HouseError> {
    let before = fs::read_to_string(spaces_file(folder)).ok();
    if let Some(spaces) = before.as_deref().and_then(Spaces::parse)
        && let Some(resident) = spaces.some_resident()
    {
        let all = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
        return move_into_thread_name_spaces(resident.as_fd(), all)
            .map(|()| Built::Old)
            .map_err(|errno| HouseError::Enter(errno.into()));
    }
    isle_sys::namespace::unshare_user_and_mounts().map_err(HouseError::Namespace)?;
    Ok(Built::New)
}

/// Furnishes a new house, whose maps are written.
///
/// # Errors
/// When something cannot be mounted or written.
pub(crate) fn furnish(folder: &Path) -> Result<(), HouseError> {
    let inward = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", inward).map_err(HouseError::errno("keep the house's mounts apart"))?;
    if Path::new(GROUPS).is_dir() {
        // Others' control groups are none of ours: what looks for one finds that there is none.
        let flags =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("tmpfs", GROUPS, "tmpfs", flags, c"mode=755,size=0")
            .map_err(HouseError::errno("cover the host's control groups"))?;
    }
    if let Some(text) = names_through_pasta(&fs::read_to_string(RESOLV_CONF).unwrap_or_default()) {
        let file = folder.join("resolv.conf");
        fs::write(&file, text).map_err(HouseError::system("write resolv.conf of the house"))?;
        mount_bind(&file, RESOLV_CONF)
            .map_err(HouseError::errno("put resolv.conf of the house in place"))?;
    }
    let spaces = Spaces::own().map_err(HouseError::system("read the own namespaces"))?;
    fs::write(spaces_file(folder), spaces.text())
        .map_err(HouseError::system("note the namespaces of the house"))
}

/// `resolv.conf` where the host asks itself: its loopback is not that of the house. Everything but the servers stays.
fn names_through_pasta(host: &str) -> Option<String> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default().to_owned())
    };
    let servers: Vec<String> = host.lines().filter_map(server).collect();
    let is_own = |server: &String| {
        server
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
    };
    if !servers.is_empty() && !servers.iter().any(is_own) {
        return None;
    }
    let kept = host.lines().filter(|line| server(line).is_none());
    let lines = std::iter::once(format!("nameserver {NAME_SERVER}")).chain(kept.map(str::to_owned));
    Some(lines.map(|line| line + "\n").collect())
}

/// Whether the house has a network already.
pub(crate) fn has_network(folder: &Path) -> bool {
    rustix::fs::statfs(network_file(folder)).is_ok_and(|found| {
        // `NSFS_MAGIC`, see statfs(2).
        i128::from(found.f_type) == 0x6e73_6673
    })
}

/// Makes the house's network, which the caller does not enter.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn add_network(folder: &Path) -> Result<(), HouseError> {
    let path = network_file(folder);
    File::create(&path).map_err(HouseError::system("make the file of the house's network"))?;
    let make = || {
        let mut batch = Batch::default();
        batch.change_link(&Link {
            index: LOOPBACK,
            is_up: Some(true),
            ..Link::default()
        });
        Socket::route()?.send(&batch).map_err(io::Error::other)?;
        Ok(mount_bind("/proc/thread-self/ns/net", &path)?)
    };
    isle_sys::namespace::in_new_network(make)
        .flatten()
        .map_err(HouseError::system("make the house's network"))
}

/// Whether the host itself has a way out: a default route, see proc_pid_net(5).
pub(crate) fn host_has_way_out() -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    has_default_route(&read("/proc/net/route"), &read("/proc/net/ipv6_route"))
}

fn has_default_route(v4: &str, v6: &str) -> bool {
    let v4 = v4.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_any = |field: Option<&str>| field == Some("00000000");
        is_any(fields.next()) && is_any(fields.nth(5))
    });
    let v6 = v6.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00");
        // The kernel refuses everything there, on a host without IPv6.
        is_default && fields.last() != Some(&"lo")
    });
    v4 || v6
}

/// Takes away what the house has in its folder.
pub(crate) fn clear(folder: &Path) {
    // The keeper is the last one who sees the mount.
    let _ = rustix::mount::unmount(network_file(folder), rustix::mount::UnmountFlags::DETACH);
    for file in [
        network_file(folder),
        spaces_file(folder),
        folder.join("resolv.conf"),
    ] {
        let _ = fs::remove_file(file);
    }
}

#[cfg(test)]
mod tests {
    use super::{has_default_route, names_through_pasta};

    #[test]
    fn a_default_route_is_a_way_out() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let lan = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let way = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let nowhere = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                       00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";
        assert!(!has_default_route(&format!("{head}{lan}"), nowhere));
        assert!(has_default_route(&format!("{head}{lan}{way}"), nowhere));
        assert!(has_default_route("", &nowhere.replace("lo\n", "eth0\n")));
    }

    #[test]
    fn a_host_that_asks_itself_is_asked_through_pasta() {
        assert_eq!(names_through_pasta("nameserver 192.0.2.1\n"), None);
        assert_eq!(
            names_through_pasta("search a\nnameserver 127.0.0.53\noptions x\n").as_deref(),
            Some("nameserver 169.254.1.1\nsearch a\noptions x\n")
        );
        assert_eq!(
            names_through_pasta("").as_deref(),
            Some("nameserver 169.254.1.1\n")
        );
    }
}
