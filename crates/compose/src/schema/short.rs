//! Short forms, written out as their long ones.

use super::read::{Reader, expected};
use crate::error::LoadError;
use crate::yaml::{Entry, Node, Value};

type Expanded = Result<Node, LoadError>;

/// The text at a key, or nothing.
pub fn text_of(node: &Node, key: &str) -> String {
    node.get(key).and_then(Node::scalar).unwrap_or_default()
}

fn text(value: &str) -> Option<Value> {
    Some(Value::Text(value.to_owned()))
}

/// `external: {name: x}`, and a name alone.
pub fn external(mut node: Node, _: &Reader<'_>) -> Expanded {
    if node.value == Value::Null {
        node.value = Value::Map(Vec::new());
    }
    if let Some(mut inner) = node.take("external") {
        let name = inner.take("name");
        let is_old = !inner.entries().is_empty() || matches!(inner.value, Value::Map(_));
        let at = inner.at.clone();
        node.set(
            "external",
            if is_old {
                Node::new(Value::Bool(true), &at)
            } else {
                inner
            },
        );
        if let Some(name) = name
            && node.get("name").is_none()
        {
            node.set("name", name);
        }
    }
    Ok(node)
}

/// `include: [file]`
pub fn include(node: Node, _: &Reader<'_>) -> Expanded {
    Ok(match node.scalar() {
        Some(path) => Node::map([("path", text(&path))], &node.at),
        None => node,
    })
}

/// `secrets: [name]`
pub fn grant(node: Node, reader: &Reader<'_>) -> Expanded {
    let node = match node.scalar() {
        Some(source) => Node::map([("source", text(&source))], &node.at),
        None => node,
    };
    need(node, "source", reader)
}

fn need(node: Node, key: &str, reader: &Reader<'_>) -> Expanded {
    match node.get(key) {
        None if matches!(node.value, Value::Map(_)) => {
            Err(reader.wrong(&node, format!("it has no {key}"), format!("write {key}: …")))
        }
        _ => Ok(node),
    }
}

/// `build: folder`. Paths become absolute.
pub fn build(node: Node, reader: &Reader<'_>) -> Expanded {
    let mut node = match &node.value {
        Value::Text(context) => Node::map([("context", text(context))], &node.at),
        _ => node,
    };
    if !matches!(node.value, Value::Map(_)) {
        return Ok(node);
    }
    if let Some(mut context) = node.get("context").cloned()
        && let Some(path) = context.as_text()
        && !is_remote(path)
    {
        context.value = Value::Text(reader.absolute(path));
        node.set("context", context);
    }
    if let Some(contexts) = node.get_mut("additional_contexts")
        && let Value::Map(entries) = &mut contexts.value
    {
        for entry in entries {
            if let Value::Text(path) = &mut entry.node.value
                && !is_remote(path)
                && !path.contains(':')
            {
                *path = reader.absolute(path);
            }
        }
    }
    Ok(node)
}

fn is_remote(context: &str) -> bool {
    context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/")
}

/// `env_file: a` inside the list; the list itself may be one text.
pub fn env_file(node: Node, reader: &Reader<'_>) -> Expanded {
    let node = match node.scalar() {
        Some(path) => Node::map([("path", text(&path))], &node.at),
        None => node,
    };
    need(node, "path", reader)
}

/// `no` without quotes is a text here.
#[allow(clippy::needless_pass_by_value)] // all short forms are of one type
pub fn restart(node: Node, reader: &Reader<'_>) -> Expanded {
    let word = match &node.value {
        Value::Bool(false) => "no".to_owned(),
        Value::Text(word) => word.clone(),
        _ => {
            return Err(expected(
                &node,
                reader,
                "\"no\", always, unless-stopped or on-failure[:N]",
            ));
        }
    };
    let count = word.strip_prefix("on-failure:");
    match word.as_str() {
        "no" | "always" | "unless-stopped" | "on-failure" | "" => {}
        _ if count.is_some_and(|count| count.parse::<u32>().is_ok()) => {}
        _ => {
            return Err(expected(
                &node,
                reader,
                "\"no\", always, unless-stopped or on-failure[:N]",
            ));
        }
    }
    Ok(Node::text(word, &node.at))
}

