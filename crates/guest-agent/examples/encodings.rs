//! What it costs to read an order to start a process, when no instruction of the reading was executed before: as the
//! first process of a virtual machine (an initramfs with nothing else), print and switch off.

#![allow(clippy::unwrap_used, reason = "it measures, and nobody relies on it")]

use std::time::Instant;

use isle_runtime::{Options, Plan};
use oci_spec::runtime::Spec;

const SPEC: &str = include_str!("../tests/support/spec.json");

fn plan(spec: &Spec) -> Plan {
    let policy = isle_seccomp::Profile::docker_default().resolve(&Default::default());
    let options = Options {
        is_for_guest: true,
        seccomp: Some(isle_seccomp::compile(&policy).unwrap()),
        ..Options::default()
    };
    Plan::new(spec, options).unwrap()
}

fn main() {
    let is_guest = std::process::id() == 1;
    if !is_guest {
        let spec: Spec = serde_json::from_str(SPEC).unwrap();
        let bytes = isle_guest_protocol::encode(&plan(&spec));
        println!(
            "specification {} bytes, plan {} bytes",
            serde_json::to_vec(&spec).unwrap().len(),
            bytes.len()
        );
        std::fs::write("plan", bytes).unwrap();
        return;
    }
    let bytes = std::fs::read("/plan").unwrap();
    let begun = Instant::now();
    let sent: Plan = isle_guest_protocol::decode(&bytes).unwrap();
    let plan_ms = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let spec: Spec = serde_json::from_str(SPEC).unwrap();
    let spec_ms = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let options = Options {
        is_for_guest: true,
        seccomp: Some(Vec::new()),
        ..Options::default()
    };
    let made = Plan::new(&spec, options).unwrap();
    let made_ms = begun.elapsed().as_secs_f64() * 1e3;
    std::hint::black_box((sent, made));
    println!(
        "plan, postcard: {plan_ms:.1} ms; specification, JSON: {spec_ms:.1} ms; planning: {made_ms:.1} ms"
    );
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}
