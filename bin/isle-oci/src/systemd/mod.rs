//! Control groups made by systemd: a transient scope for each container (`--systemd-cgroup`).
//!
//! `linux.cgroupsPath` is `slice:prefix:name` then, as runc has it: the scope is `prefix-name.scope` in that slice. A
//! scope has a process from its beginning; that is one of ours which waits until the container's first process has
//! been made in the group. The scope is delegated, so limits are written to the group as without systemd, and those
//! that systemd knows are told to it as well: it would write its own over them later.
//!
//! See org.freedesktop.systemd1(5) and [CONTROL_GROUP_INTERFACE](https://systemd.io/CONTROL_GROUP_INTERFACE/).

mod bus;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isle_sys::launch::{self, Step};
use oci_spec::runtime::LinuxResources;
use rustix::process::{WaitId, WaitIdOptions};
use zvariant::{OwnedObjectPath, OwnedValue, Value};

use bus::{CallError, Connection, Method};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: Method<'static> = Method {
    destination: SYSTEMD,
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "",
};

/// A property of a unit, for a transient one.
type Property = (&'static str, Value<'static>);

/// Where a container's scope is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    slice: String,
    /// Name of the unit.
    pub(crate) scope: String,
}

impl Place {
    /// From `linux.cgroupsPath`; `default_slice` when it names none.
    pub(crate) fn new(
        cgroups_path: Option<&str>,
        id: &str,
        default_slice: &str,
    ) -> anyhow::Result<Place> {
        let given = cgroups_path.unwrap_or("");
        let (slice, prefix, name) = match given.split(':').collect::<Vec<_>>()[..] {
            [""] => (default_slice, "isle-oci", id),
            [slice, prefix, name] => (slice, prefix, name),
            _ => bail!(
                "linux.cgroupsPath {given:?}: systemd makes control groups from slice:prefix:name"
            ),
        };
        let slice = if slice.is_empty() {
            default_slice
        } else {
            slice
        };
        let is_name = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
        };
        let stem = slice.strip_suffix(".slice");
        let is_slice = stem.is_some_and(|stem| {
            stem == "-"
                || !(stem.is_empty()
                    || stem.starts_with('-')
                    || stem.ends_with('-')
                    || stem.contains("--"))
        });
        if !is_slice || !is_name(slice) {
            bail!("linux.cgroupsPath {given:?}: {slice:?} is not the name of a slice");
        }
        if name.is_empty() || !is_name(name) || !is_name(prefix) || name.ends_with(".slice") {
            bail!("linux.cgroupsPath {given:?}: {name:?} does not make the name of a scope");
        }
        let scope = match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        Ok(Place {
            slice: slice.to_owned(),
            scope,
        })
    }
}

/// The limits that systemd has properties for, in version 2.
fn limits(resources: &LinuxResources, is_unified: bool) -> Vec<Property> {
    let mut properties = Vec::new();
    if !is_unified {
        return properties;
    }
    let amount = |bytes: i64| u64::try_from(bytes).unwrap_or(u64::MAX);
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|&bytes| bytes != 0);
        if let Some(limit) = limit {
            properties.push(("MemoryMax", Value::from(amount(limit))));
        }
        if let Some(reservation) = memory.reservation().filter(|&bytes| bytes != 0) {
            properties.push(("MemoryLow", Value::from(amount(reservation))));
        }
        match (memory.swap().filter(|&bytes| bytes != 0), limit) {
            (Some(swap), _) if swap < 0 => {
                properties.push(("MemorySwapMax", Value::from(u64::MAX)))
            }
            (Some(swap), Some(limit)) if limit > 0 => {
                properties.push(("MemorySwapMax", Value::from(amount(swap - limit))));
            }
            _ => {}
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
            properties.push((
                "CPUWeight",
                Value::from(isle_cgroup::plan::cpu_weight(shares)),
            ));
        }
        let period = cpu.period().filter(|&period| period != 0);
        if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
            let each_second = match u64::try_from(quota) {
                // in steps of 10 ms, which systemd rounds down to
                Ok(quota) => {
                    (quota * 1_000_000 / period.unwrap_or(100_000)).next_multiple_of(10_000)
                }
                Err(_) => u64::MAX,
            };
            properties.push(("CPUQuotaPerSecUSec", Value::from(each_second)));
        }
        if let Some(period) = period {
            properties.push(("CPUQuotaPeriodUSec", Value::from(period)));
        }
    }
    if let Some(pids) = resources.pids() {
        let most = match pids.limit() {
            0 => None,
            limit if limit < 0 => Some(u64::MAX),
            limit => Some(amount(limit)),
        };
        properties.extend(most.map(|most| ("TasksMax", Value::from(most))));
    }
    properties
}

