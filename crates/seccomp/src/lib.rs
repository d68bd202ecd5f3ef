//! Seccomp policies: Docker's profile format, the default policy, and a compiler to BPF.

#![forbid(unsafe_code)]

use oci_spec::runtime::{Capabilities, LinuxSeccomp};

/// A profile in Docker's JSON format (`includes`, `excludes`, `archMap`, …).
#[derive(Clone, Debug)]
pub struct Profile {
    todo: (),
}

/// Why a profile is not one.
#[derive(Debug, thiserror::Error)]
#[error("invalid seccomp profile")]
pub struct ProfileError {}

/// Why a policy cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[error("cannot compile the seccomp policy")]
pub struct CompileError {}

/// One classic BPF instruction, `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Profile {
    /// Docker's default policy.
    #[must_use]
    pub fn docker_default() -> Profile {
        todo!()
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// [`ProfileError`] with the place and the value that is wrong.
    pub fn parse(_json: &str) -> Result<Profile, ProfileError> {
        todo!()
    }

    /// The policy for a process with these capabilities on this architecture and kernel.
    #[must_use]
    pub fn resolve(&self, _bounding: &Capabilities) -> LinuxSeccomp {
        todo!()
    }
}

/// Compiles a policy to the program that seccomp(2) takes.
///
/// # Errors
/// [`CompileError`] for an action, operator or architecture that the kernel does not have.
pub fn compile(_policy: &LinuxSeccomp) -> Result<Vec<Instruction>, CompileError> {
    todo!()
}
