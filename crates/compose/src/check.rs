//! Whether a project makes sense as a whole.

use isle_types::{Isolation, nearest};

use crate::error::LoadError;
use crate::yaml::{Entry, Node, Value};

/// What a network can be asked for.
pub(crate) fn networks(tree: &Node) -> Result<(), LoadError> {
    for Entry { key, node, .. } in tree.get("networks").map(Node::entries).unwrap_or_default() {
        let wrong = |node: &Node, field: &str, reason: &str, hint: &str| LoadError::Value {
            at: node.at.clone(),
            path: format!("networks.{key}.{field}"),
            reason: reason.to_owned(),
            hint: hint.to_owned(),
        };
        if let Some(ipv4) = node.get("enable_ipv4")
            && matches!(ipv4.value, Value::Bool(false))
        {
            return Err(wrong(
                ipv4,
                "enable_ipv4",
                "only a network whose subnets are all of IPv6 has no IPv4",
                "leave it out, and give the subnet below ipam.config",
            ));
        }
        if let Some(driver) = node.get("ipam").and_then(|ipam| ipam.get("driver"))
            && driver.as_text() != Some("default")
        {
            return Err(wrong(
                driver,
                "ipam.driver",
                "addresses are given out by Isle alone",
                "leave it out",
            ));
        }
    }
    Ok(())
}

/// Everything that a service refers to is there.
pub(crate) fn services(tree: &Node) -> Result<(), LoadError> {
    let has = |section: &str, name: &str| {
        tree.get(section)
            .is_some_and(|node| node.get(name).is_some())
    };
    let services = tree.get("services").map(Node::entries).unwrap_or_default();
    for Entry { key, node, .. } in services.iter().filter(|entry| !entry.key.starts_with("x-")) {
        let path = |field: &str| format!("services.{key}.{field}");
        let missing = |at: &crate::At, field: &str, kind: &'static str, name: &str| {
            let section = match kind {
                "service" => "services",
                "network" => "networks",
                "volume" => "volumes",
                "secret" => "secrets",
                _ => "configs",
            };
            let known = tree.get(section).map(Node::entries).unwrap_or_default();
            let known = known.iter().map(|entry| entry.key.as_str());
            LoadError::Missing {
                at: at.clone(),
                path: path(field),
                kind,
                name: name.to_owned(),
                hint: match nearest(name, known) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => format!("declare it below `{section}:`"),
                },
            }
        };
        let wrong = |node: &Node, field: &str, reason: String, hint: &str| LoadError::Value {
            at: node.at.clone(),
            path: path(field),
            reason,
            hint: hint.to_owned(),
        };
        for entry in node
            .get("depends_on")
            .map(Node::entries)
            .unwrap_or_default()
        {
            if !has("services", &entry.key) {
                return Err(missing(&entry.at, "depends_on", "service", &entry.key));
            }
        }
        for entry in node.get("networks").map(Node::entries).unwrap_or_default() {
            if !has("networks", &entry.key) {
                return Err(missing(&entry.at, "networks", "network", &entry.key));
            }
        }
        if let (Some(mode), Some(networks)) = (node.get("network_mode"), node.get("networks"))
            && !networks.entries().is_empty()
        {
            return Err(wrong(
                mode,
                "network_mode",
                "network_mode and networks do not go together".into(),
                "leave one of them out",
            ));
        }
        for link in node.get("links").map(Node::items).unwrap_or_default() {
            let text = link.scalar().unwrap_or_default();
            if let Some((service, alias)) = text.split_once(':')
                && service != alias
            {
                return Err(wrong(
                    link,
                    "links",
                    format!("{alias:?} cannot be a name of {service} for one service alone"),
                    "write the service alone, and the name among the aliases of its networks",
                ));
            }
        }
        for (field, kind) in [("secrets", "secret"), ("configs", "config")] {
            for grant in node.get(field).map(Node::items).unwrap_or_default() {
                let source = grant
                    .get("source")
                    .and_then(Node::scalar)
                    .unwrap_or_default();
                if !has(field, &source) {
                    return Err(missing(&grant.at, field, kind, &source));
                }
            }
        }
        for mount in node.get("volumes").map(Node::items).unwrap_or_default() {
            let kind = mount.get("type").and_then(Node::scalar).unwrap_or_default();
            if !matches!(kind.as_str(), "bind" | "volume" | "tmpfs") {
                return Err(wrong(
                    mount,
                    "volumes",
                    format!("there are no mounts of the type {kind}"),
                    "choose bind, volume or tmpfs",
                ));
            }
            let source = mount.get("source").and_then(Node::scalar);
            if let Some(source) = source.filter(|_| kind == "volume")
                && !has("volumes", &source)
            {
                return Err(missing(&mount.at, "volumes", "volume", &source));
            }
        }
        let replicas = node
            .get("scale")
            .or_else(|| node.get("deploy").and_then(|deploy| deploy.get("replicas")));
        if let (Some(name), Some(Value::Int(2..))) =
            (node.get("container_name"), replicas.map(|node| &node.value))
        {
            return Err(wrong(
                name,
                "container_name",
                "several replicas cannot have one name".into(),
                "leave container_name out, or scale to 1",
            ));
        }
        if let Some(replicas) = replicas.filter(|node| matches!(node.value, Value::Int(..0))) {
            return Err(wrong(
                replicas,
                "deploy.replicas",
                "a number below 0".into(),
                "write how many instances there are to be",
            ));
        }
        let of_isle = node.get("x-isle").and_then(|isle| isle.get("isolation"));
        if let Some(level) = of_isle.or_else(|| node.get("isolation")) {
            let text = level.scalar().unwrap_or_default();
            if !matches!(text.as_str(), "" | "default")
                && let Err(error) = text.parse::<Isolation>()
            {
                return Err(wrong(
                    level,
                    "isolation",
                    error.to_string(),
                    "choose container or vm",
                ));
            }
        }
        if let Some(mode) = node.get("deploy").and_then(|deploy| deploy.get("mode"))
            && mode.as_text() != Some("replicated")
        {
            return Err(wrong(
                mode,
                "deploy.mode",
                "there is one host".into(),
                "leave it out; replicas run until they end",
            ));
        }
    }
    Ok(())
}