fn names(node: Node, make: impl Fn(&Node) -> Value) -> Node {
    let Value::List(items) = &node.value else {
        return node;
    };
    let mut map = Node::new(Value::Map(Vec::new()), &node.at);
    for item in items {
        if let Some(name) = item.scalar() {
            map.set(&name, Node::new(make(item), &item.at));
        }
    }
    map
}

/// `depends_on: [a]`
pub fn depends_on(node: Node, reader: &Reader<'_>) -> Expanded {
    let mut node = names(node, |_| Value::Map(Vec::new()));
    if let Value::Map(entries) = &mut node.value {
        for entry in entries {
            if entry.node.value == Value::Null {
                entry.node.value = Value::Map(Vec::new());
            }
            if !matches!(entry.node.value, Value::Map(_)) {
                return Err(expected(
                    &entry.node,
                    reader,
                    "condition: service_started, service_healthy or service_completed_successfully",
                ));
            }
            let at = entry.node.at.clone();
            for (key, default) in [
                ("condition", Value::Text("service_started".into())),
                ("required", Value::Bool(true)),
            ] {
                if entry.node.get(key).is_none() {
                    entry.node.set(key, Node::new(default, &at));
                }
            }
        }
    }
    Ok(node)
}

/// `extends: service`
pub fn extends(node: Node, reader: &Reader<'_>) -> Expanded {
    let node = match node.scalar() {
        Some(service) => Node::map([("service", text(&service))], &node.at),
        None => node,
    };
    need(node, "service", reader)
}

/// `networks: [a]`
pub fn service_networks(node: Node, _: &Reader<'_>) -> Expanded {
    Ok(names(node, |_| Value::Null))
}

/// `extra_hosts` as a mapping, and with `=`: becomes a list of `name:address`.
pub fn extra_hosts(node: Node, reader: &Reader<'_>) -> Expanded {
    let mut lines = Vec::new();
    match &node.value {
        Value::Map(entries) => {
            for Entry { key, node, .. } in entries {
                let addresses: Vec<String> = match &node.value {
                    Value::List(items) => items.iter().filter_map(Node::scalar).collect(),
                    _ => node.scalar().into_iter().collect(),
                };
                if addresses.is_empty() {
                    return Err(expected(node, reader, "an address"));
                }
                lines.extend(
                    addresses
                        .into_iter()
                        .map(|address| Node::text(format!("{key}={address}"), &node.at)),
                );
            }
        }
        Value::List(items) => {
            for item in items {
                let line = item.scalar().unwrap_or_default();
                let split = line.split_once('=').or_else(|| line.split_once(':'));
                let Some((name, address)) = split else {
                    return Err(expected(item, reader, "name=address"));
                };
                let address = address.trim_start_matches('[').trim_end_matches(']');
                lines.push(Node::text(format!("{name}={address}"), &item.at));
            }
        }
        _ => return Ok(node),
    }
    Ok(Node::new(Value::List(lines), &node.at))
}

/// `nofile: 1024`
pub fn ulimit(node: Node, reader: &Reader<'_>) -> Expanded {
    match &node.value {
        Value::Map(_) => need(need(node, "soft", reader)?, "hard", reader),
        _ => Ok(Node::map(
            [
                ("soft", Some(node.value.clone())),
                ("hard", Some(node.value.clone())),
            ],
            &node.at,
        )),
    }
}

/// A text is a command of a shell.
pub fn health_test(node: Node, reader: &Reader<'_>) -> Expanded {
    let node = match &node.value {
        Value::Text(command) => {
            let words = ["CMD-SHELL", command].map(|word| Node::text(word, &node.at));
            Node::new(Value::List(words.to_vec()), &node.at)
        }
        _ => node,
    };
    let first = node.items().first().and_then(Node::as_text);
    match first {
        None if node.items().is_empty() => Ok(node),
        Some("NONE" | "CMD" | "CMD-SHELL") => Ok(node),
        _ => Err(reader.wrong(
            &node,
            "the list does not begin with NONE, CMD or CMD-SHELL",
            "write [\"CMD\", \"program\", \"argument\"], or the command as a text",
        )),
    }
}

