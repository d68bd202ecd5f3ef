//! An instance that runs before there is one: what it does once need not be done, or not for the first time, by those
//! that are copied from its machine.
//!
//! Nothing of the image is executed: the program is the agent's own, and says a word. It is there for what comes
//! before: disks are mounted, the places of mounts are made, namespaces, mounts and the policy come to be, and a
//! program is executed. Files that the first instance will read are read.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use isle_guest::{Connection, File as GuestFile, Prepare, REHEARSAL, Workload};
use isle_qemu::{Heir, Making, Store, Subject, Template};
use isle_types::InstanceId;
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{disk, request};
use crate::Paths;
use crate::backend::oci::{self, files, spec};
use crate::config::InstanceConfig;
use crate::state::{Instance, InstanceState};

/// Where the program is, inside: in memory, so that it leaves no trace on the disk.
const PROGRAM: &str = "/dev";
/// Files that most programs read when they start.
const USUAL: [&str; 6] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/ld-musl-x86_64.so.1",
];
/// Where programs are looked for when nobody says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often a machine that is to wait does it: what the first time makes and translates, the second finds.
const TIMES: usize = 2;

type Failed = Box<dyn Error + Send + Sync>;

/// Where templates of images are. Not with those of machines: there is one an image, and they go with it.
pub(crate) fn templates(paths: &Paths) -> Store {
    Store {
        directory: paths.root.join("image-templates"),
        checked: paths.run.join("image-templates"),
    }
}

/// What an instance that starts for the first time can be copied from, beside its image's template.
pub(super) struct First<'a> {
    pub(super) instance: &'a Instance,
    pub(super) paths: &'a Paths,
    pub(super) images: &'a isle_image::Store,
    pub(super) image: &'a isle_image::BlockImage,
}

impl First<'_> {
    /// Whether it is one: an instance that has a disk brings what was written to it.
    pub(super) fn is_first(&self) -> bool {
        let disk = disk::path(self.paths, &self.instance.id);
        fs::symlink_metadata(disk).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    fn subject(&self) -> io::Result<Subject> {
        let config = &self.instance.config;
        let size = disk::size(self.paths, config)?;
        let volatile = match config.auto_remove {
            true => " volatile",
            false => "",
        };
        Ok(Subject {
            name: format!("{} disk {}{volatile}", self.instance.image_id, size.bytes()),
            content: self.image.digest.to_string(),
        })
    }

    /// The template of the image, when it was made.
    pub(super) fn find(&self, base: &Template) -> Option<Template> {
        templates(self.paths).heir(base, &self.subject().ok()?)
    }

    /// Makes it. One that cannot be made is not tried again before the next boot of the host: instances are then copied
    /// from the machine's template, which takes longer and does the same.
    pub(super) fn ensure(&self, base: &Template, begins: impl FnOnce()) -> Option<Template> {
        let subject = self.subject().ok()?;
        let templates = templates(self.paths);
        if let Some(template) = templates.heir(base, &subject) {
            return Some(template);
        }
        let mark = format!(
            "failed-{}-{}",
            base.key(),
            subject.content.replace(':', "-")
        );
        let mark = templates.checked.join(mark);
        if mark.exists() {
            return None;
        }
        begins();
        let made = self.make(base, subject);
        if let Err(error) = &made {
            let _ = fs::write(&mark, crate::backend::chain(error));
        }
        made.ok()
    }

    fn make(
        &self,
        base: &Template,
        subject: Subject,
    ) -> Result<Template, isle_qemu::TemplateError> {
        let making = Making {
            cgroup: None,
            patience: isle_machine::PATIENCE,
        };
        let mut disks = |path: &Path| -> io::Result<Vec<OwnedFd>> {
            let writable = disk::make(self.paths, &self.instance.config, path)
                .map_err(|error| io::Error::other(error.message))?;
            Ok(vec![File::open(&self.image.path)?.into(), writable.into()])
        };
        let heir = Heir {
            subject,
            disks: &mut disks,
        };
        let read = program_files(&self.instance.config);
        let mut ready = |port: &UnixStream, deadline: Instant| {
            rehearse(
                port,
                deadline,
                self.instance.config.auto_remove,
                Some(&read),
            )
        };
        let made = templates(self.paths).ensure_heir(base, heir, &making, &mut ready);
        self.remove_orphans();
        made
    }

    /// Removes what images have left that were removed. Best effort: nothing needs it.
    fn remove_orphans(&self) {
        let templates = templates(self.paths);
        for template in templates.list().unwrap_or_default() {
            let subject = template.subject.unwrap_or_default();
            let image = subject.split(' ').next().unwrap_or_default();
            if let Err(isle_image::FindError::NotFound { .. }) = self.images.find(image) {
                let _ = templates.remove(&template.name);
            }
        }
    }
}

/// The disks of a machine that waits for an instance of any image: an image in which there is nothing but places to mount
/// on, and one of its own.
///
/// # Errors
/// When they cannot be made.
pub(super) fn disks(paths: &Paths) -> io::Result<Vec<OwnedFd>> {
    let image = paths.run.join("rehearsal.erofs");
    if !image.exists() {
        make_image(&image)?;
    }
    let folder = tempfile::tempdir_in(&paths.run)?;
    let writable = disk::make(
        paths,
        &InstanceConfig::default(),
        &folder.path().join("disk"),
    )
    .map_err(|error| io::Error::other(error.message))?;
    Ok(vec![File::open(&image)?.into(), writable.into()])
}

