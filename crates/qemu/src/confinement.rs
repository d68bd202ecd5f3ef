//! Where QEMU lives: what it has of the host, as a list of steps. Pure.
//!
//! It has a user that nobody else is, no groups, no capabilities and no way to get any; namespaces
//! of its own, a network without interfaces among them; a root of its own in which there are its
//! program, its libraries and its firmware, all read-only; the descriptors that it is given and no
//! others; a seccomp filter that is Docker's default policy, beside the one that it installs itself
//! (`-sandbox`).

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use isle_seccomp::{CompileError, Profile};
use isle_sys::launch::{Instruction, MountSource, Slot, Step, Strings, Target, namespace};
use isle_sys::mount::{self, Attributes};
use isle_types::InstanceId;
use oci_spec::runtime::{
    LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::{Deserialize, Serialize};

/// The namespaces of a QEMU. It joins its control group before it gets the one for them.
pub(crate) const NAMESPACES: u64 =
    namespace::MOUNT | namespace::NETWORK | namespace::IPC | namespace::UTS | namespace::PID;
/// The number of the descriptor of a template's memory in QEMU: above those that it opens by itself
/// when it starts.
pub(crate) const MEMORY_DESCRIPTOR: i32 = 120;
/// The first descriptor that is passed on.
pub(crate) const FIRST_DESCRIPTOR: u32 = 3;

/// The user that a machine's QEMU runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User and group.
    pub id: u32,
}

impl Identity {
    /// A number for one instance, out of 2^28 that neither accounts nor subordinate ids have
    /// (systemd's table calls the range from 0x70000000 on unused).
    /// <https://systemd.io/UIDS-GIDS/>
    #[must_use]
    pub fn of_instance(id: &InstanceId) -> Identity {
        Identity::of_name(&id.to_string())
    }

    /// The same for what is no instance, by a name of its own.
    #[must_use]
    pub fn of_name(name: &str) -> Identity {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(name.as_bytes());
        let bits = digest
            .iter()
            .take(4)
            .fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        Identity {
            id: match isle_rootless::own_ids() {
                None => 0x7000_0000 | (bits >> 4),
                Some(own) => {
                    let ids = own.for_programs;
                    ids.start + bits % (ids.end - ids.start)
                }
            },
        }
    }
}

/// What the steps are made of.
pub(crate) struct Confined<'a> {
    /// The program, as an absolute path without links.
    pub program: &'a Path,
    /// Its arguments, without its name.
    pub arguments: &'a [String],
    pub identity: Identity,
    /// What the host has of the folders that a dynamic program needs.
    pub host: &'a [Piece],
    /// An empty root, attached nowhere.
    pub root: Slot,
    /// Further files: trees of one file each, and what they are called in the root.
    pub files: &'a [(Slot, &'static str)],
    /// `/dev/kvm`, as its device number.
    pub kvm: Option<u64>,
    pub streams: [Slot; 3],
    /// They become the descriptors from [`FIRST_DESCRIPTOR`] on.
    pub descriptors: Vec<Slot>,
    /// Whether it asks for a template's memory.
    pub has_memory_file: bool,
    /// It is of no use to anybody once who has started it is gone.
    pub dies_with_parent: bool,
    /// Threads that it may have.
    pub most_threads: u64,
}

/// One thing of the host that is in QEMU's root under the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Folder(PathBuf),
    File(PathBuf),
    Link { path: PathBuf, target: PathBuf },
}

/// Libraries, the loader's cache and the firmware of QEMU, wherever distributions keep them.
const FOLDERS: [&str; 11] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/usr/share/edk2",
    "/usr/local/share/qemu",
    "/nix/store",
    "/gnu/store",
];
const FILES: [&str; 1] = ["/etc/ld.so.cache"];

