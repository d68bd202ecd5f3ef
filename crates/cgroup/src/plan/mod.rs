//! `linux.resources` of a runtime specification, turned into files and values.
//!
//! Pure: [`Plan::new`] reads nothing. Its [`Display`](std::fmt::Display) is what tests compare and
//! logs show. One file a controller, each with its version 1 and version 2 form.
//!
//! As in runc and crun, a value of 0 means "not set" where the kernel could not take 0 anyhow.

mod blkio;
mod cpu;
mod cpuset;
pub mod devices;
mod hugetlb;
mod memory;
mod network;
mod pids;
mod rdma;
mod unified;

use std::borrow::Cow;
use std::fmt;

use oci_spec::runtime::LinuxResources;

use crate::{Error, Layout, Version};
pub use cpu::weight as cpu_weight;
use devices::DeviceRules;

/// One value for one control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The controller in whose hierarchy the file is; `""`: the version 2 hierarchy.
    pub controller: &'static str,
    /// The version of that hierarchy.
    pub version: Version,
    /// The field of `linux.resources` that asks for it, for messages.
    pub limit: &'static str,
    /// The file.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
    /// Written when there is no such file.
    pub otherwise: Otherwise,
}

/// What to do when a kernel lacks the file of a [`Setting`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The limit cannot be enforced: fail.
    Fail,
    /// It only sharpens another one: go on.
    Skip,
    /// This file and value mean the same.
    Write(Cow<'static, str>, String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let controller = if self.controller.is_empty() {
            "unified"
        } else {
            self.controller
        };
        write!(
            f,
            "v{} {controller}: {} = {}",
            self.version, self.file, self.value
        )?;
        match &self.otherwise {
            Otherwise::Fail => Ok(()),
            Otherwise::Skip => f.write_str(" (if there)"),
            Otherwise::Write(file, value) => write!(f, " (else {file} = {value})"),
        }
    }
}

/// What a group has already, as far as a change needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Current {
    /// The first word of version 2's `cpu.max`.
    pub cpu_quota: Option<String>,
    /// Version 2's `memory.max`, when it is a number.
    pub memory_limit: Option<i64>,
}

/// Everything that will be written, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files and values.
    pub settings: Vec<Setting>,
    /// Which devices may be used; `None`: as before.
    pub devices: Option<DeviceRules>,
}

impl Plan {
    /// Plans for the hierarchies of a host.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NoController`] and [`Error::NotInVersion`].
    pub fn new(
        layout: &Layout,
        resources: &LinuxResources,
        current: &Current,
    ) -> Result<Plan, Error> {
        let mut settings = Settings {
            layout,
            list: Vec::new(),
        };
        // cpuset first: without CPUs and memory nodes a version 1 group takes no process.
        if let Some(cpu) = resources.cpu() {
            cpuset::plan(cpu, &mut settings)?;
            cpu::plan(cpu, current, &mut settings)?;
        }
        if let Some(memory) = resources.memory() {
            memory::plan(memory, current, &mut settings)?;
        }
        if let Some(pids) = resources.pids() {
            pids::plan(pids, &mut settings)?;
        }
        if let Some(block_io) = resources.block_io() {
            blkio::plan(block_io, &mut settings)?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            hugetlb::plan(limit, &mut settings)?;
        }
        if let Some(rdma) = resources.rdma() {
            rdma::plan(rdma, &mut settings)?;
        }
        if let Some(network) = resources.network() {
            network::plan(network, &mut settings)?;
        }
        if let Some(unified) = resources.unified() {
            unified::plan(unified, &mut settings)?;
        }
        let list = settings.list;
        let devices = match resources.devices() {
            // In a user namespace without groups there are no device nodes but those that were bound for the instance.
            Some(_)
                if layout.hierarchies().is_empty()
                    && isle_sys::features::is_in_user_namespace() =>
            {
                None
            }
            Some(rules) if !rules.is_empty() => {
                // The limit may be enforced by the devices controller or by a program on version 2.
                if layout.hierarchy("devices").is_none() && layout.hierarchy("").is_none() {
                    return Err(Error::NoController {
                        controller: "devices",
                        limit: "devices",
                    });
                }
                Some(DeviceRules::new(rules)?)
            }
            _ => None,
        };
        Ok(Plan {
            settings: list,
            devices,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for setting in &self.settings {
            writeln!(f, "{setting}")?;
        }
        if let Some(devices) = &self.devices {
            write!(f, "{devices}")?;
        }
        Ok(())
    }
}

/// Collects settings.
struct Settings<'a> {
    layout: &'a Layout,
    list: Vec<Setting>,
}

impl Settings<'_> {
    /// Where a controller is. `limit` asks for it.
    fn version(&self, controller: &'static str, limit: &'static str) -> Result<Version, Error> {
        self.layout
            .version_of(controller)
            .ok_or(Error::NoController { controller, limit })
    }

    fn push(
        &mut self,
        (controller, version): (&'static str, Version),
        limit: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl fmt::Display,
    ) -> &mut Setting {
        self.list.push(Setting {
            controller,
            version,
            limit,
            file: file.into(),
            value: value.to_string(),
            otherwise: Otherwise::Fail,
        });
        self.list.last_mut().expect("just pushed")
    }
}

/// Version 2 writes "no limit" as `max`, version 1 as -1.
fn limit_value(version: Version, value: i64) -> String {
    match version {
        Version::V2 if value < 0 => "max".to_owned(),
        Version::V2 => value.to_string(),
        Version::V1 if value < 0 => "-1".to_owned(),
        Version::V1 => value.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
