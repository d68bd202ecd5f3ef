//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`: generated on the host, bound into the
//! container, as Docker does.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::config::{InstanceConfig, NetworkMode};

/// The files that are generated, by their names in the instance's folder and in `/etc`.
pub(crate) const NAMES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Writes the three files into the instance's folder.
///
/// # Errors
/// With the name of the file.
pub(crate) fn write(directory: &Path, hostname: &str, config: &InstanceConfig) -> io::Result<()> {
    let is_host = config.network == NetworkMode::Host;
    // A host may lack either file; an instance then has what is asked for alone.
    let of_host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let base_hosts = match is_host {
        true => of_host("/etc/hosts"),
        false => String::new(),
    };
    let contents = [
        format!("{hostname}\n"),
        hosts(&base_hosts, &config.extra_hosts),
        resolv_conf(&of_host("/etc/resolv.conf"), config),
    ];
    for (name, content) in NAMES.iter().zip(contents) {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|error| {
            io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
        })?;
    }
    Ok(())
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

/// The host's file, with what `--dns`, `--dns-search` and `--dns-option` replace replaced.
fn resolv_conf(base: &str, config: &InstanceConfig) -> String {
    let mut text = String::new();
    for line in base.lines() {
        let is_replaced = match line.split_whitespace().next() {
            Some("nameserver") => !config.dns.is_empty(),
            Some("search" | "domain") => !config.dns_search.is_empty(),
            Some("options") => !config.dns_options.is_empty(),
            _ => false,
        };
        if !is_replaced {
            text.push_str(line);
            text.push('\n');
        }
    }
    for server in &config.dns {
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
    fn added_hosts_come_after_loopback() {
        let text = hosts("", &[("db".to_owned(), "10.0.0.7".parse().unwrap())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("\n10.0.0.7\tdb\n"));
    }

    #[test]
    fn only_what_is_given_replaces_the_hosts_resolver() {
        let base = "# by hand\nnameserver 9.9.9.9\nsearch example.org\noptions ndots:2\n";
        let mut config = InstanceConfig::default();
        assert_eq!(resolv_conf(base, &config), base);
        config.dns = vec!["1.1.1.1".parse().unwrap()];
        config.dns_search = vec![".".to_owned()];
        assert_eq!(
            resolv_conf(base, &config),
            "# by hand\noptions ndots:2\nnameserver 1.1.1.1\n"
        );
    }
}
