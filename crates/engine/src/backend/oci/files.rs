//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`: generated on the host, bound into the
//! container, as Docker does.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use isle_archive::beneath;
use isle_network::{Driver, Link};
use isle_types::InstanceId;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::config::{HostAddress, InstanceConfig, NetworkMode};

/// The files that are generated, by their names in the instance's folder and in `/etc`.
pub(crate) const NAMES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Writes the three files into the instance's folder. `links` are its networks.
///
/// # Errors
/// With the name of the file.
pub(crate) fn write(
    directory: &Path,
    hostname: &str,
    config: &InstanceConfig,
    links: &[Link],
) -> io::Result<()> {
    let is_host = config.network == NetworkMode::Host;
    // A host may lack either file; an instance then has what is asked for alone.
    let of_host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let base_hosts = match is_host {
        true => of_host("/etc/hosts"),
        false => String::new(),
    };
    let contents = [
        format!("{hostname}\n"),
        hosts(&base_hosts, &lines(hostname, config, links)),
        resolv_conf(&of_host("/etc/resolv.conf"), config, &name_servers(links)),
    ];
    for (name, content) in NAMES.iter().zip(contents) {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|error| {
            io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
        })?;
    }
    Ok(())
}

/// The name of the file that tells one system from another, see machine-id(5).
pub(crate) const MACHINE_ID: &str = "machine-id";

/// What is in it: of the instance's id what fits.
pub(crate) fn machine_id(id: &InstanceId) -> String {
    format!("{:.32}\n", id.to_string())
}

/// Whether the image leaves its machine id to whoever runs it: the file is there and empty, or says so. `layers` are
/// those of the image, topmost first.
pub(crate) fn lacks_machine_id(layers: &[PathBuf]) -> bool {
    const UNINITIALIZED: &[u8] = b"uninitialized";
    let path = Path::new("/etc").join(MACHINE_ID);
    for layer in layers {
        let Ok(layer) = File::open(layer) else {
            return false;
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match beneath(layer.as_fd(), &path, flags) {
            Err(Errno::NOENT) => {}
            // A link, or deleted by this layer, whose device nobody has.
            Err(_) => return false,
            Ok(file) => {
                let file = File::from(file);
                let mut content = Vec::new();
                let is_file = file.metadata().is_ok_and(|about| about.is_file());
                return is_file
                    && file.take(64).read_to_end(&mut content).is_ok()
                    && (content.is_empty() || content.trim_ascii_end() == UNINITIALIZED);
            }
        }
    }
    false
}

/// The names that the instance finds without asking anybody: those it was given, and its own.
fn lines(hostname: &str, config: &InstanceConfig, links: &[Link]) -> Vec<(String, IpAddr)> {
    let of_host = match config.network {
        NetworkMode::Host => Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        _ => gateways(links).next(),
    };
    let mut lines: Vec<(String, IpAddr)> = config
        .extra_hosts
        .iter()
        .filter_map(|(name, address)| match address {
            HostAddress::Address(address) => Some((name.clone(), *address)),
            HostAddress::Gateway => Some((name.clone(), of_host?)),
        })
        .collect();
    let own = match &config.domainname {
        Some(domain) => format!("{hostname}.{domain} {hostname}"),
        None => hostname.to_owned(),
    };
    for link in links {
        let addresses = link.endpoint.addresses();
        lines.extend(addresses.map(|net| (own.clone(), net.addr())));
    }
    lines
}

/// The host as its bridges' instances see it.
fn gateways(links: &[Link]) -> impl Iterator<Item = IpAddr> {
    links
        .iter()
        .filter(|link| link.network.spec.driver == Driver::Bridge)
        .flat_map(|link| link.network.gateways().map(|net| net.addr()))
}

/// Who answers on the instance's bridges; one is enough, and one of IPv4 is understood by all programs.
fn name_servers(links: &[Link]) -> Vec<IpAddr> {
    gateways(links).take(1).collect()
}

fn hosts(base: &str, extra: &[(String, IpAddr)]) -> String {
    const LOOPBACK: &str = "127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::\tip6-localnet\n\
        ff00::\tip6-mcastprefix\n\
        ff02::1\tip6-allnodes\n\
        ff02::2\tip6-allrouters\n";
    let mut text = match base.is_empty() {
        true => LOOPBACK.to_owned(),
        false => base.to_owned(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// The host's file, with what `--dns`, `--dns-search` and `--dns-option` replace replaced. On networks
/// with name servers of their own these are asked, and they ask those of `--dns` or the host's.
fn resolv_conf(base: &str, config: &InstanceConfig, of_networks: &[IpAddr]) -> String {
    let servers = match of_networks.is_empty() {
        true => &config.dns,
        false => of_networks,
    };
    let mut text = String::new();
    for line in base.lines() {
        let is_replaced = match line.split_whitespace().next() {
            Some("nameserver") => !servers.is_empty(),
            Some("search" | "domain") => !config.dns_search.is_empty(),
            Some("options") => !config.dns_options.is_empty(),
            _ => false,
        };
        if !is_replaced {
            text.push_str(line);
            text.push('\n');
        }
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // `--dns-search .` asks for no search list.
    let search: Vec<&str> = config.dns_search.iter().map(String::as_str).collect();
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !config.dns_options.is_empty() {
        text.push_str(&format!("options {}\n", config.dns_options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_machine_id_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let layer = |name: &str, content: Option<&str>| {
            let layer = folder.path().join(name);
            fs::create_dir_all(layer.join("etc")).unwrap();
            if let Some(content) = content {
                fs::write(layer.join("etc/machine-id"), content).unwrap();
            }
            layer
        };
        let (none, empty) = (layer("none", None), layer("empty", Some("")));
        let first_boot = layer("first-boot", Some("uninitialized\n"));
        let given = layer("given", Some("0123456789abcdef0123456789abcdef\n"));
        let led_away = folder.path().join("led-away");
        fs::create_dir(&led_away).unwrap();
        std::os::unix::fs::symlink(empty.join("etc"), led_away.join("etc")).unwrap();
        let lacks = |layers: &[&PathBuf]| {
            let layers: Vec<PathBuf> = layers.iter().map(|layer| (*layer).clone()).collect();
            lacks_machine_id(&layers)
        };
        assert!(lacks(&[&empty]) && lacks(&[&none, &empty]) && lacks(&[&first_boot]));
        assert!(!lacks(&[]) && !lacks(&[&none]) && !lacks(&[&given, &empty]));
        assert!(!lacks(&[&led_away]));
    }

    #[test]
    fn added_hosts_come_after_loopback() {
        let text = hosts("", &[("db".to_owned(), "10.0.0.7".parse().unwrap())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("\n10.0.0.7\tdb\n"));
    }

    #[test]
    fn only_what_is_given_replaces_the_hosts_resolver() {
        let base = "# by hand\nnameserver 9.9.9.9\nsearch example.org\noptions ndots:2\n";
        let mut config = InstanceConfig::default();
        assert_eq!(resolv_conf(base, &config, &[]), base);
        config.dns = vec!["1.1.1.1".parse().unwrap()];
        config.dns_search = vec![".".to_owned()];
        assert_eq!(
            resolv_conf(base, &config, &[]),
            "# by hand\noptions ndots:2\nnameserver 1.1.1.1\n"
        );
        let of_network = ["172.17.0.1".parse().unwrap()];
        assert_eq!(
            resolv_conf(base, &config, &of_network),
            "# by hand\noptions ndots:2\nnameserver 172.17.0.1\n"
        );
    }
}
