//! `RUN --mount`: planned with what they read, made when the step runs.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use isle_engine::config::{Mount as InstanceMount, MountSource};
use isle_image::{Digest, Workspace};
use isle_types::{ByteSize, Isolation};
use rustix::fs::{FlockOperation, flock};

use crate::copy::From;
use crate::error::BuildError;
use crate::files::{Match, Selection, clean};
use crate::language::{Item, Mount, MountKind, RunInstruction, Sharing};
use crate::place::{Layer, Ownership, below};
use crate::records::KeyMaker;
use crate::request::Secret;
use crate::run::{Program, SECRETS};
use crate::solve::{Build, Stage, Worker};

/// A mount, understood.
pub(crate) struct Planned {
    mount: Mount,
    target: String,
    /// What a bind, or a cache's first content, is taken from.
    from: Option<From>,
}

/// What must live as long as the program runs.
#[derive(Default)]
pub(crate) struct Held {
    workspaces: Vec<Workspace>,
    locks: Vec<File>,
    secrets: Option<Secrets>,
}

/// A folder of secrets; gone with this.
struct Secrets {
    folder: PathBuf,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where caches of `--mount=type=cache` are, below the root.
pub(crate) const CACHES: &str = "build-caches";

impl Build<'_> {
    /// Reads the mounts of a `RUN`, and adds to the key what they hold.
    pub(crate) fn plan_mounts(
        &self,
        worker: &Worker,
        stage: &Stage,
        item: &Item,
        run: &RunInstruction,
        key: &mut KeyMaker,
    ) -> Result<Vec<Planned>, BuildError> {
        let mut planned = Vec::new();
        let mut agents = 0;
        for text in &run.mounts {
            let text = self.word(stage, item, text)?;
            key.part(&text);
            let mount =
                Mount::parse(&text).map_err(|(problem, fix)| self.at(item, problem, fix))?;
            let target = match (&mount.target, mount.kind) {
                (Some(target), _) => target.clone(),
                (None, MountKind::Secret) => {
                    let id = mount
                        .id
                        .as_deref()
                        .or(mount.source.as_deref())
                        .unwrap_or_default();
                    format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(id))
                }
                (None, _) => {
                    agents += 1;
                    format!("/run/buildkit/ssh_agent.{}", agents - 1)
                }
            };
            let joined = Path::new(stage.config.working_dir()).join(&target);
            let target = isle_archive::lexical(&joined)
                .to_string_lossy()
                .into_owned();
            let mut from = None;
            if mount.kind == MountKind::Bind
                || (mount.kind == MountKind::Cache && mount.from.is_some())
            {
                let mut source = self.from(worker, stage, mount.from.as_deref())?;
                if mount.kind == MountKind::Bind {
                    let digest =
                        self.content(worker, item, &mut source, mount.source.as_deref())?;
                    key.part(digest.as_str());
                }
                from = Some(source);
            }
            planned.push(Planned {
                mount,
                target,
                from,
            });
        }
        Ok(planned)
    }

    /// A digest of what a bind shows.
    fn content(
        &self,
        worker: &Worker,
        item: &Item,
        from: &mut From,
        source: Option<&str>,
    ) -> Result<Digest, BuildError> {
        let path = source.unwrap_or(".");
        let mut key = KeyMaker::new("bind");
        key.part(path);
        let selection = key.finish();
        let image = match &*from {
            From::Image { image, .. } => Some(image.id.clone()),
            _ => None,
        };
        if let Some(image) = &image
            && let Some(known) = worker.records.content(image, &selection)?
        {
            return Ok(known);
        }
        let (matches, digest) = self.selected(worker, item, from, path)?;
        drop(matches);
        if let Some(image) = &image {
            worker.records.set_content(image, &selection, &digest)?;
        }
        Ok(digest)
    }

    fn selected(
        &self,
        worker: &Worker,
        item: &Item,
        from: &mut From,
        path: &str,
    ) -> Result<(Vec<Match>, Digest), BuildError> {
        let Some(root) = self.root(worker, from)? else {
            return Ok((Vec::new(), Digest::of(b"")));
        };
        let matches = root.select(path, &Selection::default());
        let matches = matches.map_err(|missing| self.missing(item, missing, Some(root)))?;
        let digest = root
            .digest(&matches)
            .map_err(BuildError::io("read", path))?;
        Ok((matches, digest))
    }

    /// Makes what is mounted, and adds it to the program.
    pub(crate) fn make_mounts(
        &self,
        worker: &Worker,
        stage: &Stage,
        planned: &[Planned],
        script: Option<&(String, String)>,
        program: &mut Program,
    ) -> Result<Held, BuildError> {
        let mut held = Held::default();
        let mut targets = Vec::new();
        for plan in planned {
            let mount = match plan.mount.kind {
                MountKind::Tmpfs => Some(tmpfs(&plan.mount)?),
                MountKind::Cache => Some(self.cache(worker, plan, &mut held)?),
                MountKind::Bind => Some(self.bind(worker, plan, &mut held)?),
                MountKind::Secret => self.secret(plan, &mut held, program)?,
                MountKind::Ssh => self.agent(&plan.mount, &plan.target, program)?,
            };
            let Some(source) = mount else { continue };
            targets.push(plan.target.clone());
            program.mounts.push(InstanceMount {
                source,
                target: plan.target.clone(),
                read_only: plan.mount.read_only || plan.mount.kind == MountKind::Secret,
            });
        }
        if let Some((path, content)) = script {
            let workspace = worker.images().workspace()?;
            let file = workspace.path().join("script");
            write_file(&file, content.as_bytes(), 0o755)?;
            held.workspaces.push(workspace);
            program.mounts.push(InstanceMount {
                source: bind_of(file),
                target: path.clone(),
                read_only: true,
            });
        }
        // What mounts make in the image below goes again.
        let mut paths = Vec::new();
        for target in &targets {
            let relative = clean(target);
            let above = relative
                .ancestors()
                .filter(|path| !path.as_os_str().is_empty());
            paths.extend(above.map(|path| path.to_string_lossy().into_owned()));
        }
        if !paths.is_empty() {
            let exists = self.has_path(worker, stage, &paths)?;
            let new = paths.iter().zip(exists).filter(|(_, exists)| !exists);
            program.stubs = new.map(|(path, _)| PathBuf::from(path)).collect();
        }
        Ok(held)
    }

    fn bind(
        &self,
        worker: &Worker,
        plan: &Planned,
        held: &mut Held,
    ) -> Result<MountSource, BuildError> {
        let path = plan.mount.source.as_deref().unwrap_or(".");
        let Some(from) = &plan.from else {
            return Err(BuildError::request("a bind has no source", ""));
        };
        // The host's own folder, where nothing of it is left out and nothing can be written.
        if let From::Context(name) = from
            && plan.mount.read_only
        {
            let files = match name {
                None => Some(&self.main),
                Some(name) => self.contexts.get(name),
            };
            if let Some(files) = files.filter(|files| files.ignore.is_empty()) {
                let inside = Path::new("/").join(clean(path));
                let fail = BuildError::io("open", path);
                let handle =
                    isle_archive::beneath(files.folder.as_fd(), &inside, rustix::fs::OFlags::PATH);
                let handle = handle.map_err(|errno| fail(errno.into()))?;
                let number = std::os::fd::AsRawFd::as_raw_fd(&handle);
                let real = std::fs::read_link(format!("/proc/self/fd/{number}"));
                return Ok(bind_of(real.map_err(BuildError::io("find", path))?));
            }
        }
        let workspace = worker.images().workspace()?;
        let copied = workspace.path().join("bind");
        let is_folder = self.copy_to(worker, from, path, &copied)?;
        held.workspaces.push(workspace);
        Ok(bind_of(match is_folder {
            true => copied,
            false => copied.join("file"),
        }))
    }

    /// Copies what a path of a source holds into a folder that is not there; a single file as `file`.
    fn copy_to(
        &self,
        worker: &Worker,
        from: &From,
        path: &str,
        into: &Path,
    ) -> Result<bool, BuildError> {
        DirBuilder::new()
            .mode(0o755)
            .create(into)
            .map_err(BuildError::io("make", into))?;
        let mut own = match from {
            From::Context(name) => From::Context(name.clone()),
            From::Image { image, .. } => From::Image {
                image: image.clone(),
                view: None,
                _workspace: None,
            },
            From::Empty => From::Empty,
        };
        let Some(root) = self.root(worker, &mut own)? else {
            return Ok(true);
        };
        let matches = root
            .select(path, &Selection::default())
            .map_err(|missing| {
                BuildError::request(
                    format!("{path:?} cannot be mounted: {missing:?}"),
                    "name a file or folder that is there",
                )
            })?;
        let is_folder = matches.iter().any(|found| found.is_folder);
        let mut layer = Layer::new(below(None), Ownership::default(), self.now());
        for found in &matches {
            let destination = if is_folder { "/" } else { "/file" };
            layer
                .put(found, root, destination)
                .map_err(BuildError::io("copy", path))?;
        }
        let (mut reader, mut writer) = io::pipe().map_err(BuildError::io("make", "a pipe"))?;
        std::thread::scope(|scope| {
            let layer = &layer;
            let writing = scope.spawn(move || layer.write(&mut writer));
            let unpacked = crate::contexts::unpack_to(&mut reader, Path::new(path), into, true);
            drop(reader);
            let written = writing.join().expect("the writer does not panic");
            unpacked?;
            written.map_err(BuildError::io("copy", path))
        })?;
        Ok(is_folder)
    }

    fn cache(
        &self,
        worker: &Worker,
        plan: &Planned,
        held: &mut Held,
    ) -> Result<MountSource, BuildError> {
        let mount = &plan.mount;
        let id = mount.id.clone().unwrap_or_else(|| plan.target.clone());
        let name = Digest::of(id.as_bytes()).hex()[..32].to_owned();
        let top = self.paths.root.join(CACHES);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&top)
            .map_err(BuildError::io("make", &top))?;
        let mut number = 0;
        let lock = loop {
            let path = top.join(format!("{name}.{number}.lock"));
            let fail = || BuildError::io("lock", &path);
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(fail())?;
            let operation = match mount.sharing {
                Sharing::Shared => FlockOperation::NonBlockingLockShared,
                Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
            };
            match flock(&file, operation) {
                Ok(()) => break file,
                Err(rustix::io::Errno::WOULDBLOCK) if mount.sharing == Sharing::Private => {
                    number += 1
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    self.check()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(errno) => return Err(fail()(errno.into())),
            }
        };
        held.locks.push(lock);
        let folder = top.join(format!("{name}.{number}"));
        if !folder.exists() {
            // Whole or not there: two may begin at the same time.
            let workspace = worker.images().workspace()?;
            let fresh = workspace.path().join("cache");
            match &plan.from {
                Some(from) => {
                    self.copy_to(worker, from, mount.source.as_deref().unwrap_or("."), &fresh)?;
                }
                None => DirBuilder::new()
                    .create(&fresh)
                    .map_err(BuildError::io("make", &fresh))?,
            }
            let fail = || BuildError::io("make", &folder);
            chown(&fresh, Some(mount.uid), Some(mount.gid)).map_err(fail())?;
            let mode = std::fs::Permissions::from_mode(mount.mode.unwrap_or(0o755));
            std::fs::set_permissions(&fresh, mode).map_err(fail())?;
            std::fs::write(top.join(format!("{name}.{number}.id")), &id).map_err(fail())?;
            match std::fs::rename(&fresh, &folder) {
                Err(_) if folder.exists() => {}
                renamed => renamed.map_err(fail())?,
            }
        }
        Ok(bind_of(folder))
    }

    fn secret(
        &self,
        plan: &Planned,
        held: &mut Held,
        program: &mut Program,
    ) -> Result<Option<MountSource>, BuildError> {
        let mount = &plan.mount;
        let id = match mount.id.as_ref().or(mount.source.as_ref()) {
            Some(id) => id.clone(),
            None => plan
                .target
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
        };
        let content = match self.request.secrets.get(&id) {
            None if mount.required => {
                return Err(BuildError::request(
                    format!("the secret {id} is required, and was not given"),
                    format!("give it with --secret id={id},src=FILE or --secret id={id},env=NAME"),
                ));
            }
            None => return Ok(None),
            Some(Secret::File(path)) => {
                std::fs::read(path).map_err(BuildError::io("read the secret", path))?
            }
            Some(Secret::Environment(name)) => match std::env::var_os(name) {
                Some(value) => std::os::unix::ffi::OsStringExt::into_vec(value),
                None => {
                    return Err(BuildError::request(
                        format!(
                            "the variable {name}, which should hold the secret {id}, is not set"
                        ),
                        format!("set it, or give --secret id={id},src=FILE"),
                    ));
                }
            },
        };
        if content.len() > 500 << 10 {
            return Err(BuildError::request(
                format!("the secret {id} has more than 500 KiB"),
                "mount a large file with --mount=type=bind",
            ));
        }
        if let Some(name) = &mount.env {
            let value = String::from_utf8(content.clone()).map_err(|_| {
                BuildError::request(
                    format!("the secret {id} is not text, so that {name} cannot hold it"),
                    "",
                )
            })?;
            program.env.push(format!("{name}={value}"));
            if mount.target.is_none() {
                return Ok(None);
            }
        }
        if held.secrets.is_none() {
            // In memory where the system has it so: not below the root, which is on a disk.
            let top = self.paths.run.join(SECRETS);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&top)
                .map_err(BuildError::io("make", &top))?;
            let folder = top.join(format!("{}-{}", self.marker(), random()));
            DirBuilder::new()
                .mode(0o700)
                .create(&folder)
                .map_err(BuildError::io("make", &folder))?;
            held.secrets = Some(Secrets { folder });
        }
        let folder = held
            .secrets
            .as_ref()
            .map(|secrets| secrets.folder.clone())
            .unwrap_or_default();
        let path = folder.join(format!("{}", program.mounts.len()));
        write_file(&path, &content, mount.mode.unwrap_or(0o400))?;
        chown(&path, Some(mount.uid), Some(mount.gid))
            .map_err(BuildError::io("give away", &path))?;
        Ok(Some(bind_of(path)))
    }

    fn agent(
        &self,
        mount: &Mount,
        target: &str,
        program: &mut Program,
    ) -> Result<Option<MountSource>, BuildError> {
        let id = mount.id.as_deref().unwrap_or("default");
        let Some(socket) = self.request.ssh.get(id) else {
            return match mount.required {
                false => Ok(None),
                true => Err(BuildError::request(
                    format!("the SSH agent {id} is required, and was not given"),
                    format!("give it with --ssh {id}"),
                )),
            };
        };
        if self.request.isolation == Isolation::Vm {
            return Err(BuildError::request(
                "an SSH agent cannot be reached from a virtual machine",
                "run this build with --isolation container",
            ));
        }
        program.env.push(format!("SSH_AUTH_SOCK={target}"));
        Ok(Some(bind_of(socket.clone())))
    }
}

fn random() -> String {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NUMBER
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        .to_string()
}

fn tmpfs(mount: &Mount) -> Result<MountSource, BuildError> {
    let size = mount.size.as_ref().map(|text| text.parse::<ByteSize>());
    let size = size
        .transpose()
        .map_err(|error| BuildError::request(error.to_string(), "write size=64m"))?;
    Ok(MountSource::Tmpfs {
        size,
        mode: mount.mode,
        options: Vec::new(),
    })
}

fn bind_of(path: PathBuf) -> MountSource {
    MountSource::Bind {
        path,
        create_source: false,
        propagation: None,
        non_recursive: false,
        writable_below: false,
    }
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), BuildError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        // Not reduced by the umask.
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    };
    write().map_err(BuildError::io("write", path))
}
