//! The control group of one instance.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::directory::{Directory, write_value};
use crate::plan::devices::{Allowlist, DeviceRules};
use crate::plan::{Current, Otherwise, Plan, Setting};
use crate::{Error, Layout, Version, device_program, freezer, removal};

/// The control group of one instance: one directory in each hierarchy of the layout.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    pub(crate) layout: Layout,
    /// In the order of the layout.
    pub(crate) directories: Vec<Directory>,
}

impl Cgroup {
    /// Makes the group at `path` (absolute, below each hierarchy's root, like `/isle/<id>`) and
    /// sets its limits. Undone when a limit is refused. Groups above it are made as needed and
    /// stay. A group left there by an instance that is gone is replaced.
    ///
    /// # Errors
    /// When a directory cannot be made, the host cannot enforce a limit, or the kernel refuses one
    /// (the error names the file and value).
    pub fn create(layout: &Layout, path: &Path, limits: &LinuxResources) -> Result<Cgroup, Error> {
        Cgroup::new(layout, path, limits, Existing::Replace)
    }

    /// Like [`Cgroup::create`], for a group that somebody else makes, like systemd: directories that are there are
    /// taken as they are, with the processes in them; those that are missing are made.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn adopt(layout: &Layout, path: &Path, limits: &LinuxResources) -> Result<Cgroup, Error> {
        Cgroup::new(layout, path, limits, Existing::Keep)
    }

    fn new(
        layout: &Layout,
        path: &Path,
        limits: &LinuxResources,
        existing: Existing,
    ) -> Result<Cgroup, Error> {
        let below = below_root(path)?;
        // What cannot be planned leaves no trace.
        let plan = Plan::new(layout, limits, &Current::default())
            .map_err(|error| told_for(layout, error))?;
        let mut group = Cgroup {
            path: path.to_owned(),
            layout: layout.clone(),
            directories: Vec::with_capacity(layout.hierarchies().len()),
        };
        match group.make(below, &plan, existing) {
            Ok(()) => Ok(group),
            Err(error) => {
                // The first error is the one to tell; a directory that cannot be removed again has
                // no process in it.
                let _ = group.remove();
                Err(error)
            }
        }
    }

    /// An existing group. Hierarchies in which it has no directory are left out.
    ///
    /// # Errors
    /// When it is in none of them.
    pub fn open(layout: &Layout, path: &Path) -> Result<Cgroup, Error> {
        let below = below_root(path)?;
        let mut directories = Vec::with_capacity(layout.hierarchies().len());
        let mut missing = None;
        for hierarchy in layout.hierarchies() {
            match Directory::open(
                hierarchy.version,
                hierarchy.controllers.clone(),
                hierarchy.mount_point.join(below),
            ) {
                Ok(directory) => directories.push(directory),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if directories.is_empty() => Err(error),
            _ => Ok(Cgroup {
                path: path.to_owned(),
                layout: layout.clone(),
                directories,
            }),
        }
    }

    fn make(&mut self, below: &Path, plan: &Plan, existing: Existing) -> Result<(), Error> {
        let layout = self.layout.clone();
        for hierarchy in layout.hierarchies() {
            let path = hierarchy.mount_point.join(below);
            make_directory(&hierarchy.mount_point, &path, below, existing)?;
            self.directories.push(Directory::open(
                hierarchy.version,
                hierarchy.controllers.clone(),
                path,
            )?);
            let directory = self.directories.last().expect("just pushed");
            match hierarchy.version {
                Version::V1 if hierarchy.has("cpuset") => fill_cpuset(directory)?,
                Version::V2 => {
                    let wanted = wanted_controllers(&hierarchy.controllers, plan);
                    if !wanted.is_empty() {
                        enable_controllers(&hierarchy.mount_point, below, directory, &wanted)?;
                    }
                }
                Version::V1 => {}
            }
        }
        self.write(&plan.settings, &mut Undo::Never)?;
        if let Some(rules) = &plan.devices {
            self.limit_devices(rules, true)?;
        }
        Ok(())
    }

    /// Its directory in the version 2 hierarchy, for `clone3` with `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.directory_with("").map(AsFd::as_fd)
    }

    /// The group of version 2 in which a process is, here or below: where others have made groups below this one and
    /// given controllers to them, no process can join this one itself ("no internal processes" in
    /// `Documentation/admin-guide/cgroup-v2.rst`).
    ///
    /// # Errors
    /// When there is no version 2, or the process is gone or elsewhere.
    pub fn group_of(&self, pid: i32) -> Result<OwnedFd, Error> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
        let hierarchy = self.layout.hierarchy("").ok_or(Error::NoHierarchy)?;
        let below = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let path = hierarchy.mount_point.join(below.unwrap_or_default());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self.directory("").filter(|own| path.starts_with(own)) {
            None => Err(Error::Path { path }),
            Some(_) => rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| Error::Open {
                path,
                source: errno.into(),
            }),
        }
    }

    /// For each version 1 hierarchy its `tasks` file, open for writing. A new, single-threaded
    /// process joins by writing `0` to each: the kernel then need not take the lock of all forks
    /// (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c), which costs milliseconds.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn join_files(&self) -> Result<Vec<OwnedFd>, Error> {
        self.directories
            .iter()
            .filter(|directory| directory.version == Version::V1)
            .map(|directory| {
                directory
                    .open_file("tasks", OFlags::WRONLY)
                    .map_err(|errno| Error::Open {
                        path: directory.path.join("tasks"),
                        source: errno.into(),
                    })
            })
            .collect()
    }

    /// Moves a process here, with all its threads, in every hierarchy.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_process(&self, pid: i32) -> Result<(), Error> {
        let pid = pid.to_string();
        self.directories
            .iter()
            .try_for_each(|directory| directory.write("cgroup.procs", &pid))
    }

    /// Changes limits; fields that are `None` stay as they are.
    ///
    /// # Errors
    /// When the host cannot enforce one or the kernel refuses it; those set before it are set back.
    pub fn update(&self, limits: &LinuxResources) -> Result<(), Error> {
        let plan = Plan::new(&self.layout, limits, &self.current(limits))
            .map_err(|error| told_for(&self.layout, error))?;
        if limits
            .memory()
            .as_ref()
            .and_then(|memory| memory.check_before_update())
            == Some(true)
        {
            self.check_usage(&plan)?;
        }
        let mut undo = Undo::Old(Vec::new());
        let result = self
            .write(&plan.settings, &mut undo)
            .and_then(|()| match &plan.devices {
                Some(rules) => self.limit_devices(rules, false),
                None => Ok(()),
            });
        if result.is_err()
            && let Undo::Old(old) = undo
        {
            for (controller, file, value) in old.iter().rev() {
                if let Some(directory) = self.directory_with(controller) {
                    // Best effort: the error that led here is the one to tell.
                    let _ = directory.try_write(file, value);
                }
            }
        }
        result
    }

    /// What a plan must know of the present state, read only when it matters.
    fn current(&self, limits: &LinuxResources) -> Current {
        let mut current = Current::default();
        let read = |controller, file| {
            self.directory_with(controller)
                .filter(|directory| directory.version == Version::V2)
                .and_then(|directory| directory.try_read(file).ok())
        };
        if let Some(cpu) = limits.cpu()
            && cpu.quota().is_none_or(|quota| quota == 0)
            && cpu.period().is_some()
        {
            current.cpu_quota = read("cpu", "cpu.max")
                .and_then(|text| text.split_whitespace().next().map(str::to_owned));
        }
        if let Some(memory) = limits.memory()
            && memory.limit().is_none_or(|limit| limit == 0)
            && memory.swap().is_some()
        {
            current.memory_limit =
                read("memory", "memory.max").and_then(|text| text.trim().parse().ok());
        }
        current
    }

    /// `checkBeforeUpdate`: refuse a limit below what is in use instead of letting the kernel kill.
    fn check_usage(&self, plan: &Plan) -> Result<(), Error> {
        for setting in &plan.settings {
            if setting.controller != "memory" || setting.limit != "memory.limit" {
                continue;
            }
            let usage = match setting.version {
                Version::V1 => "memory.usage_in_bytes",
                Version::V2 => "memory.current",
            };
            let used = self
                .directory_with("memory")
                .and_then(|directory| directory.try_read(usage).ok())
                .and_then(|text| text.trim().parse::<u64>().ok());
            if let (Some(used), Ok(limit)) = (used, setting.value.parse::<u64>())
                && used > limit
            {
                return Err(Error::Invalid {
                    limit: "memory.limit",
                    value: setting.value.clone(),
                    expected: "at least the memory in use, as checkBeforeUpdate asks",
                });
            }
        }
        Ok(())
    }

    /// Writes settings in order. The kernel checks some values against each other, so which order
    /// is right depends on the old ones: a value refused as invalid is tried again after the rest.
    fn write(&self, settings: &[Setting], undo: &mut Undo) -> Result<(), Error> {
        let mut refused = Vec::new();
        for setting in settings {
            match self.write_one(setting, undo) {
                Err(Error::Write { ref source, .. })
                    if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
                {
                    refused.push(setting);
                }
                result => result?,
            }
        }
        refused
            .into_iter()
            .try_for_each(|setting| self.write_one(setting, undo))
    }

    fn write_one(&self, setting: &Setting, undo: &mut Undo) -> Result<(), Error> {
        let directory = self
            .directory_with(setting.controller)
            .ok_or(Error::NoController {
                controller: setting.controller,
                limit: setting.limit,
            })?;
        let attempt = |file: &str, value: &str, undo: &mut Undo| -> rustix::io::Result<()> {
            match undo {
                Undo::Never => directory.try_write(file, value),
                Undo::Old(list) => {
                    let old = directory.try_read(file)?;
                    directory.try_write(file, value)?;
                    list.push((setting.controller, file.to_owned(), old_value(&old, value)));
                    Ok(())
                }
            }
        };
        match attempt(&setting.file, &setting.value, undo) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => match &setting.otherwise {
                Otherwise::Skip => Ok(()),
                Otherwise::Write(file, value) => match attempt(file, value, undo) {
                    Ok(()) => Ok(()),
                    Err(Errno::NOENT) => Err(no_file(setting)),
                    Err(errno) => Err(directory.write_error(file, value, errno)),
                },
                Otherwise::Fail => Err(no_file(setting)),
            },
            Err(errno) => Err(directory.write_error(&setting.file, &setting.value, errno)),
        }
    }

    fn limit_devices(&self, rules: &DeviceRules, is_new: bool) -> Result<(), Error> {
        let Some(directory) = self.directory_with("devices") else {
            let directory = self.directory_with("").ok_or(Error::NoController {
                controller: "devices",
                limit: "devices",
            })?;
            return match device_program::attach(directory, rules) {
                // Without privileges in the first user namespace no program can be loaded; but
                // there the kernel opens no device node that the user made either (nodes made in
                // a user namespace are refused, see mknod(2) and may_open_dev in fs/namei.c).
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied
                        && isle_sys::features::is_in_user_namespace() =>
                {
                    Ok(())
                }
                result => result,
            };
        };
        let wanted = rules.allowlist()?;
        let writes = if is_new {
            wanted.writes()
        } else {
            let present = Allowlist::parse(&directory.read("devices.list")?);
            Allowlist::changes(&present, &wanted)
        };
        // A dozen rules for one or two files: open each once.
        let mut open: Option<(&str, OwnedFd)> = None;
        for (file, value) in &writes {
            if open.as_ref().is_none_or(|(name, _)| name != file) {
                let descriptor = directory
                    .open_file(file, OFlags::WRONLY)
                    .map_err(|errno| directory.write_error(file, value, errno))?;
                open = Some((file, descriptor));
            }
            let (_, descriptor) = open.as_ref().expect("opened above");
            write_value(descriptor.as_fd(), value)
                .map_err(|errno| directory.write_error(file, value, errno))?;
        }
        Ok(())
    }

    /// Stops every process in it from running; returns once all are frozen.
    ///
    /// # Errors
    /// When the kernel refuses, or a process does not stop within ten seconds (all run again
    /// then).
    pub fn freeze(&self) -> Result<(), Error> {
        freezer::freeze(self)
    }

    /// The opposite.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> Result<(), Error> {
        freezer::thaw(self)
    }

    /// Is it frozen, by itself or by a group above it?
    ///
    /// # Errors
    /// When the group is gone.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        freezer::is_frozen(self)
    }

    /// Every process in it and below it.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        // Every process is in every hierarchy; version 2 comes first for its threaded groups.
        let Some(directory) = self.directory_with("").or(self.directories.first()) else {
            return Ok(Vec::new());
        };
        removal::processes_below(&directory.path)
    }

    /// Kills every process in it and below it, frozen ones too. They have ended or are ending when
    /// this returns.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill_all(&self) -> Result<(), Error> {
        removal::kill_all(self)
    }

    /// Takes the directories away, those that the instance made below them too. Harmless when
    /// they are gone already. Waits a moment for processes that are just ending.
    ///
    /// # Errors
    /// [`Error::Busy`] when processes are still in it.
    pub fn remove(&self) -> Result<(), Error> {
        removal::remove(self)
    }

    /// Its path below each hierarchy's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in the hierarchy of one controller (`memory`, `cpu`, …; `""`: version 2), for
    /// mounting `/sys/fs/cgroup` inside.
    #[must_use]
    pub fn directory(&self, controller: &str) -> Option<PathBuf> {
        self.directory_with(controller)
            .map(|directory| directory.path.clone())
    }

    pub(crate) fn directory_with(&self, controller: &str) -> Option<&Directory> {
        self.directories
            .iter()
            .find(|directory| directory.has(controller))
    }
}

