//! The agent in a guest: its first process, which makes the guest one certain instance and runs it.
//!
//! ```text
//!  kernel ──> main ──> boot: mounts, modules, the port ──> Agent: one epoll loop
//!                                                            │  HELLO, requests, streams    (port)
//!                                                            │  children that have ended    (SIGCHLD)
//!                                                            └  pipes and terminals         (tasks)
//! ```
//!
//! One thread (two more for folders of the host, [`shares`]), no asynchronous runtime, no log. In a template the agent has done everything that is the same for
//! all instances and waits in epoll_wait(2); a clone wakes up there, and what it hears first makes it an instance
//! ([`prepare`]). Every instruction that it executes from there to the execve(2) of the workload may be one that
//! was never executed in this virtual machine, and without hardware virtualization has to be translated first: so
//! what can be decided elsewhere is decided elsewhere (the plans come from the host, see `isle_runtime::Plan`), and
//! what can be done before is done at boot.
//!
//! The workload runs as in a container: namespaces, cgroup, capabilities and seccomp of its own, by the same code
//! (`isle_runtime`). What reads and writes trees of files runs in a process of its own ([`helper`]), so that
//! whatever is in them, the agent goes on.
//!
//! The protocol is in `isle_guest_protocol`, the other end in `isle_guest`.

#![forbid(unsafe_code)]

mod agent;
mod boot;
mod children;
mod control_group;
mod failure;
mod helper;
mod last_words;
mod lists;
mod network;
mod network_card;
mod port;
mod prepare;
mod shares;
mod shutdown;
mod stats;
mod streams;
mod task;
mod workload;

pub use agent::{Agent, Place};
pub use boot::main;
pub use isle_guest_protocol::REHEARSAL;
pub use shares::mount as mount_shares;
