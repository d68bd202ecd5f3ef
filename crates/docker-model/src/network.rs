//! Networks and ports: `NetworkSettings` of `inspect`, `GET /networks/{id}`, the PORTS column.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use isle_engine::Member;
use isle_engine::config::{HostAddress, NetworkMode};
use isle_engine::state::{Connected, Instance, Status};
use isle_network::{Driver, HostPort, Network, Publication, Publish};
use serde_json::{Map, Value, json};

/// Docker's word for a network mode: `none`, `host`, `container:ID`, or the first network's name.
#[must_use]
pub fn mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Instance(name) => format!("container:{name}"),
        NetworkMode::Networks(attachments) => match attachments.first() {
            Some(first) => first.name.clone(),
            None => "none".to_owned(),
        },
    }
}

/// The names of all networks of an instance.
#[must_use]
pub fn names(mode: &NetworkMode) -> Vec<String> {
    match mode {
        NetworkMode::Networks(attachments) => attachments.iter().map(|a| a.name.clone()).collect(),
        NetworkMode::Instance(_) => Vec::new(),
        other => vec![self::mode(other)],
    }
}

/// `--add-host` as `HostConfig.ExtraHosts` shows it.
pub(crate) fn extra_host((name, address): &(String, HostAddress)) -> String {
    format!("{name}:{}", String::from(*address))
}

fn mac(mac: [u8; 6]) -> String {
    let digits: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The addresses of a port of the host, one each.
fn hosts(host: Option<IpAddr>) -> Vec<IpAddr> {
    match host {
        Some(host) => vec![host],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    }
}

/// `{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": null}`
fn ports(instance: &Instance) -> Value {
    let mut ports = Map::new();
    for exposed in &instance.config.exposed_ports {
        ports.insert(exposed.clone(), Value::Null);
    }
    for port in &instance.state.ports {
        let key = format!("{}/{}", port.port, port.protocol);
        let bindings = hosts(port.host).into_iter().map(
            |host| json!({ "HostIp": host.to_string(), "HostPort": port.host_port.to_string() }),
        );
        match ports.get_mut(&key).and_then(Value::as_array_mut) {
            Some(list) => list.extend(bindings),
            None => drop(ports.insert(key, Value::Array(bindings.collect()))),
        }
    }
    Value::Object(ports)
}

/// `HostConfig.PortBindings`: what was asked for.
pub(crate) fn port_bindings(publish: &[Publish]) -> Value {
    let mut bindings = Map::new();
    for wanted in publish {
        let key = format!("{}/{}", wanted.port, wanted.protocol);
        let host_port = match wanted.host_port {
            HostPort::Any => String::new(),
            HostPort::Within(first, last) if first == last => first.to_string(),
            HostPort::Within(first, last) => format!("{first}-{last}"),
        };
        let binding = json!({ "HostIp": text(wanted.host), "HostPort": host_port });
        match bindings.get_mut(&key).and_then(Value::as_array_mut) {
            Some(list) => list.push(binding),
            None => drop(bindings.insert(key, json!([binding]))),
        }
    }
    Value::Object(bindings)
}

fn endpoint(instance: &Instance, name: &str, connected: Option<&Connected>) -> Value {
    let attachments = instance.config.network.attachments();
    let asked = attachments
        .iter()
        .find(|attachment| attachment.name == name);
    let ipam = asked.filter(|asked| asked.ipv4.is_some() || asked.ipv6.is_some());
    let mut value = json!({
        "IPAMConfig": ipam.map(|asked| json!({
            "IPv4Address": text(asked.ipv4),
            "IPv6Address": text(asked.ipv6),
        })),
        "Links": null,
        "Aliases": asked.map(|asked| &asked.aliases),
        "NetworkID": asked.map_or("", |asked| &asked.network),
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": "",
        "DriverOpts": null,
        "DNSNames": null,
    });
    if let Some(connected) = connected {
        value["EndpointID"] = json!(connected.endpoint_id);
        value["Gateway"] = json!(text(connected.gateway));
        value["IPAddress"] = json!(text(connected.ipv4.map(|net| net.addr())));
        value["IPPrefixLen"] = json!(connected.ipv4.map_or(0, |net| net.prefix_len()));
        value["IPv6Gateway"] = json!(text(connected.ipv6_gateway));
        value["GlobalIPv6Address"] = json!(text(connected.ipv6.map(|net| net.addr())));
        value["GlobalIPv6PrefixLen"] = json!(connected.ipv6.map_or(0, |net| net.prefix_len()));
        value["MacAddress"] = json!(mac(connected.mac));
        value["DNSNames"] = json!(connected.names);
    }
    value
}

/// `NetworkSettings` of an instance.
#[must_use]
pub fn settings(instance: &Instance) -> Value {
    let state = &instance.state;
    let sandbox_key = match (state.status, state.pid) {
        (Status::Running | Status::Paused, Some(pid)) => format!("/proc/{pid}/ns/net"),
        _ => String::new(),
    };
    let mut networks = Map::new();
    for name in names(&instance.config.network) {
        let connected = state.networks.iter().find(|one| one.network == name);
        networks.insert(name.clone(), endpoint(instance, &name, connected));
    }
    // Docker has the default network's once more at this place.
    let of_default = state
        .networks
        .iter()
        .find(|one| one.network == isle_network::DEFAULT);
    let first = endpoint(instance, isle_network::DEFAULT, of_default);
    json!({
        "Bridge": "",
        "SandboxID": "",
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports(instance),
        "SandboxKey": sandbox_key,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": first["EndpointID"],
        "Gateway": first["Gateway"],
        "GlobalIPv6Address": first["GlobalIPv6Address"],
        "GlobalIPv6PrefixLen": first["GlobalIPv6PrefixLen"],
        "IPAddress": first["IPAddress"],
        "IPPrefixLen": first["IPPrefixLen"],
        "IPv6Gateway": first["IPv6Gateway"],
        "MacAddress": first["MacAddress"],
        "Networks": networks,
    })
}

/// One network with the instances that are on it.
#[must_use]
pub fn inspect(network: &Network, members: &[Member]) -> Value {
    let spec = &network.spec;
    let configs: Vec<Value> = spec
        .subnets
        .iter()
        .map(|subnet| {
            let mut config = json!({ "Subnet": subnet.subnet.to_string() });
            if let Some(range) = subnet.range {
                config["IPRange"] = json!(range.to_string());
            }
            if let Some(gateway) = subnet.gateway {
                config["Gateway"] = json!(gateway.to_string());
            }
            if !subnet.reserved.is_empty() {
                config["AuxiliaryAddresses"] = json!(subnet.reserved);
            }
            config
        })
        .collect();
    let containers: Map<String, Value> = members
        .iter()
        .map(|member| {
            let endpoint = &member.endpoint;
            let value = json!({
                "Name": member.name,
                "EndpointID": endpoint.id,
                "MacAddress": mac(endpoint.mac),
                "IPv4Address": text(endpoint.ipv4),
                "IPv6Address": text(endpoint.ipv6),
            });
            (endpoint.instance.clone(), value)
        })
        .collect();
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created_at.to_string(),
        "Scope": "local",
        "Driver": spec.driver.name(),
        "EnableIPv4": network.subnet(false).is_some(),
        "EnableIPv6": network.subnet(true).is_some(),
        "IPAM": { "Driver": "default", "Options": {}, "Config": configs },
        "Internal": spec.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options(network),
        "Labels": spec.labels,
    })
}

