//! `NetworkSettings` of `inspect`.

use isle_engine::config::NetworkMode;
use isle_engine::state::{Instance, Status};
use serde_json::{Value, json};

/// Docker's word for a network mode: `none`, `host`, `container:ID`.
pub fn mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Instance(name) => format!("container:{name}"),
    }
}

pub fn settings(instance: &Instance) -> Value {
    let name = match &instance.config.network {
        NetworkMode::Instance(_) => None,
        other => Some(mode(other)),
    };
    let sandbox_key = match (instance.state.status, instance.state.pid) {
        (Status::Running | Status::Paused, Some(pid)) => format!("/proc/{pid}/ns/net"),
        _ => String::new(),
    };
    let mut networks = json!({});
    if let Some(name) = name {
        networks[name] = json!({
            "IPAMConfig": null,
            "Links": null,
            "Aliases": null,
            "NetworkID": "",
            "EndpointID": "",
            "Gateway": "",
            "IPAddress": "",
            "IPPrefixLen": 0,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "MacAddress": "",
            "DriverOpts": null,
        });
    }
    json!({
        "Bridge": "",
        "SandboxID": "",
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": {},
        "SandboxKey": sandbox_key,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": networks,
    })
}
