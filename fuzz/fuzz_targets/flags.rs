//! Environment and label files, and every flag that has a grammar of its own.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[path = "../../bin/isle/src/flags/mod.rs"]
#[allow(dead_code)]
mod flags;

use flags::{
    capability, csv, detach_keys, device, environment, labels, mount, namespace, network, restart,
    security, time, ulimit,
};

fuzz_target!(|text: &str| {
    let file = Path::new("file");
    let nothing = |_: &str| None;
    if let Ok(variables) = environment::file(text, file, nothing) {
        for variable in variables {
            assert!(!variable.starts_with('=') && !variable.contains(['\n', '\0']), "{variable:?}");
        }
    }
    let _ = environment::variable(text, nothing);
    let _ = labels::file(text, file);
    let _ = labels::label(text);
    let _ = csv::fields(text);
    for mount in [mount::volume(text), mount::mount(text), mount::tmpfs(text)]
        .into_iter()
        .flatten()
    {
        assert!(mount.target.starts_with('/'), "{mount:?}");
    }
    let _ = capability::capability(text);
    let _ = detach_keys::detach_keys(text);
    let _ = device::device(text);
    let _ = namespace::user(text);
    let _ = namespace::ipc(text);
    let _ = network::mode(text);
    let _ = network::host(text);
    let _ = network::expose(text);
    let _ = restart::policy(text);
    let _ = security::apply(&mut Default::default(), text, |_| Ok(text.to_owned()));
    let _ = time::moment(text, jiff::Timestamp::UNIX_EPOCH);
    let _ = time::seconds(text);
    let _ = ulimit::ulimit(text);
    let _ = text.parse::<isle_types::ByteSize>();
    let _ = text.parse::<isle_types::Signal>();
    let _ = text.parse::<isle_types::InstanceName>();
    let _ = isle_types::parse_duration(text);
});
