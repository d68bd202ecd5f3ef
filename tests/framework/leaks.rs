//! Searches the host for what a test left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What ends by itself (the supervisor of an instance with `--rm`) has this long to do so.
const GRACE: Duration = Duration::from_secs(10);

/// Everything that still refers to the folder of a test, or to one of its instances. Processes
/// are killed, so that they disturb no other test.
pub(crate) fn after(folder: &Path, ids: &[String]) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let mut left = mounts(folder);
        let processes = processes(folder, ids);
        left.extend(processes.iter().map(|(_, text)| text.clone()));
        left.extend(
            cgroups()
                .iter()
                .filter(|path| ids.iter().any(|id| path.ends_with(id)))
                .map(|path| format!("control group {}", path.display())),
        );
        left.extend(files(folder));
        if left.is_empty() {
            return left;
        }
        if begin.elapsed() > GRACE {
            for (pid, _) in processes {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            return left;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn mounts(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = folder.to_string_lossy();
    table
        .lines()
        .filter(|line| line.contains(&*folder))
        .map(|line| format!("mount {line}"))
        .collect()
}

/// Processes that name the folder in their arguments or environment, have their root, directory
/// or program in it, or are in the control group of an instance.
fn processes(folder: &Path, ids: &[String]) -> Vec<(i32, String)> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let contains = |bytes: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return found;
    };
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if pid == own {
            continue;
        }
        let path = entry.path();
        let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
        let is_ours = contains(&read("cmdline"))
            || contains(&read("environ"))
            || ["cwd", "exe"].iter().any(|name| {
                fs::read_link(path.join(name)).is_ok_and(|target| target.starts_with(folder))
            })
            || !ids.is_empty() && {
                let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
                ids.iter().any(|id| cgroup.contains(id.as_str()))
            };
        if is_ours {
            let arguments = read("cmdline");
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            found.push((pid, format!("process {pid}: {}", arguments.trim())));
        }
    }
    found
}

/// The namespaces of a process, by the names that the kernel gives them.
pub(crate) fn namespaces(pid: &str) -> impl Iterator<Item = String> {
    let folder = Path::new("/proc").join(pid).join("ns");
    ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
        .into_iter()
        .filter_map(move |kind| fs::read_link(folder.join(kind)).ok())
        .map(|name| name.to_string_lossy().into_owned())
}

/// Those of the namespaces that some process is still in, or a mount keeps. The kernel gives
/// numbers again: what other instances than `own` are in is theirs.
#[must_use]
pub fn namespaces_held(wanted: &BTreeSet<String>, own: &BTreeSet<String>) -> Vec<String> {
    let mut held = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let is_of_another = |part: &str| {
            let is_id = part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_id && !own.contains(part)
        };
        if name.parse::<i32>().is_err() || cgroup.split(['/', '\n']).any(is_of_another) {
            continue;
        }
        held.extend(namespaces(&name).filter(|namespace| wanted.contains(namespace)));
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let words = table
        .split_whitespace()
        .filter(|word| wanted.contains(*word));
    held.extend(words.map(str::to_owned));
    held
}

/// What is left of instances that are gone, and half-written files. The store's folders themselves stay.
fn files(folder: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for name in ["root/instances", "run/instances"] {
        left.extend(entries(&folder.join(name)));
    }
    let mut folders = vec![folder.join("root/tmp")];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                left.push(path);
            }
        }
    }
    left.iter()
        .map(|path| format!("file {}", path.display()))
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Every control group that is named like an instance, in every hierarchy.
pub(crate) fn cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                found.insert(entry.path());
            } else {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Groups that were made since, and that nobody is in any more. Those of instances that end just
/// now have time to go.
pub(crate) fn cgroups_left_since(before: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let begin = Instant::now();
    loop {
        let left: Vec<PathBuf> = cgroups()
            .difference(before)
            .filter(|path| {
                fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
            })
            .cloned()
            .collect();
        if left.is_empty() || begin.elapsed() > GRACE {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