/// What happens to a directory that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replace,
    Keep,
}

/// What [`Cgroup::write`] keeps to be able to go back.
enum Undo {
    /// The group is new: it will be removed.
    Never,
    /// Controller, file, old value.
    Old(Vec<(&'static str, String, String)>),
}

/// The old value that `new` replaces: of a file with a line for each device, that device's line,
/// or the value that means "no limit".
fn old_value(old: &str, new: &str) -> String {
    let device = new.split(' ').next().filter(|word| word.contains(':'));
    match device {
        None => old.trim_end().to_owned(),
        Some(device) => old
            .lines()
            .find(|line| line.split(' ').next() == Some(device))
            .map_or_else(
                || match new.split_once('=') {
                    Some((key, _)) => format!("{key}=max"),
                    None => format!("{device} 0"),
                },
                str::to_owned,
            ),
    }
}

fn no_file(setting: &Setting) -> Error {
    Error::NoFile {
        file: setting.file.clone().into_owned(),
        limit: setting.limit,
    }
}

/// Why there is no controller where there are no groups.
pub(crate) fn told_for(layout: &Layout, error: Error) -> Error {
    match error {
        Error::NoController { limit, .. } if layout.hierarchies().is_empty() => {
            Error::NotDelegated { limit }
        }
        error => error,
    }
}

/// Checks a path, and takes its leading `/` away.
fn below_root(path: &Path) -> Result<&Path, Error> {
    let invalid = || Error::Path {
        path: path.to_owned(),
    };
    let below = path.strip_prefix("/").map_err(|_| invalid())?;
    let is_plain = below
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if !is_plain || below.as_os_str().is_empty() {
        return Err(invalid());
    }
    Ok(below)
}

/// Makes one directory, and those above it when they are missing.
fn make_directory(
    mount_point: &Path,
    path: &Path,
    below: &Path,
    existing: Existing,
) -> Result<(), Error> {
    let mode = Mode::from_raw_mode(0o755);
    let fail = |path: &Path, errno: Errno| Error::Create {
        path: path.to_owned(),
        source: errno.into(),
    };
    for _ in 0..3 {
        match rustix::fs::mkdir(path, mode) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => {
                let mut above = mount_point.to_owned();
                for component in below.parent().into_iter().flat_map(Path::components) {
                    above.push(component);
                    match rustix::fs::mkdir(&above, mode) {
                        Ok(()) => inherit_cpuset(&above),
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(fail(&above, errno)),
                    }
                }
            }
            // Left behind by an instance that is gone: `remove` refuses when it is not.
            Err(Errno::EXIST) if existing == Existing::Keep => return Ok(()),
            Err(Errno::EXIST) => removal::remove_directory(path, removal::Patience::None)?,
            Err(errno) => return Err(fail(path, errno)),
        }
    }
    rustix::fs::mkdir(path, mode).map_err(|errno| fail(path, errno))
}

/// Lets the groups made below a new version 1 cpuset group begin with its CPUs and memory nodes
/// (`cgroup.clone_children`); a new group has none else. Saves each instance's start four reads and
/// writes. Harmless in other hierarchies, where the file does not matter.
fn inherit_cpuset(path: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = path.parent().unwrap_or(path).join(file);
        if let Ok(value) = std::fs::read_to_string(above)
            && std::fs::write(path.join(file), value.trim_end()).is_err()
        {
            return;
        }
    }
    if path.join("cpuset.cpus").exists() {
        // Where this fails, `fill_cpuset` does the work for each group.
        let _ = std::fs::write(path.join("cgroup.clone_children"), "1");
    }
}