/// Looks what there is. Folders of a program in a place of its own (`/opt/qemu/bin`) are its prefix's.
///
/// # Errors
/// When a folder is there and cannot be looked at.
pub(crate) fn pieces_of_host(program: &Path) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let prefix = program.parent().and_then(Path::parent);
    let is_usual = |prefix: &&Path| {
        ["/", "/usr", "/usr/local"]
            .iter()
            .any(|usual| *prefix == Path::new(usual))
    };
    let own: Vec<PathBuf> = prefix
        .filter(|prefix| !is_usual(prefix))
        .filter(|prefix| prefix.join("share/qemu").is_dir())
        .into_iter()
        .flat_map(|prefix| ["lib", "lib64", "share/qemu"].map(|name| prefix.join(name)))
        .collect();
    let folders = FOLDERS.iter().map(PathBuf::from).chain(own);
    for path in folders {
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_symlink() => {
                let target = fs::read_link(&path)?;
                pieces.push(Piece::Link { path, target });
            }
            Ok(about) if about.is_dir() => pieces.push(Piece::Folder(path)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for path in FILES.map(PathBuf::from) {
        if path.is_file() {
            pieces.push(Piece::File(path));
        }
    }
    pieces.push(Piece::File(program.to_owned()));
    Ok(pieces)
}

fn c_string(text: &OsStr) -> CString {
    // A path that the host has, or an argument that was checked.
    CString::new(text.as_bytes()).expect("paths and checked arguments hold no NUL")
}

/// A path inside: relative to the root.
fn inside(path: &Path) -> CString {
    c_string(path.strip_prefix("/").unwrap_or(path).as_os_str())
}

const READ_ONLY: u64 = mount::RDONLY | mount::NOSUID | mount::NODEV;

fn read_only(source: MountSource, target: CString, kind: Target) -> Step {
    Step::Mount {
        source,
        target,
        kind,
        attributes: Attributes::new(READ_ONLY, 0, 0),
        recursive_attributes: Attributes::default(),
        copy_up: false,
    }
}

/// What the new process does before it executes QEMU.
pub(crate) fn steps(confined: &Confined<'_>) -> Result<Vec<Step>, CompileError> {
    let id = confined.identity.id;
    let is_rootless = isle_sys::features::is_in_user_namespace();
    let mut steps = vec![
        Step::NewSession,
        Step::Unshare(namespace::CGROUP),
        Step::Propagate(mount::PRIVATE),
        Step::AttachRoot {
            tree: confined.root,
            at: c"/".to_owned(),
        },
    ];
    for piece in confined.host {
        steps.push(match piece {
            Piece::Link { path, target } => Step::Link {
                target: c_string(target.as_os_str()),
                path: inside(path),
            },
            Piece::Folder(path) => read_only(host(path), inside(path), Target::Directory),
            Piece::File(path) => read_only(host(path), inside(path), Target::File),
        });
    }
    for (slot, name) in confined.files {
        let target = inside(Path::new(name));
        steps.push(read_only(MountSource::Tree(*slot), target, Target::File));
    }
    // QEMU tries on it how files are locked.
    steps.push(Step::Mount {
        source: host(Path::new("/dev/null")),
        target: c"dev/null".to_owned(),
        kind: Target::File,
        attributes: Attributes::new(mount::NOSUID | mount::NOEXEC, 0, 0),
        recursive_attributes: Attributes::default(),
        copy_up: false,
    });
    if let Some(device) = confined.kvm {
        const CHARACTER_DEVICE: u32 = 0o020_000;
        steps.push(match is_rootless {
            // Nobody makes devices there: it is the host's.
            true => Step::Mount {
                source: host(Path::new("/dev/kvm")),
                target: c"dev/kvm".to_owned(),
                kind: Target::File,
                attributes: Attributes::new(mount::NOSUID | mount::NOEXEC, 0, 0),
                recursive_attributes: Attributes::default(),
                copy_up: false,
            },
            false => Step::Device {
                path: c"dev/kvm".to_owned(),
                mode: CHARACTER_DEVICE | 0o600,
                device,
                uid: id,
                gid: id,
            },
        });
    }
    let no_devices = if confined.kvm.is_some() {
        0
    } else {
        mount::NODEV
    };
    steps.extend([
        Step::PivotRoot,
        Step::RootAttributes {
            attributes: Attributes::new(
                mount::RDONLY | mount::NOSUID | mount::NOEXEC | no_devices,
                0,
                0,
            ),
            recursive: false,
        },
        limit(RLIMIT_CORE, "RLIMIT_CORE", 0),
        limit(RLIMIT_NOFILE, "RLIMIT_NOFILE", 1024),
        limit(RLIMIT_NPROC, "RLIMIT_NPROC", confined.most_threads),
        Step::Streams(confined.streams),
        Step::BoundingSet(0),
        Step::NoNewPrivileges,
        Step::User {
            uid: id,
            gid: id,
            // An ordinary user may use KVM by a group.
            groups: (!(is_rootless && confined.kvm.is_some())).then(Vec::new),
        },
        Step::Capabilities {
            effective: 0,
            permitted: 0,
            inheritable: 0,
            ambient: 0,
        },
        Step::Umask(0o077),
        Step::WorkingDirectory(c"/".to_owned()),
        Step::FindProgram {
            name: confined.program.display().to_string(),
            candidates: vec![c_string(confined.program.as_os_str())],
        },
    ]);
    if confined.dies_with_parent {
        steps.push(Step::DieWithParent);
    }
    if confined.kvm.is_none() {
        // Of translated code, most of which is never executed again: 12 % of the processor time of a
        // boot, and 1.5 MB of a machine at rest.
        steps.push(Step::NoHugePages);
    }
    let first_closed = FIRST_DESCRIPTOR + u32::try_from(confined.descriptors.len()).unwrap_or(0);
    steps.push(Step::Descriptors(confined.descriptors.clone()));
    steps.push(Step::CloseFrom(first_closed));
    steps.push(seccomp(confined.has_memory_file)?);
    let arguments = std::iter::once(confined.program.as_os_str())
        .chain(confined.arguments.iter().map(OsStr::new))
        .map(c_string)
        .collect();
    // One arena for all threads: each further one costs memory that is never given back.
    let environment = vec![c"MALLOC_ARENA_MAX=1".to_owned(), c"LC_ALL=C".to_owned()];
    steps.push(Step::Execute {
        arguments: Strings::new(arguments),
        environment: Strings::new(environment),
    });
    Ok(steps)
}

fn host(path: &Path) -> MountSource {
    MountSource::Host {
        path: c_string(path.as_os_str()),
        recursive: false,
    }
}

const RLIMIT_CORE: u32 = 4;
const RLIMIT_NPROC: u32 = 6;
const RLIMIT_NOFILE: u32 = 7;

fn limit(resource: u32, name: &'static str, value: u64) -> Step {
    Step::ResourceLimit {
        resource,
        name: name.into(),
        soft: value,
        hard: value,
    }
}

fn seccomp(has_memory_file: bool) -> Result<Step, CompileError> {
    const NEW_LISTENER: u64 = 1 << 3;
    Ok(Step::Seccomp {
        program: filter(has_memory_file)?,
        flags: if has_memory_file { NEW_LISTENER } else { 0 },
        listener: has_memory_file,
    })
}

/// Docker's default policy for a process without capabilities; with a template's memory beside it
/// two rules that come before: see [`crate::memory`].
fn filter(has_memory_file: bool) -> Result<Vec<Instruction>, CompileError> {
    let mut policy = Profile::docker_default().resolve(&HashSet::new());
    if has_memory_file {
        let mut rules = memory_rules();
        rules.extend(policy.syscalls().iter().flatten().cloned());
        policy.set_syscalls(Some(rules));
    }
    let program = isle_seccomp::compile(&policy)?;
    Ok(program
        .iter()
        .map(|instruction| Instruction {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect())
}

fn memory_rules() -> Vec<LinuxSyscall> {
    const O_ACCMODE: u64 = 3;
    const O_CLOEXEC: u64 = 0o2_000_000;
    const O_RDWR: u64 = 2;
    const PUNCH_HOLE_KEEP_SIZE: u64 = 3;
    let number = u64::try_from(MEMORY_DESCRIPTOR).unwrap_or(0);
    let argument = |index: usize, mask: u64, value: u64| {
        LinuxSeccompArgBuilder::default()
            .index(index)
            .value(mask)
            .value_two(value)
            .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
            .build()
            .expect("all fields are set")
    };
    let rule = |name: &str, action, args: Vec<_>| {
        let rule = LinuxSyscallBuilder::default()
            .names(vec![name.to_owned()])
            .action(action)
            .args(args);
        let rule = match action {
            LinuxSeccompAction::ScmpActErrno => rule.errno_ret(0_u32),
            _ => rule,
        };
        rule.build().expect("all fields are set")
    };
    vec![
        // QEMU's open of memory-backend-file: for reading and writing and, unlike nearly all others, not
        // close-on-exec.
        rule(
            "openat",
            LinuxSeccompAction::ScmpActNotify,
            vec![argument(2, O_ACCMODE | O_CLOEXEC, O_RDWR)],
        ),
        // "Done" (error 0), and nothing is: QEMU goes on to throw its private pages away.
        rule(
            "fallocate",
            LinuxSeccompAction::ScmpActErrno,
            vec![
                argument(0, u64::from(u32::MAX), number),
                argument(1, u64::from(u32::MAX), PUNCH_HOLE_KEEP_SIZE),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confined(pieces: &[Piece], has_memory_file: bool) -> Vec<Step> {
        steps(&Confined {
            program: Path::new("/usr/bin/qemu-system-x86_64"),
            arguments: &["-nodefaults".to_owned()],
            identity: Identity { id: 0x7000_0001 },
            host: pieces,
            root: Slot(0),
            files: &[(Slot(1), "/kernel")],
            kvm: None,
            streams: [Slot(2), Slot(2), Slot(3)],
            descriptors: vec![Slot(4), Slot(5)],
            has_memory_file,
            dies_with_parent: false,
            most_threads: 70,
        })
        .unwrap()
    }

    #[test]
    fn every_right_is_gone_before_the_program_runs() {
        let pieces = [
            Piece::Link {
                path: "/lib".into(),
                target: "usr/lib".into(),
            },
            Piece::Folder("/usr/lib".into()),
        ];
        let steps = confined(&pieces, true);
        let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let expected = include_str!("golden/confinement.txt");
        let text = text
            .iter()
            .map(
                |line| match line.starts_with("install the seccomp policy") {
                    true => "install the seccomp policy".to_owned(),
                    false => line.clone(),
                },
            )
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(text.trim(), expected.trim());
    }

    #[test]
    fn only_the_filter_for_a_templates_memory_asks_another_process() {
        let listens = |steps: &[Step]| {
            steps
                .iter()
                .any(|step| matches!(step, Step::Seccomp { listener: true, .. }))
        };
        assert!(listens(&confined(&[], true)));
        assert!(!listens(&confined(&[], false)));
    }

    #[test]
    fn two_instances_have_two_users() {
        let (a, b) = (Identity::of_name("a"), Identity::of_name("b"));
        assert_ne!(a, b);
        for identity in [a, b] {
            assert!((0x7000_0000..=0x7fff_ffff).contains(&identity.id));
        }
    }
}
