//! KVM and what belongs to it.

use std::path::Path;
use std::time::Duration;

use isle_sys::kvm::{self, Outcome};

use crate::{Check, Section, State};

const SECTION: Section = Section::Virtualization;
const VM: &[&str] = &["vm with hardware speed"];
/// Working hosts answer within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) const KVM: &str = "KVM";

pub(crate) fn checks() -> Vec<Check> {
    vec![
        kvm_check(),
        Check::there(
            SECTION,
            "vhost-vsock",
            Path::new("/dev/vhost-vsock").exists(),
        )
        .meaning(
            "a socket between host and guest; a serial port does it too",
            &["optional"],
        )
        .remedy("load the module: modprobe vhost_vsock"),
        Check::there(SECTION, "vhost-net", Path::new("/dev/vhost-net").exists())
            .meaning("network of VMs in the kernel", &["optional"])
            .remedy("load the module: modprobe vhost_net"),
    ]
}

fn kvm_check() -> Check {
    let check = if Path::new("/dev/kvm").exists() {
        let (found, works) = match kvm::probe(PATIENCE) {
            Ok(outcome) => (words(outcome), outcome == Outcome::Works),
            Err(error) => (format!("could not be tried: {error}"), false),
        };
        Check::ok(SECTION, KVM, found).or_state(works, State::Unusable)
    } else {
        Check::ok(SECTION, KVM, "no /dev/kvm").or_state(false, State::Missing)
    };
    let remedy = match check.state {
        State::Missing => {
            "switch virtualization on in the firmware and load kvm_intel or kvm_amd; in a cloud, take an instance with nested virtualization or bare metal"
        }
        _ => {
            "the host above this one must offer nested virtualization; else VMs run in software (TCG), which is no security boundary"
        }
    };
    check
        .meaning(
            "virtual machines at the processor's speed, walled off by it",
            VM,
        )
        .remedy(remedy)
}

fn words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Works => "runs a guest".to_owned(),
        Outcome::Refused { step, errno } => {
            let error = std::io::Error::from_raw_os_error(errno);
            format!("{step}: {error}")
        }
        // KVM_EXIT_INTERNAL_ERROR
        Outcome::Stopped { reason: 17 } => {
            "/dev/kvm is there, but cannot carry out what every kernel does (a guest stopped at a privileged instruction)".to_owned()
        }
        // KVM_EXIT_SHUTDOWN
        Outcome::Stopped { reason: 8 } => {
            "/dev/kvm is there, but a guest could not take an exception".to_owned()
        }
        Outcome::Stopped { reason } => {
            format!("/dev/kvm is there, but a guest stopped for reason {reason}")
        }
        Outcome::TimedOut => "/dev/kvm is there, but a guest did not come to its end".to_owned(),
    }
}
