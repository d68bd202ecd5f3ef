//! What stays of a specification once its first process runs.

use isle_seccomp::Instruction;
use oci_spec::runtime::{Linux, LinuxSeccomp, Spec};

/// What a further process needs of the specification; the whole is too large to be kept at rest.
#[derive(Debug)]
pub struct Kept {
    /// With the namespaces only, and the seccomp policy without its rules.
    pub spec: Spec,
    /// The rules, a few kilobytes as the kernel takes them.
    pub program: Option<Vec<Instruction>>,
}

impl Kept {
    /// # Errors
    /// When the policy is none for this kernel.
    pub fn of(spec: &Spec) -> Result<Kept, isle_seccomp::CompileError> {
        let linux = spec.linux().as_ref();
        let policy = linux.and_then(|linux| linux.seccomp().as_ref());
        let program = policy.map(isle_seccomp::compile).transpose()?;
        let mut kept = Linux::default();
        kept.set_namespaces(linux.and_then(|linux| linux.namespaces().clone()))
            .set_seccomp(policy.map(without_rules));
        let mut small = Spec::default();
        small
            .set_process(None)
            .set_root(None)
            .set_mounts(None)
            .set_linux(Some(kept));
        Ok(Kept {
            spec: small,
            program,
        })
    }
}

fn without_rules(policy: &LinuxSeccomp) -> LinuxSeccomp {
    let mut kept = LinuxSeccomp::default();
    kept.set_default_action(policy.default_action())
        .set_default_errno_ret(policy.default_errno_ret())
        .set_flags(policy.flags().clone());
    kept
}
