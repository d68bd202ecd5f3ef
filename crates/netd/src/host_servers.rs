//! The host's own name servers: `/etc/resolv.conf`, see resolv.conf(5).

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// `MAXNS`
const MOST: usize = 3;
/// So often the file is looked at, at most, and only when somebody asks.
const INTERVAL: Duration = Duration::from_secs(1);
/// More of the file is not read.
const LONGEST: u64 = 64 * 1024;
pub(crate) const PORT: u16 = 53;

/// Which file this is, and which content.
type Identity = (u64, u64, i64, i64, u64);

/// The servers that the host asks, read anew when the file is another.
#[derive(Debug)]
pub(crate) struct HostServers {
    path: PathBuf,
    looked: Option<Instant>,
    identity: Option<Identity>,
    servers: Vec<SocketAddr>,
}

impl HostServers {
    pub(crate) fn new(path: PathBuf) -> HostServers {
        HostServers {
            path,
            looked: None,
            identity: None,
            servers: Vec::new(),
        }
    }

    /// Those of this moment, or of a second ago.
    pub(crate) fn get(&mut self, now: Instant) -> &[SocketAddr] {
        if self
            .looked
            .is_none_or(|looked| now.duration_since(looked) >= INTERVAL)
        {
            self.looked = Some(now);
            self.look();
        }
        &self.servers
    }

    fn look(&mut self) {
        // The file that a link leads to: a network manager has it elsewhere, and replaces it.
        let identity = fs::metadata(&self.path).ok().map(|file| {
            (
                file.dev(),
                file.ino(),
                file.mtime(),
                file.mtime_nsec(),
                file.size(),
            )
        });
        if identity == self.identity && !self.servers.is_empty() {
            return;
        }
        self.identity = identity;
        let mut text = String::new();
        // One that cannot be read is as one that is not there.
        let _ = fs::File::open(&self.path)
            .and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        self.servers = servers_in(&text);
    }
}

/// The servers that a file names.
fn servers_in(text: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = text.lines().filter_map(server_in).take(MOST).collect();
    if found.is_empty() {
        found.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    found
}

fn server_in(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    let word = words.next()?;
    // `fe80::1%eth0`
    if let Some((address, link)) = word.split_once('%') {
        let number = link.parse().ok().or_else(|| link_number(link))?;
        return Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, number).into());
    }
    Some((word.parse::<IpAddr>().ok()?, PORT).into())
}

/// The number of a link of the host.
pub(crate) fn link_number(link: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
    netdevice::name_to_index(socket, link).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        servers_in(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_are_read_as_the_manual_says() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1 # first\nnameserver\t2001:db8::1\n\
                    nameserver nonsense\nnameserver fe80::1%lo\nnameserver 192.0.2.4\noptions ndots:2\n";
        assert_eq!(
            addresses(text),
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]
        );
        assert_eq!(addresses(""), ["127.0.0.1:53"]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut servers = HostServers::new(path.clone());
        let start = Instant::now();
        assert_eq!(servers.get(start), ["127.0.0.1:53".parse().unwrap()]);
        fs::write(&path, "nameserver 192.0.2.1").unwrap();
        assert_eq!(servers.get(start), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(
            servers.get(start + INTERVAL),
            ["192.0.2.1:53".parse().unwrap()]
        );
        fs::write(folder.path().join("new"), "nameserver 192.0.2.2").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(
            servers.get(start + 2 * INTERVAL),
            ["192.0.2.2:53".parse().unwrap()]
        );
    }
}