/// Gives a new version 1 cpuset group what its parent has, unless the kernel has done so.
fn fill_cpuset(directory: &Directory) -> Result<(), Error> {
    // Set in a group whose parent has it set: then the values are there.
    if directory.read("cgroup.clone_children")?.starts_with('1') {
        return Ok(());
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = directory.read(&format!("../{file}"))?;
        directory.write(file, parent.trim_end())?;
    }
    Ok(())
}

/// Version 2: the controllers that count or limit for every instance, and those that a plan asks
/// for. The rest (`hugetlb`, `rdma`, `misc`, …) costs without use; on a hybrid host it is all that
/// version 2 has, and is left as the host has it.
fn wanted_controllers<'a>(available: &'a [String], plan: &Plan) -> Vec<&'a str> {
    available
        .iter()
        .map(String::as_str)
        .filter(|name| {
            matches!(*name, "cpuset" | "cpu" | "io" | "memory" | "pids")
                || plan.settings.iter().any(|setting| {
                    setting.version == Version::V2
                        && setting
                            .file
                            .split('.')
                            .next()
                            .is_some_and(|prefix| prefix == *name)
                })
        })
        .collect()
}

/// Version 2: lets a new group have the hierarchy's controllers. Its ancestors must pass them on
/// (`cgroup.subtree_control`), the topmost first; those that do already are not written.
fn enable_controllers(
    mount_point: &Path,
    below: &Path,
    directory: &Directory,
    wanted: &[&str],
) -> Result<(), Error> {
    let missing = |has: &str| -> Vec<String> {
        wanted
            .iter()
            .filter(|name| !has.split_whitespace().any(|word| word == **name))
            .map(|name| format!("+{name}"))
            .collect()
    };
    if missing(&directory.read("cgroup.controllers")?).is_empty() {
        return Ok(());
    }
    let mut ancestor = mount_point.to_owned();
    let mut failed = None;
    for component in std::iter::once(None).chain(
        below
            .parent()
            .into_iter()
            .flat_map(Path::components)
            .map(Some),
    ) {
        if let Some(component) = component {
            ancestor.push(component);
        }
        let path = ancestor.join("cgroup.subtree_control");
        let Ok(has) = std::fs::read_to_string(&path) else {
            continue;
        };
        // One by one: a controller that cannot be had (not delegated to us, or bound to version 1
        // meanwhile) must not keep the others away.
        for controller in missing(&has) {
            if let Err(source) = std::fs::write(&path, &controller) {
                failed = Some(Error::Enable {
                    path: ancestor.clone(),
                    controllers: controller,
                    source,
                });
            }
        }
    }
    // A limit that needs a controller which is missing now fails by itself, with a clear error; the
    // group is of use without those that nobody asks for. None at all is an error at once.
    let has = directory.read("cgroup.controllers")?;
    match failed {
        Some(error) if has.trim().is_empty() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_taken() {
        assert_eq!(below_root("/isle/a".as_ref()).unwrap(), Path::new("isle/a"));
        for path in ["/", "", "isle/a", "/isle/../a", "/.."] {
            assert!(below_root(path.as_ref()).is_err(), "{path}");
        }
    }

    #[test]
    fn the_old_value_of_a_device_is_its_own_line() {
        assert_eq!(old_value("123\n", "5"), "123");
        assert_eq!(old_value("8:0 5\n8:16 6\n", "8:16 9"), "8:16 6");
        assert_eq!(old_value("8:0 5\n", "8:16 9"), "8:16 0");
        assert_eq!(old_value("", "8:16 rbps=9"), "8:16 rbps=max");
        assert_eq!(old_value("max 100000\n", "5 10"), "max 100000");
    }
}