/// `/dev/a:/dev/b:rwm`
pub fn device(node: Node, reader: &Reader<'_>) -> Expanded {
    let Some(word) = node.scalar() else {
        return need(node, "source", reader);
    };
    if word.contains('=') && !word.starts_with('/') {
        return Err(reader.wrong(
            &node,
            format!("{word:?} names a device by CDI, which Isle does not read"),
            "name the device nodes, like /dev/dri/card0",
        ));
    }
    let mut parts = word.splitn(3, ':');
    let source = parts.next().unwrap_or_default();
    Ok(Node::map(
        [
            ("source", text(source)),
            ("target", text(parts.next().unwrap_or(source))),
            ("permissions", text(parts.next().unwrap_or("rwm"))),
        ],
        &node.at,
    ))
}

/// `source:target[:options]`
pub fn volume(node: Node, reader: &Reader<'_>) -> Expanded {
    let mut node = match node.scalar() {
        Some(word) => short_volume(&node, &word, reader)?,
        None => node,
    };
    if !matches!(node.value, Value::Map(_)) {
        return Ok(node);
    }
    for key in ["type", "target"] {
        node = need(node, key, reader)?;
    }
    if !text_of(&node, "target").starts_with('/') {
        return Err(reader.wrong(
            &node,
            "the target is not absolute",
            "write a path that starts with /",
        ));
    }
    if text_of(&node, "type") == "bind" {
        let Some(mut source) = node.get("source").cloned() else {
            return need(node, "source", reader);
        };
        source.value = Value::Text(reader.absolute(&source.scalar().unwrap_or_default()));
        node.set("source", source);
    }
    Ok(node)
}

fn short_volume(node: &Node, word: &str, reader: &Reader<'_>) -> Expanded {
    let parts: Vec<&str> = word.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => {
            return Err(expected(
                node,
                reader,
                "SOURCE:TARGET[:OPTIONS], or the long form",
            ));
        }
    };
    let is_bind = source.is_some_and(|source| source.starts_with(['.', '/', '~']));
    let mut long = Node::map(
        [
            ("type", text(if is_bind { "bind" } else { "volume" })),
            ("source", source.and_then(text)),
            (
                "target",
                text(target.trim_end_matches('/'))
                    .filter(|_| target != "/")
                    .or_else(|| text("/")),
            ),
        ],
        &node.at,
    );
    let mut bind = Vec::new();
    if is_bind {
        bind.push(("create_host_path", Some(Value::Bool(true))));
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => long.set("read_only", Node::new(Value::Bool(true), &node.at)),
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" if !is_bind => {
                long.set(
                    "volume",
                    Node::map([("nocopy", Some(Value::Bool(true)))], &node.at),
                );
            }
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if is_bind => {
                bind.push(("propagation", text(option)));
            }
            option => {
                return Err(reader.wrong(
                    node,
                    format!("{option:?} is no option of a mount"),
                    "known are ro, rw, nocopy and the propagations of mount(8)",
                ));
            }
        }
    }
    if !bind.is_empty() {
        long.set("bind", Node::map(bind, &node.at));
    }
    Ok(long)
}

/// A port in its long form.
pub fn long_port(node: Node, reader: &Reader<'_>) -> Expanded {
    let mut node = need(node, "target", reader)?;
    let at = node.at.clone();
    if matches!(node.value, Value::Map(_)) && node.get("protocol").is_none() {
        node.set("protocol", Node::text("tcp", &at));
    }
    match node.get("target").map(|target| &target.value) {
        Some(Value::Int(port)) if !(1..=65535).contains(port) => Err(reader.wrong(
            &node,
            format!("there is no port {port}"),
            "ports are 1 to 65535",
        )),
        _ => Ok(node),
    }
}

/// What makes two published ports the same.
pub fn port_key(node: &Node) -> String {
    ["host_ip", "published", "target", "protocol"]
        .map(|key| text_of(node, key))
        .join("/")
}

