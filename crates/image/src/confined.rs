//! Runs a program of the host on files of a stranger, where a fault in it does no harm.
//!
//! It sees a root of its own with the host's programs and libraries, the tree that it works on, both
//! read-only, and one file that it may write. It has no network, no other process, no capability but
//! that of reading every file, and Docker's seccomp policy.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use isle_seccomp::Profile;
use isle_sys::launch::confined::{self, Confined, mounted, text};
use isle_sys::launch::{self, Instruction, MountSource, Slot, Step, Target};
use isle_sys::mount::{self, Attributes};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// Where the tree is, for the program.
pub(crate) const TREE: &str = "/tree";
/// Where its output is, for the program.
pub(crate) const OUTPUT: &str = "/output";

/// Folders of the host that programs and their libraries are in.
const PROGRAMS: [&str; 7] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
];

/// `CAP_DAC_READ_SEARCH` of capabilities(7).
const READ_EVERYTHING: u64 = 1 << 2;

/// What to run on what.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    /// An absolute path of the host.
    pub(crate) program: &'a Path,
    /// Its arguments, without its name.
    pub(crate) arguments: &'a [&'a str],
    /// A mount that is attached nowhere; seen at [`TREE`].
    pub(crate) tree: OwnedFd,
    /// A file of the host that it may write; seen at [`OUTPUT`].
    pub(crate) output: &'a Path,
    /// A directory of the host that the new root is attached to, in a mount namespace that nobody else
    /// sees.
    pub(crate) place: &'a Path,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With code 0.
    Well,
    /// In another way: how, and what it said.
    Badly { how: String, said: String },
}

impl Work<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn run(&self) -> io::Result<Ended> {
        let root = confined::empty_root(
            1000,
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        )?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let said = File::from(rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC)?);
        let slots = [root.as_fd(), self.tree.as_fd(), null.as_fd(), said.as_fd()];
        let kinds = {
            use launch::namespace::{CGROUP, IPC, MOUNT, NETWORK, PID, UTS};
            CGROUP | IPC | MOUNT | NETWORK | PID | UTS
        };
        let executed =
            confined::execute(kinds, None, &self.steps()?, &slots).map_err(|refused| {
                let (what, why) = (refused.what, refused.source);
                io::Error::new(why.kind(), format!("cannot {what}: {why}"))
            })?;
        let process = Process(Some(executed.pidfd));
        let how = process.wait()?;
        match how {
            None => Ok(Ended::Well),
            Some(how) => Ok(Ended::Badly {
                how,
                said: last_words(said)?,
            }),
        }
    }

    fn steps(&self) -> io::Result<Vec<Step>> {
        let read_only = Attributes::new(mount::RDONLY | mount::NOSUID | mount::NODEV, 0, 0);
        let writable = Attributes::new(mount::NOSUID | mount::NODEV | mount::NOEXEC, 0, 0);
        let host = |path: CString| MountSource::Host {
            path,
            recursive: false,
        };
        let mut content = Vec::new();
        for folder in PROGRAMS.map(Path::new) {
            let inside = text(folder)?;
            match std::fs::symlink_metadata(folder) {
                Ok(metadata) if metadata.is_symlink() => content.push(Step::Link {
                    target: text(std::fs::read_link(folder)?)?,
                    path: inside,
                }),
                Ok(_) => content.push(mounted(
                    host(inside.clone()),
                    inside,
                    Target::Directory,
                    read_only,
                )),
                Err(_) => {}
            }
        }
        content.push(mounted(
            MountSource::Tree(Slot(1)),
            text(TREE)?,
            Target::Directory,
            Attributes::new(
                mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC,
                0,
                0,
            ),
        ));
        content.push(mounted(
            host(text(self.output)?),
            text(OUTPUT)?,
            Target::File,
            writable,
        ));
        let words =
            std::iter::once(self.program.as_os_str()).chain(self.arguments.iter().map(OsStr::new));
        Ok(Confined {
            root: Slot(0),
            place: text(self.place)?,
            content,
            streams: [Slot(2), Slot(2), Slot(3)],
            capabilities: READ_EVERYTHING,
            are_inherited: true,
            umask: 0o077,
            seccomp: policy()?,
            program: text(self.program)?,
            arguments: words.map(text).collect::<io::Result<_>>()?,
            environment: vec![c"LC_ALL=C.UTF-8".to_owned()],
        }
        .steps())
    }
}