/// The bus of a systemd: the host's, or the one of the user.
#[derive(Debug)]
pub(crate) struct Systemd(Connection);

impl Systemd {
    /// Connects.
    pub(crate) fn connect(is_users: bool) -> anyhow::Result<Systemd> {
        let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let (variable, folder) = match (is_users, run) {
            (false, _) => ("DBUS_SYSTEM_BUS_ADDRESS", PathBuf::from("/run")),
            (true, Some(run)) => ("DBUS_SESSION_BUS_ADDRESS", run),
            (true, None) => {
                bail!("XDG_RUNTIME_DIR is not set, which names the bus of this user's systemd")
            }
        };
        let given = std::env::var(variable).ok();
        let given = given
            .as_deref()
            .and_then(|address| address.strip_prefix("unix:path="));
        let bus = match (given, is_users) {
            (Some(path), _) => PathBuf::from(path.split([',', ';']).next().unwrap_or(path)),
            (None, true) => folder.join("bus"),
            (None, false) => folder.join("dbus/system_bus_socket"),
        };
        // systemd answers there without a bus, too
        let own = folder.join("systemd/private");
        let mut failures = Vec::new();
        for (socket, is_bus) in [(bus, true), (own, false)] {
            match Connection::open(&socket, is_bus) {
                Ok(connection) => return Ok(Systemd(connection)),
                Err(error) => failures.push(format!("{}: {error:#}", socket.display())),
            }
        }
        bail!(
            "no systemd answers that could make control groups ({}): set the cgroup driver of the engine to cgroupfs, \
             or start systemd",
            failures.join("; ")
        )
    }

    fn unit(&mut self, name: &str) -> anyhow::Result<OwnedObjectPath> {
        let get = Method {
            member: "GetUnit",
            ..MANAGER
        };
        let (path,): (OwnedObjectPath,) = self.0.call(get, &(name,))?.body()?;
        Ok(path)
    }

    fn wait(&mut self, job: &OwnedObjectPath, what: &str) -> anyhow::Result<()> {
        let mut result = String::new();
        self.0
            .wait_for("JobRemoved", |signal| {
                let (_, removed, _, end): (u32, OwnedObjectPath, String, String) = signal.body()?;
                result = end;
                Ok(removed == *job)
            })
            .with_context(|| format!("systemd does not say whether it has {what}"))?;
        match result.as_str() {
            "done" => Ok(()),
            end => bail!("systemd has not {what}: its job ended as {end:?}"),
        }
    }

    /// Starts the scope. The process in it ends when the guard that comes back is dropped.
    pub(crate) fn start(
        &mut self,
        place: &Place,
        limits: &LinuxResources,
        is_unified: bool,
    ) -> anyhow::Result<Scope> {
        let holder = Holder::new().context("cannot make the first process of the scope")?;
        let pids = vec![holder.pid];
        let mut properties: Vec<Property> = vec![
            (
                "Description",
                Value::from(format!("container {}", place.scope)),
            ),
            ("Slice", Value::from(place.slice.clone())),
            ("PIDs", Value::from(pids)),
            ("Delegate", Value::from(true)),
            ("DefaultDependencies", Value::from(false)),
            ("MemoryAccounting", Value::from(true)),
            ("CPUAccounting", Value::from(true)),
            ("IOAccounting", Value::from(true)),
            ("TasksAccounting", Value::from(true)),
        ];
        properties.extend(self::limits(limits, is_unified));
        let start = Method {
            member: "StartTransientUnit",
            ..MANAGER
        };
        let none: Vec<(String, Vec<Property>)> = Vec::new();
        let arguments = (place.scope.as_str(), "fail", properties, none);
        let answer = match self.0.call(start, &arguments) {
            // what a container that is gone has left
            Err(error) if is_error(&error, &["org.freedesktop.systemd1.UnitExists"]) => {
                self.reset(&place.scope)?;
                self.0.call(start, &arguments)
            }
            other => other,
        };
        let fail = || {
            format!(
                "systemd cannot start the scope {} in {}",
                place.scope, place.slice
            )
        };
        let (job,): (OwnedObjectPath,) = answer.with_context(fail)?.body()?;
        self.wait(&job, "started the scope").with_context(fail)?;
        let unit = self.unit(&place.scope).with_context(fail)?;
        let get = Method {
            destination: SYSTEMD,
            path: unit.as_str(),
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
        };
        let (group,): (OwnedValue,) = self
            .0
            .call(get, &("org.freedesktop.systemd1.Scope", "ControlGroup"))
            .with_context(fail)?
            .body()?;
        let group = String::try_from(group).context("the control group of a scope is no text")?;
        Ok(Scope {
            path: PathBuf::from(group),
            _holder: holder,
        })
    }