/// Docker's words for what is special about it.
fn options(network: &Network) -> Value {
    let spec = &network.spec;
    let mut options = Map::new();
    match &spec.driver {
        Driver::Macvlan { parent, mode } => {
            options.insert("parent".to_owned(), json!(parent));
            options.insert("macvlan_mode".to_owned(), json!(mode));
        }
        Driver::Bridge => {
            options.insert(
                "com.docker.network.bridge.name".to_owned(),
                json!(network.link),
            );
        }
    }
    for (key, value) in &spec.options {
        options.insert(key.clone(), json!(value));
    }
    Value::Object(options)
}

/// The PORTS column: `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp`. Ports that follow each other are one
/// range.
#[must_use]
pub fn ports_text(instance: &Instance) -> String {
    if !matches!(instance.state.status, Status::Running | Status::Paused) {
        return String::new();
    }
    let published = &instance.state.ports;
    let mut bound: Vec<(IpAddr, &Publication)> = published
        .iter()
        .flat_map(|port| hosts(port.host).into_iter().map(move |host| (host, port)))
        .collect();
    bound.sort_by_key(|(host, port)| {
        (
            port.protocol,
            port.port,
            host.is_ipv6(),
            *host,
            port.host_port,
        )
    });
    let mut done = vec![false; bound.len()];
    let mut parts = Vec::new();
    for start in 0..bound.len() {
        if std::mem::replace(&mut done[start], true) {
            continue;
        }
        let (host, first) = bound[start];
        let mut length = 1_u16;
        let mut follows = |wanted: (u16, u16)| {
            let found = bound.iter().enumerate().find(|(index, (other, port))| {
                !done[*index]
                    && *other == host
                    && port.protocol == first.protocol
                    && (port.port, port.host_port) == wanted
            });
            let index = found.map(|(index, _)| index);
            index.inspect(|index| done[*index] = true).is_some()
        };
        while let (Some(port), Some(host_port)) = (
            first.port.checked_add(length),
            first.host_port.checked_add(length),
        ) && follows((port, host_port))
        {
            length += 1;
        }
        let range = |from: u16| match length {
            1 => from.to_string(),
            length => format!("{from}-{}", from + (length - 1)),
        };
        let host = match host {
            IpAddr::V4(host) => host.to_string(),
            IpAddr::V6(host) => format!("[{host}]"),
        };
        let (from, to) = (range(first.host_port), range(first.port));
        parts.push(format!("{host}:{from}->{to}/{}", first.protocol));
    }
    for exposed in &instance.config.exposed_ports {
        let is_published = published
            .iter()
            .any(|port| *exposed == format!("{}/{}", port.port, port.protocol));
        if !is_published {
            parts.push(exposed.clone());
        }
    }
    parts.join(", ")
}

/// One line of `port`: `0.0.0.0:8080`.
#[must_use]
pub fn host_side(port: &Publication) -> Vec<String> {
    let hosts = hosts(port.host).into_iter();
    hosts
        .map(|host| match host {
            IpAddr::V4(host) => format!("{host}:{}", port.host_port),
            IpAddr::V6(host) => format!("[{host}]:{}", port.host_port),
        })
        .collect()
}