/// Docker's default policy for a process without capabilities that matter.
fn policy() -> io::Result<Vec<Instruction>> {
    let policy = Profile::docker_default().resolve(&std::collections::HashSet::default());
    let program = isle_seccomp::compile(&policy).map_err(io::Error::other)?;
    Ok(program
        .into_iter()
        .map(|instruction| Instruction {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect())
}

/// The end of what was written to a file, without what would confuse a terminal.
fn last_words(mut file: File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(2000)))?;
    let mut bytes = Vec::new();
    file.take(2000).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Ok(lines[lines.len().saturating_sub(3)..].join("; "))
}

/// A child that is killed and collected unless it has ended.
struct Process(Option<OwnedFd>);

impl Process {
    /// `None` when it ended well; else how.
    fn wait(mut self) -> io::Result<Option<String>> {
        let pidfd = self.0.take().expect("taken here only");
        Ok(match collect(&pidfd)? {
            (Some(0), _) => None,
            (Some(code), _) => Some(format!("ended with code {code}")),
            (None, Some(signal)) => Some(format!("was ended by signal {signal}")),
            (None, None) => Some("ended in an unknown way".to_owned()),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pidfd) = self.0.take() {
            // It may have ended by itself.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = collect(&pidfd);
        }
    }
}

fn collect(pidfd: &OwnedFd) -> io::Result<(Option<i32>, Option<i32>)> {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(status) => {
                return Ok(status.map_or((None, None), |status| {
                    (status.exit_status(), status.terminating_signal())
                }));
            }
        }
    }
}

/// A program of the host by its name, in the places where administrators' programs are.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).is_ok()
                && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
                && path.is_file()
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::merged;

    /// Runs a script where `mkfs.erofs` would run; returns how it ended and what it wrote.
    fn run(script: &str) -> Option<(Ended, String)> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("layer");
        let output = root.path().join("output");
        let place = root.path().join("place");
        fs::create_dir(&tree).unwrap();
        fs::create_dir(&place).unwrap();
        fs::write(tree.join("secret"), "of the image").unwrap();
        fs::set_permissions(
            tree.join("secret"),
            std::os::unix::fs::PermissionsExt::from_mode(0o000),
        )
        .unwrap();
        fs::write(&output, "").unwrap();
        let ended = Work {
            program: &find("sh").unwrap(),
            arguments: &["-c", script],
            tree: merged::mounted(root.path(), &[tree], root.path()).unwrap(),
            output: &output,
            place: &place,
        }
        .run()
        .unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        Some((ended, fs::read_to_string(&output).unwrap()))
    }

    #[test]
    fn it_reads_the_tree_writes_the_output_and_reaches_nothing_else() {
        let script = "cat /tree/secret > /output
            for path in /etc /proc /sys /dev /root /home /var /tmp /run; do [ -e $path ] && echo has $path >> /output; done
            for path in /x /tree/x /usr/x /usr/bin/x; do touch $path 2>/dev/null && echo wrote $path >> /output; done
            mount -t tmpfs none /tree 2>/dev/null && echo mounted >> /output
            mknod /output2 c 1 1 2>/dev/null && echo made a device >> /output
            unshare -U true 2>/dev/null && echo made a namespace >> /output
            chown 1 /output 2>/dev/null && echo gave away >> /output
            exit 0";
        if let Some((ended, written)) = run(script) {
            assert!(matches!(ended, Ended::Well), "{ended:?}");
            assert_eq!(written, "of the image");
        }
    }

    #[test]
    fn how_it_ended_is_told_with_its_last_words() {
        let Some((ended, _)) = run("echo one >&2; echo; echo two >&2; exit 3") else {
            return;
        };
        let Ended::Badly { how, said } = ended else {
            panic!("it ended with code 3");
        };
        assert_eq!(how, "ended with code 3");
        assert_eq!(said, "one; two");
    }
}
