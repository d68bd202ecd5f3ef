//! A host of its own for other engines: they find `/etc`, `/run`, `/var/lib`, networks, control groups and processes as
//! on a machine where nothing else runs, and what they leave goes with it.
//!
//! So a recipe of `docs/howto/` is followed here word by word ([`EngineHost::follow`]).

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::program;
use crate::{Invocation, Level, World, guest_kernels, wait_for};

/// So long what has ended may take to leave its control groups.
const GRACE: Duration = Duration::from_secs(10);

/// Makes control groups, then namespaces of every kind but users, then what an engine expects to be mounted.
///
/// `$1` is a name for all of it, `$2` a folder of the test, `$3` the program that collects orphans.
const BOOT: &str = r#"
set -e
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir "/sys/fs/cgroup/$1"
    echo $$ > "/sys/fs/cgroup/$1/cgroup.procs"
else
    for hierarchy in /sys/fs/cgroup/*/; do
        [ -e "$hierarchy/cgroup.procs" ] || continue
        mkdir "$hierarchy/$1"
        for limit in cpuset.cpus cpuset.mems; do
            [ ! -e "$hierarchy/$limit" ] || cat "$hierarchy/$limit" > "$hierarchy/$1/$limit"
        done
        echo $$ > "$hierarchy/$1/cgroup.procs"
    done
fi
exec unshare --fork --kill-child --pid --net --mount --uts --ipc --cgroup sh -ec '
hostname "$1"
mount -t proc proc /proc
ip link set lo up
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$2/etc,workdir=$2/etc.work" /etc
rm -rf /etc/docker /etc/containerd /etc/containers/containers.conf /etc/containers/containers.conf.d /etc/crio /etc/isle
mount --bind "$2/var" /var/lib
mount -t tmpfs tmpfs /run
hierarchies=$(cd /sys/fs/cgroup; for name in *; do [ ! -e "$name/cgroup.procs" ] || echo "$name"; done)
is_unified=$([ ! -e /sys/fs/cgroup/cgroup.controllers ] || echo yes)
mount -t sysfs sysfs /sys
if [ "$is_unified" ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir /sys/fs/cgroup/init
    echo 1 > /sys/fs/cgroup/init/cgroup.procs
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for name in $hierarchies; do
        mkdir "/sys/fs/cgroup/$name"
        case "$name" in
            unified) mount -t cgroup2 cgroup2 "/sys/fs/cgroup/$name" ;;
            systemd) mount -t cgroup -o none,name=systemd cgroup "/sys/fs/cgroup/$name" ;;
            *) mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" ;;
        esac
    done
fi
echo ready
exec "$3" sleep 100000' sh "$1" "$2" "$3"
"#;

/// Enters its control groups, then its namespaces. `$1` is its name, `$2` its first process.
const ENTER: &str = r#"
name=$1 init=$2
shift 2
for group in /sys/fs/cgroup/"$name"/init/cgroup.procs /sys/fs/cgroup/*/"$name"/cgroup.procs; do
    [ ! -e "$group" ] || echo $$ > "$group"
done
exec nsenter --target "$init" --all -- "$@"
"#;

/// The host.
#[derive(Debug)]
pub struct EngineHost {
    name: String,
    folder: PathBuf,
    /// Isle's programs, first on its path.
    programs: PathBuf,
    /// unshare(1); when it ends, all in it are killed.
    holder: Child,
    /// The first process in it, as the real host numbers it.
    init: u32,
}