fn make_image(path: &Path) -> io::Result<()> {
    let folder = tempfile::tempdir_in(path.parent().unwrap_or(path))?;
    let root = folder.path().join("root");
    for name in ["dev", "proc", "sys", "etc", "bin"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    // Something to be read.
    fs::write(root.join("bin/sh"), vec![1; 1 << 20])?;
    let new = folder.path().join("image");
    let output = Command::new("mkfs.erofs")
        .args([&new, &root])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("mkfs.erofs: {}", said.trim())));
    }
    fs::rename(new, path)
}

/// Runs the rehearsal in a guest, which is nobody's afterwards. It keeps its root file system mounted, and these files of
/// it in memory, where that is wanted.
///
/// # Errors
/// Whatever goes wrong on either side.
pub(super) fn rehearse(
    port: &UnixStream,
    deadline: Instant,
    is_volatile: bool,
    kept: Option<&[String]>,
) -> Result<(), Failed> {
    let mut guest = Connection::open(port.try_clone()?.into())?;
    guest.set_patience(deadline.saturating_duration_since(Instant::now()));
    let times = if kept.is_some() { 1 } else { TIMES };
    for _ in 0..times {
        run(&mut guest, deadline, is_volatile)?;
        guest.reset(kept)?;
    }
    isle_machine::is_silent(port)
}

fn run(guest: &mut Connection, deadline: Instant, is_volatile: bool) -> Result<(), Failed> {
    let instance = instance(is_volatile);
    let facts = request::facts(&instance);
    let mut spec = request::specification(&instance, &facts);
    let program = format!("{PROGRAM}/{REHEARSAL}");
    let options = ["bind", "ro", "nosuid", "nodev"];
    let of_agent = spec::mount(&program, "bind", request::INIT, &options);
    spec.mounts_mut().get_or_insert_default().push(of_agent);
    let kept = oci::kept(&spec).map_err(|error| error.message)?;
    let user = request::user(&instance);
    let workload = Workload {
        id: &instance.id.to_string(),
        spec: &spec,
        user: Some(&user),
        seccomp: kept.program.as_deref(),
        root_share: None,
    };
    let (stdout, theirs) = UnixStream::pair()?;
    let null = || File::options().read(true).write(true).open("/dev/null");
    let stdio = isle_guest::Stdio::Streams {
        stdin: null()?.into(),
        stdout: theirs.into(),
        stderr: null()?.into(),
    };
    let process = guest.launch(&prepare(&instance)?, &workload, stdio)?;
    guest.started(&process)?;
    while wait(guest, &process.ended, deadline)? {
        guest.tend()?;
    }
    drop(stdout);
    match guest.reap(process.id)?.end {
        isle_guest::End::Code(0) => Ok(()),
        end => Err(format!("the rehearsal ended with {end:?}").into()),
    }
}

/// Waits until there is something to do for the connection; `false`: the process has ended.
fn wait(guest: &Connection, ended: &OwnedFd, deadline: Instant) -> Result<bool, Failed> {
    let channel = guest.as_fd();
    let mut fds = [
        PollFd::new(ended, PollFlags::IN),
        PollFd::new(&channel, PollFlags::IN),
    ];
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) => Err("the rehearsal takes too long".into()),
        Ok(_) => Ok(fds[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// An instance of which nothing is anybody's.
fn instance(is_volatile: bool) -> Instance {
    let mut config = InstanceConfig {
        auto_remove: is_volatile,
        hostname: Some("rehearsal".to_owned()),
        ..InstanceConfig::default()
    };
    config.process.command = Some(vec![format!("{PROGRAM}/{REHEARSAL}")]);
    Instance {
        id: InstanceId::from_bytes([0; 32]),
        name: "rehearsal".parse().expect("it is a name"),
        created_at: Timestamp::UNIX_EPOCH,
        image_id: String::new(),
        config,
        state: InstanceState::created(),
    }
}

fn prepare(instance: &Instance) -> Result<Prepare, Failed> {
    let file = |name: &&str| GuestFile {
        name: (*name).to_owned(),
        mode: 0o644,
        content: b"rehearsal\n".to_vec().into(),
    };
    Ok(Prepare {
        seed: isle_machine::seed()?,
        clock: isle_machine::now(),
        hostname: "rehearsal".to_owned(),
        networks: Vec::new(),
        files: files::NAMES.iter().map(file).collect(),
        shares: None,
        root: Some(request::root(&instance.config)),
    })
}

/// Where the instance's program may be, and what it will read besides.
fn program_files(config: &InstanceConfig) -> Vec<String> {
    let asked = &config.process;
    let mut words = asked
        .entrypoint
        .iter()
        .flatten()
        .chain(asked.command.iter().flatten());
    let mut found: Vec<String> = Vec::new();
    if let Some(word) = words.next() {
        if word.contains('/') {
            found.push(word.clone());
        } else {
            let path = asked.env.iter().find_map(|line| line.strip_prefix("PATH="));
            let folders = path.unwrap_or(PATH).split(':');
            found.extend(
                folders.map(|folder| PathBuf::from(folder).join(word).display().to_string()),
            );
        }
    }
    found.extend(USUAL.map(str::to_owned));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_where_the_instance_would_find_it() {
        let mut config = InstanceConfig::default();
        config.process.command = Some(vec!["sh".to_owned(), "-c".to_owned()]);
        config.process.env = vec!["A=b".to_owned(), "PATH=/opt/bin:/bin".to_owned()];
        assert_eq!(program_files(&config)[..2], ["/opt/bin/sh", "/bin/sh"]);
        config.process.entrypoint = Some(vec!["/entry".to_owned()]);
        assert_eq!(program_files(&config)[0], "/entry");
        assert_eq!(program_files(&InstanceConfig::default()), USUAL);
    }
}
