//! Virtual machines: a description becomes a QEMU that is confined, and is spoken with.
//!
//! - [`Machine`] says what a virtual machine is; a pure function turns it into QEMU's arguments.
//! - [`Store::ensure`] boots a machine once and keeps its memory and state: a [`Template`].
//! - [`Starting`] is a copy of a template (or a machine that boots) whose QEMU is on its way: what is
//!   written to its first port now is there when the guest runs. [`Starting::finish`] makes it a [`Vm`].
//! - [`Pool`] keeps copies that are loaded and stopped, to be taken in a few milliseconds.
//! - [`Monitor`] is the protocol behind the verbs of a [`Vm`], and what QEMU tells by itself.
//!
//! ```no_run
//! # use std::{path::Path, time::Duration};
//! # use isle_qemu::*;
//! # fn example(machine: &Machine, id: &isle_types::InstanceId) -> Result<(), Box<dyn std::error::Error>> {
//! let run = Path::new("/run/isle");
//! let program = Program::find(machine.architecture, machine.accelerator, &run.join("templates"))?;
//! let store = Store {
//!     directory: "/var/lib/isle/templates".into(),
//!     checked: run.join("templates"),
//! };
//! let patience = Duration::from_secs(30);
//! let making = Making { cgroup: None, patience };
//! let template = store.ensure(&program, machine, &making, &mut |_agent, _deadline| Ok(()), &mut |_| {})?;
//! let mut starting = Starting::clone_of(&template, Launch {
//!     run_directory: &run.join("instances/1"),
//!     identity: Identity::of_instance(id),
//!     cgroup: None,
//!     disks: Vec::new(),
//!     taps: Vec::new(),
//!     patience,
//!     dies_with_starter: false,
//! })?;
//! let agent = starting.take_agent().expect("the machine has a port");
//! std::io::Write::write_all(&mut &agent, b"all that it is to do first")?;
//! let mut vm = starting.finish()?;
//! vm.pause()?;
//! # Ok(())
//! # }
//! ```
//!
//! The notes on what was measured and tried are in docs/decisions/0011-templates.md.

#![forbid(unsafe_code)]

mod arguments;
pub mod confinement;
mod file_identity;
mod machine;
pub mod memory;
mod monitor;
pub mod pool;
mod process;
mod program;
mod sockets;
mod start;
pub mod template;
mod throttle;
mod vm;

pub use confinement::Identity;
pub use isle_types::Accelerator;
pub use machine::{Architecture, Boot, Devices, DiskSlot, Machine, MachineError, Profile};
pub use memory::MemoryError;
pub use monitor::{Event, Monitor, MonitorError, Sent};
pub use pool::{Pool, PoolError, PoolSummary};
pub use process::{Ended, ProcessError};
pub use program::{Program, ProgramError, Version};
pub use start::{Launch, StartError, Starting};
pub use template::{Heir, Key, Making, Progress, Store, Subject, Summary, Template, TemplateError};
pub use throttle::Throttle;
pub use vm::{Memory, Vm, VmError, host_memory};