impl EngineHost {
    /// Boots it, with a folder below the world's own.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn new(world: &World, name: &str) -> EngineHost {
        let folder = world.folder().join(name);
        for part in ["etc", "etc.work", "var", "home"] {
            std::fs::create_dir_all(folder.join(part)).expect("a new folder");
        }
        let unique = world.folder().file_name().expect("a name");
        let unique = format!("{}-{name}", unique.to_string_lossy());
        let mut holder = Command::new("sh")
            .args(["-c", BOOT, "sh", &unique])
            .arg(&folder)
            .arg(program("isle-init", "ISLE_INIT_BIN"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let output = BufReader::new(holder.stdout.take().expect("piped above"));
        let line = output.lines().next().and_then(Result::ok);
        assert_eq!(
            line.as_deref(),
            Some("ready"),
            "a host of its own: {unique}"
        );
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let init = std::fs::read_to_string(children)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .expect("unshare has one child");
        let programs = program("isle-oci", "ISLE_OCI_BIN");
        let host = EngineHost {
            name: unique,
            folder,
            programs: programs.parent().expect("a file").to_owned(),
            holder,
            init,
        };
        if world.level() == Level::Vm {
            host.use_guest_kernel();
        }
        host
    }

    /// Machines boot the kernel of all tests, and are copied from the same templates.
    fn use_guest_kernel(&self) {
        let kernels = guest_kernels().expect("virtual machines need a guest kernel");
        let kernels = kernels.canonicalize().expect("it is there");
        let beside = |name: &str| kernels.with_file_name(name).display().to_string();
        for name in ["templates", "checked"] {
            std::fs::create_dir_all(kernels.with_file_name(name)).expect("target is writable");
        }
        self.sh(&format!(
            "mkdir -p /var/lib/isle /run/isle && ln -s {} /var/lib/isle/kernels && ln -s {} /var/lib/isle/templates &&
             ln -s {} /run/isle/templates && ln -s {} /run/isle/tsc-khz",
            kernels.display(),
            beside("templates"),
            beside("checked"),
            beside("tsc-khz"),
        ))
        .succeeds();
    }

    /// A program in it.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command
            .args(["-c", ENTER, "sh", &self.name, &self.init.to_string()])
            .args(words)
            .env("HOME", self.folder.join("home"))
            .env(
                "PATH",
                format!("{}:{path}:/usr/sbin:/sbin", self.programs.display()),
            )
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("DOCKER_CONFIG")
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null());
        command
    }

    /// A line as a user types it.
    #[must_use]
    pub fn sh(&self, line: &str) -> Invocation {
        Invocation::new(self.command(&["sh", "-c", line]))
    }

    /// Starts a daemon, which writes to a log of its own, and waits until a shell line says that it is there.
    ///
    /// # Panics
    /// When it ends, or does not come up.
    pub fn daemon(&self, line: &str, is_ready: &str) {
        let name = line.split_whitespace().next().expect("a program");
        let log = self.log(name);
        let file = std::fs::File::create(&log).expect("the host's folder is writable");
        let copy = file.try_clone().expect("descriptors are left");
        let mut child = self
            .command(&["sh", "-c", &format!("exec {line}")])
            .stdout(file)
            .stderr(copy)
            .spawn()
            .expect("a shell");
        wait_for(&format!("{name} answers"), || {
            let has_ended = child.try_wait().expect("our own child").is_some();
            let text = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(!has_ended, "{name} has ended: {}", text());
            Invocation::new(self.command(&["sh", "-c", is_ready]))
                .run()
                .code()
                == 0
        });
        // It ends with the host, of which the holder is waited for.
    }

    /// The log of a daemon.
    #[must_use]
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.folder.join(format!("{daemon}.log"))
    }

    /// A file or folder of its own, as the real host sees it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its first process, as the real host numbers it.
    #[must_use]
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Types every shell line of a page of `docs/howto/`, edited for the level; returns each line with what it has
    /// printed. A page that is fetched may take a moment to be there: those lines are tried again, as a reader would.
    ///
    /// # Panics
    /// When a line fails.
    pub fn follow(&self, page: &str, edit: impl Fn(&str) -> String) -> Vec<(String, String)> {
        let lines = shell_lines(&howto(page));
        assert!(!lines.is_empty(), "{page} has no shell lines");
        let follow = |line: String| {
            let edited = edit(&line);
            if line.starts_with("wget") {
                let is_there = || self.sh(&edited).run().code() == 0;
                wait_for(&edited, is_there);
            }
            let printed = self.sh(&edited).succeeds();
            (line, printed)
        };
        lines.into_iter().map(follow).collect()
    }

    /// Takes it off the power: all its processes are killed at once, and its networks go.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let begin = Instant::now();
        let mut groups = vec![Path::new("/sys/fs/cgroup").join(&self.name)];
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        groups.extend(
            hierarchies
                .flatten()
                .map(|entry| entry.path().join(&self.name)),
        );
        groups.retain(|group| group.is_dir());
        while !groups.is_empty() && begin.elapsed() < GRACE {
            groups.iter().for_each(|group| remove_groups(group));
            groups.retain(|group| group.is_dir());
            std::thread::sleep(Duration::from_millis(10));
        }
        for group in groups {
            eprintln!("left behind: control group {}", group.display());
        }
    }
}

impl Drop for EngineHost {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes a control group and all below it away, as far as nobody is in them.
fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}

/// A page of `docs/howto/`.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn howto(page: &str) -> String {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let folder = checkout.expect("the checkout").join("docs/howto");
    std::fs::read_to_string(folder.join(page)).expect("the page is there")
}

/// The lines of all `sh` blocks of a page, without comments; one that ends with a backslash goes on in the next.
fn shell_lines(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut is_inside = false;
    let mut begun = String::new();
    for line in page.lines() {
        match line.trim() {
            "```sh" => is_inside = true,
            "```" => is_inside = false,
            line if !is_inside || line.is_empty() || line.starts_with('#') => {}
            line => match line.strip_suffix('\\') {
                Some(part) => begun.push_str(part),
                None => lines.push(std::mem::take(&mut begun) + line),
            },
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_lines_of_a_page_are_found() {
        let page =
            "text\n```sh\n# why\ndocker run \\\n  busybox\n\ndocker ps\n```\n```json\n{}\n```\n";
        assert_eq!(shell_lines(page), ["docker run busybox", "docker ps"]);
    }
}