    fn reset(&mut self, scope: &str) -> anyhow::Result<()> {
        let reset = Method {
            member: "ResetFailedUnit",
            ..MANAGER
        };
        match self.0.call(reset, &(scope,)) {
            Err(error) if is_error(&error, &[NO_SUCH_UNIT]) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Ends the scope and what is in it. Harmless when it is gone.
    pub(crate) fn stop(&mut self, scope: &str) -> anyhow::Result<()> {
        let stop = Method {
            member: "StopUnit",
            ..MANAGER
        };
        let fail = || format!("systemd cannot stop the scope {scope}");
        match self.0.call(stop, &(scope, "replace")) {
            Err(error) if is_error(&error, &[NO_SUCH_UNIT]) => Ok(()),
            Err(error) => Err(error).with_context(fail),
            Ok(answer) => {
                let (job,): (OwnedObjectPath,) = answer.body()?;
                self.wait(&job, "stopped the scope").with_context(fail)?;
                self.reset(scope)
            }
        }
    }

    /// Tells it limits that were changed.
    pub(crate) fn update(
        &mut self,
        scope: &str,
        limits: &LinuxResources,
        is_unified: bool,
    ) -> anyhow::Result<()> {
        let properties = self::limits(limits, is_unified);
        if properties.is_empty() {
            return Ok(());
        }
        let set = Method {
            member: "SetUnitProperties",
            ..MANAGER
        };
        self.0
            .call(set, &(scope, true, properties))
            .with_context(|| format!("systemd cannot change the limits of the scope {scope}"))
            .map(drop)
    }
}

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

fn is_error(error: &anyhow::Error, names: &[&str]) -> bool {
    error
        .downcast_ref::<CallError>()
        .is_some_and(|error| names.contains(&error.name.as_str()))
}

/// A scope that was started.
#[derive(Debug)]
pub(crate) struct Scope {
    /// Its control group, below the root of each hierarchy.
    pub(crate) path: PathBuf,
    _holder: Holder,
}

impl Scope {
    /// Its control group, checked: it becomes a path.
    pub(crate) fn path(&self) -> anyhow::Result<&Path> {
        if self.path.is_absolute() && self.path != Path::new("/") {
            return Ok(&self.path);
        }
        bail!(
            "systemd has given the scope no control group of its own: {:?}",
            self.path
        )
    }
}

/// A process that does nothing until it is dropped.
#[derive(Debug)]
struct Holder {
    pid: u32,
    process: Option<launch::Launched>,
}

impl Holder {
    fn new() -> io::Result<Holder> {
        let process = launch::launch(0, None, &[Step::Meet(0)], &[])?;
        process.next_event()?;
        let pid = u32::try_from(process.pid).map_err(io::Error::other)?;
        Ok(Holder {
            pid,
            process: Some(process),
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let (_, pidfd, channel) = process.into_parts();
            // it ends when its channel closes
            drop(channel);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_as_those_of_runc() {
        let place = |path: Option<&str>| {
            let place = Place::new(path, "c1", "system.slice").unwrap();
            (place.slice, place.scope)
        };
        let pair = |slice: &str, scope: &str| (slice.to_owned(), scope.to_owned());
        assert_eq!(place(None), pair("system.slice", "isle-oci-c1.scope"));
        assert_eq!(
            place(Some("a-b.slice:docker:7")),
            pair("a-b.slice", "docker-7.scope")
        );
        assert_eq!(
            place(Some(":docker:7")),
            pair("system.slice", "docker-7.scope")
        );
        assert_eq!(place(Some("-.slice::7")), pair("-.slice", "7.scope"));
        for path in [
            "/a/b",
            "a:b",
            "a.slice:b:c:d",
            "../x.slice:a:b",
            "a--b.slice:a:b",
            "a.slice:p:",
            "a.slice:p:x/y",
        ] {
            Place::new(Some(path), "c1", "system.slice").unwrap_err();
        }
    }

    #[test]
    fn limits_become_properties_in_version_2_alone() {
        let resources: LinuxResources = serde_json::from_str(
            r#"{"memory": {"limit": 1000, "swap": 1500}, "cpu": {"shares": 1024, "quota": 50000, "period": 100000},
                "pids": {"limit": -1}}"#,
        )
        .unwrap();
        assert_eq!(limits(&resources, false), []);
        let expected: Vec<Property> = vec![
            ("MemoryMax", Value::from(1000_u64)),
            ("MemorySwapMax", Value::from(500_u64)),
            ("CPUWeight", Value::from(100_u64)),
            ("CPUQuotaPerSecUSec", Value::from(500_000_u64)),
            ("CPUQuotaPeriodUSec", Value::from(100_000_u64)),
            ("TasksMax", Value::from(u64::MAX)),
        ];
        assert_eq!(limits(&resources, true), expected);
    }
}