/// The items of `ports`: `[[address:]host-port:]port[/protocol]`, with ranges.
pub fn ports(node: Node, reader: &Reader<'_>) -> Expanded {
    let Value::List(items) = node.value else {
        return Ok(node);
    };
    let mut written_out = Vec::with_capacity(items.len());
    for item in items {
        let Some(word) = item.scalar() else {
            written_out.push(item);
            continue;
        };
        let Some(ports) = port(&word) else {
            return Err(reader.wrong(
                &item,
                format!("{word:?} is no port"),
                "write \"8080:80\", \"127.0.0.1:8080:80/udp\" or \"80\"",
            ));
        };
        written_out.extend(ports.into_iter().map(|port| {
            Node::map(
                [
                    ("target", Some(Value::Int(port.target.into()))),
                    ("published", port.published.map(Value::Text)),
                    ("host_ip", port.host.map(Value::Text)),
                    ("protocol", text(&port.protocol)),
                ],
                &item.at,
            )
        }));
    }
    Ok(Node::new(Value::List(written_out), &node.at))
}

/// One item where a list is expected.
pub fn one_or_more(node: Node, _: &Reader<'_>) -> Expanded {
    Ok(match node.value {
        Value::Text(_) | Value::Map(_) => {
            let at = node.at.clone();
            Node::new(Value::List(vec![node]), &at)
        }
        _ => node,
    })
}

struct Port {
    target: u16,
    published: Option<String>,
    host: Option<String>,
    protocol: String,
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

fn port(word: &str) -> Option<Vec<Port>> {
    let (rest, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let (rest, target) = match rest.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, rest),
    };
    let (host, published) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            Some((host, published)) => (
                Some(host.trim_start_matches('[').trim_end_matches(']')),
                Some(published),
            ),
            None => (None, Some(rest)),
        },
    };
    if let Some(host) = host {
        host.parse::<std::net::IpAddr>().ok()?;
    }
    let (first, last) = range(target)?;
    let published = published.filter(|published| !published.is_empty());
    let published_range = published.map(range);
    if published_range == Some(None) || !matches!(protocol, "tcp" | "udp" | "sctp") {
        return None;
    }
    let published_range = published_range.flatten();
    let ports = (first..=last).map(|target| {
        let published = match published_range {
            // A range for one port: the first that is free.
            Some((low, high)) if first == last => match low == high {
                true => Some(low.to_string()),
                false => Some(format!("{low}-{high}")),
            },
            Some((low, high)) => {
                let port = u32::from(low) + u32::from(target - first);
                match high - low == last - first {
                    true => Some(port.to_string()),
                    false => None,
                }
            }
            None => None,
        };
        Port {
            target,
            published,
            host: host.map(str::to_owned),
            protocol: protocol.to_owned(),
        }
    });
    let is_unequal =
        published_range.is_some_and(|(low, high)| first != last && high - low != last - first);
    (!is_unequal).then(|| ports.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(word: &str) -> Option<Vec<String>> {
        let ports = port(word)?;
        Some(
            ports
                .into_iter()
                .map(|p| {
                    format!(
                        "{}|{}|{}|{}",
                        p.host.unwrap_or_default(),
                        p.published.unwrap_or_default(),
                        p.target,
                        p.protocol
                    )
                })
                .collect(),
        )
    }

    #[test]
    fn ports_have_many_forms() {
        let one = |text: &str| Some(vec![text.to_owned()]);
        assert_eq!(spelled("80"), one("||80|tcp"));
        assert_eq!(spelled("8080:80/udp"), one("|8080|80|udp"));
        assert_eq!(spelled("127.0.0.1:8080:80"), one("127.0.0.1|8080|80|tcp"));
        assert_eq!(spelled("127.0.0.1::80"), one("127.0.0.1||80|tcp"));
        assert_eq!(spelled("[::1]:8080:80"), one("::1|8080|80|tcp"));
        assert_eq!(spelled("8000-8010:80"), one("|8000-8010|80|tcp"));
        assert_eq!(
            spelled("90-91:80-81").unwrap(),
            ["|90|80|tcp", "|91|81|tcp"]
        );
        for wrong in [
            "",
            "x",
            "0",
            "70000",
            "90-92:80-81",
            "1:2:3:4",
            "80/icmp",
            "81-80",
        ] {
            assert_eq!(spelled(wrong), None, "{wrong}");
        }
    }
}
