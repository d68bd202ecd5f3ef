//! KVM and what belongs to it.

use std::path::Path;
use std::time::Duration;

use isle_kernel::{KernelError, Kernels};
use isle_sys::kvm::{self, Outcome};

use crate::{Check, Section, State};

const SECTION: Section = Section::Virtualization;
const VM: &[&str] = &["vm with hardware speed"];
/// Working hosts answer within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) const KVM: &str = "KVM";
pub(crate) const KERNEL: &str = "guest kernel";

pub(crate) fn checks(root: &Path) -> Vec<Check> {
    vec![
        kvm_check(),
        kernel_check(root),
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

/// Its files are there; what is in them is looked at when a machine boots.
fn kernel_check(root: &Path) -> Check {
    let (check, remedy) = match Kernels::new(root).current() {
        Ok(kernel) => {
            let of = &kernel.description;
            let found = format!("{} ({})", of.name, of.origin.kind());
            (Check::ok(SECTION, KERNEL, found), None)
        }
        Err(error) => {
            let state = match error {
                KernelError::NoneInstalled | KernelError::NoneChosen { .. } => State::Missing,
                _ => State::Unusable,
            };
            let check = Check::ok(SECTION, KERNEL, error.to_string()).or_state(false, state);
            (check, error.hint())
        }
    };
    check
        .meaning("what a virtual machine boots from", &["vm"])
        .remedy(remedy.unwrap_or_else(|| "look at it with `isle kernel ls`".to_owned()))
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
