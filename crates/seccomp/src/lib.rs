//! Seccomp policies: Docker's profile format, the default policy, and a compiler to BPF.
//!
//! A [`Profile`] (Docker's JSON format, or [`Profile::docker_default`]) says what is allowed under
//! which conditions; [`Profile::resolve`] turns it into the policy of an OCI runtime specification
//! for one process; [`compile`] turns that into the program that seccomp(2) takes.
//!
//! ```
//! use isle_seccomp::{Profile, compile};
//! let policy = Profile::docker_default().resolve(&Default::default());
//! let program = compile(&policy).expect("the default policy is valid");
//! assert!(program.len() < 4096);
//! ```
//!
//! # Meaning of a policy
//! For each system call the rules with arguments are asked in order, and the first whose
//! comparisons all hold decides; then a rule without arguments; then the default action. Names
//! that an architecture does not have are left out there. A system call with a number above all
//! that the policy names fails with `ENOSYS` if it would fail with another error: the policy is
//! older than the call, and programs know what to do then (runc does the same). Calls of an
//! architecture that the policy does not list kill the process.
//!
//! Specifications: [runtime-spec](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp),
//! seccomp(2), the kernel's `Documentation/userspace-api/seccomp_filter.rst`. Why not libseccomp:
//! docs/decisions/0003-seccomp-compiler.md.

#![forbid(unsafe_code)]

mod action;
mod architecture;
mod assembly;
mod compile;
mod default_policy;
mod profile;

pub use assembly::Instruction;
pub use compile::{CompileError, Machine, compile, compile_for};
pub use profile::{Profile, ProfileError};
