//! `COPY`, `ADD`, and the folder of `WORKDIR`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use isle_engine::EngineError;
use isle_image::{Assembly, Digest, Image, Workspace};
use isle_types::nearest;

use crate::contexts::{clone, is_git, unpack_to};
use crate::error::BuildError;
use crate::files::{Entry, Kind, Match, Missing, Root, Selection, clean, digest_of};
use crate::glob::Ignore;
use crate::language::{CopyInstruction, CopySource, Item, Lexer};
use crate::mode::ModeChange;
use crate::place::{Layer, Ownership, below, owner};
use crate::plan::find_stage;
use crate::records::KeyMaker;
use crate::request::NamedContext;
use crate::run::image_part;
use crate::solve::{Build, Stage, Worker};

/// What files are taken from, open.
#[derive(Debug)]
pub(crate) enum From {
    /// The build's context, or a named one.
    Context(Option<String>),
    /// An image's files.
    Image {
        image: Box<Image>,
        view: Option<OwnedFd>,
        /// What is mounted is below it.
        _workspace: Option<Workspace>,
    },
    /// Nothing at all.
    Empty,
}

/// One group of sources with the root that they were found in.
struct Group {
    folder: Option<OwnedFd>,
    matches: Vec<Match>,
    digest: Digest,
    _workspace: Option<Workspace>,
}

static NOTHING: std::sync::LazyLock<Ignore> = std::sync::LazyLock::new(Ignore::default);

impl Build<'_> {
    /// What `--from` means.
    pub(crate) fn from(
        &self,
        worker: &Worker,
        stage: &Stage,
        name: Option<&str>,
    ) -> Result<From, BuildError> {
        let Some(name) = name else {
            return Ok(From::Context(None));
        };
        if let Some(index) = find_stage(&self.file, self.request, name) {
            if !self.plan.needed.contains(&index) {
                // Only a trigger of a base image can ask for a stage that nobody has planned.
                return Err(BuildError::request(
                    format!(
                        "the stage {name} is not built, and a trigger of the base image takes files of it"
                    ),
                    "name the stage in a COPY --from of this Dockerfile too",
                ));
            }
            let other = self.stage(index)?;
            return match &other.image {
                None => Ok(From::Empty),
                Some(id) => Ok(From::Image {
                    image: Box::new(
                        worker
                            .images()
                            .find(id.as_str())
                            .map_err(EngineError::from)?,
                    ),
                    view: None,
                    _workspace: None,
                }),
            };
        }
        let reference = match self.request.contexts.get(name) {
            Some(NamedContext::Files(_)) => return Ok(From::Context(Some(name.to_owned()))),
            Some(NamedContext::Image(reference)) => reference,
            None => name,
        };
        if reference == "scratch" {
            return Ok(From::Empty);
        }
        let platform = &self.plan.stages[stage.index].platform;
        let image = self.image(worker, reference, platform, &format!("FROM {reference}"))?;
        Ok(From::Image {
            image: Box::new(image),
            view: None,
            _workspace: None,
        })
    }

    /// The root of what files are taken from; mounts an image.
    pub(crate) fn root<'r>(
        &'r self,
        worker: &Worker,
        from: &'r mut From,
    ) -> Result<Option<Root<'r>>, BuildError> {
        match from {
            From::Empty => Ok(None),
            From::Context(None) => Ok(Some(self.main.root())),
            From::Context(Some(name)) => Ok(self.contexts.get(name).map(|files| files.root())),
            From::Image {
                image,
                view,
                _workspace,
            } => {
                if view.is_none() {
                    let workspace = worker.images().workspace()?;
                    *view = Some(worker.images().view(image, &workspace)?);
                    *_workspace = Some(workspace);
                }
                Ok(view.as_ref().map(|view| Root {
                    folder: view.as_fd(),
                    ignore: &NOTHING,
                    keeps_owner: true,
                }))
            }
        }
    }

    /// Explains why a source was not found.
    pub(crate) fn missing(
        &self,
        item: &Item,
        missing: Missing,
        root: Option<Root<'_>>,
    ) -> BuildError {
        match missing {
            Missing::NotThere(path) => {
                let names = root.map(|root| siblings(root, &path)).unwrap_or_default();
                let last = path.rsplit('/').next().unwrap_or(&path);
                let fix = match nearest(last, names.iter().map(String::as_str)) {
                    Some(name) => format!("did you mean {name}?"),
                    None => {
                        "paths are looked up in the context, or in what --from names".to_owned()
                    }
                };
                self.at(item, format!("{path:?} is not there"), fix)
            }
            Missing::Ignored(path) => self.at(
                item,
                format!("{path:?} is left out"),
                "look at .dockerignore, and at --exclude",
            ),
            Missing::Pattern(path) => self.at(
                item,
                format!("{path:?} is not a pattern"),
                "close the [ with a ], or write \\[",
            ),
            Missing::Io(error) => BuildError::io("read", "the files to be copied")(error),
        }
    }

    pub(crate) fn copy(
        &self,
        worker: &Worker,
        stage: &mut Stage,
        item: &Item,
        copy: &CopyInstruction,
        is_add: bool,
    ) -> Result<(), BuildError> {
        let word = |text: &str| self.word(stage, item, text);
        let mut selection = Selection {
            parents: copy.parents,
            ..Selection::default()
        };
        for pattern in &copy.exclude {
            let pattern = word(pattern)?;
            selection.exclude.add(&pattern).ok_or_else(|| {
                self.at(
                    item,
                    format!("--exclude={pattern} is not a pattern"),
                    "close the [ with a ]",
                )
            })?;
        }
        let chmod = copy.chmod.as_deref().map(word).transpose()?;
        let chmod = chmod.map(|text| {
            ModeChange::parse(&text).ok_or_else(|| {
                self.at(
                    item,
                    format!("--chmod={text} is not a mode"),
                    "write --chmod=755 or --chmod=u=rwX,go=rX",
                )
            })
        });
        let chmod = chmod.transpose()?;
        let chown = copy
            .chown
            .as_deref()
            .map(word)
            .transpose()?
            .filter(|text| !text.is_empty());
        let destination = destination(stage, &word(&copy.destination)?);
        let mut from = self.from(worker, stage, copy.from.as_deref())?;
        let mut groups: Vec<Group> = Vec::new();
        let mut plain: Vec<String> = Vec::new();
        let mut names = 0;
        for source in &copy.sources {
            match source {
                CopySource::Inline(inline) => {
                    let lexer = Lexer {
                        escape: self.file.escape(),
                        keeps_quotes: true,
                    };
                    let content = match inline.expands {
                        false => inline.content.clone(),
                        true => lexer.word(&inline.content, &*stage).map_err(|problem| {
                            self.at(item, problem, "a $ that means itself is written \\$")
                        })?,
                    };
                    names += 1;
                    groups.push(inline_group(&inline.name, content.into_bytes()));
                }
                CopySource::Path(path) => {
                    let path = word(path)?;
                    if path.is_empty() {
                        return Err(self.at(
                            item,
                            "a source is empty",
                            "write . for the whole context",
                        ));
                    }
                    names += 1;
                    match is_add {
                        true if is_git(&path) => groups.push(self.git(worker, &path, copy)?),
                        true if path.starts_with("http://") || path.starts_with("https://") => {
                            groups.push(self.download(worker, item, &path, copy)?);
                        }
                        true if copy.checksum.is_some() => {
                            return Err(self.at(
                                item,
                                "--checksum is for addresses",
                                "leave it out: files of the context are known",
                            ));
                        }
                        _ => plain.push(path),
                    }
                }
            }
        }
        // Only what an address leads to can be there before the files of the context.
        let mut key = KeyMaker::new("copy");
        if !copy.link {
            key.part(&stage.chain);
        } else {
            key.part(image_part(stage.image.as_ref())).part("link");
        }
        key.part(&destination);
        key.part(format!(
            "{chmod:?} {chown:?} {} {}",
            copy.parents,
            is_add && copy.unpack != Some(false)
        ));
        key.part(
            self.epoch
                .map(|epoch| epoch.to_string())
                .unwrap_or_default(),
        );
        for group in &groups {
            key.part(group.digest.as_str());
        }
        // Of an image, what a selection holds never changes, and is known from the last time.
        let selection_key = || {
            let mut key = KeyMaker::new("selection");
            for path in &plain {
                key.part(path);
            }
            key.part(format!("{} {:?}", copy.parents, copy.exclude));
            key.finish()
        };
        let known = match (&from, plain.is_empty()) {
            (From::Image { image, .. }, false) => {
                let selected = selection_key();
                let known = worker.records.content(&image.id, &selected)?;
                Some((image.id.clone(), selected, known))
            }
            _ => None,
        };
        let mut matches: Option<Vec<Match>> = None;
        let select = |from: &mut From| -> Result<Vec<Match>, BuildError> {
            let root = self.root(worker, from)?;
            let mut all = Vec::new();
            for path in &plain {
                let found = match root {
                    Some(root) => root.select(path, &selection),
                    None => Err(Missing::NotThere(path.clone())),
                };
                all.extend(found.map_err(|missing| self.missing(item, missing, root))?);
            }
            Ok(all)
        };
        if !plain.is_empty() {
            let digest = match &known {
                Some((_, _, Some(digest))) => digest.clone(),
                _ => {
                    let found = select(&mut from)?;
                    let root = self.root(worker, &mut from)?;
                    let digest = match root {
                        Some(root) => root
                            .digest(&found)
                            .map_err(BuildError::io("read", "the files to be copied"))?,
                        None => Digest::of(b""),
                    };
                    if let Some((image, selected, _)) = &known {
                        worker.records.set_content(image, selected, &digest)?;
                    }
                    matches = Some(found);
                    digest
                }
            };
            key.part(digest.as_str());
        }
        if names > 1 && !destination.ends_with('/') {
            return Err(self.at(
                item,
                format!(
                    "{} has several sources, and the destination {destination} is not a folder",
                    item.instruction.word()
                ),
                format!("write {destination}/"),
            ));
        }
        let created_by = format!("{} # buildkit", item.source);
        let (unpacks, link) = (is_add && copy.unpack != Some(false), copy.link);
        self.step(
            worker,
            stage,
            item,
            &created_by,
            key.finish(),
            |stage, _| {
                let found = match matches {
                    Some(found) => found,
                    None if plain.is_empty() => Vec::new(),
                    None => select(&mut from)?,
                };
                let root = match plain.is_empty() {
                    true => None,
                    false => self.root(worker, &mut from)?,
                };
                let (view, _held) = self.view_of(worker, stage)?;
                let chown = match &chown {
                    None => None,
                    Some(text) => Some(owner(text, below(view.as_ref())).map_err(|problem| {
                        self.at(item, problem, "use numbers, or make the user before")
                    })?),
                };
                let ownership = Ownership {
                    chown,
                    chmod: chmod.clone(),
                    latest: self.epoch,
                    is_linked: link,
                };
                let mut archives: Vec<Group> = Vec::new();
                let mut order: Vec<(usize, usize)> = Vec::new();
                for (index, found) in found.iter().enumerate() {
                    if let (true, Some(root)) = (unpacks && copy.from.is_none(), root)
                        && let Some(group) = self.archive(worker, root, found)?
                    {
                        order.push((1, archives.len()));
                        archives.push(group);
                        continue;
                    }
                    order.push((0, index));
                }
                let below = match link {
                    true => below(None),
                    false => below(view.as_ref()),
                };
                let mut layer = Layer::new(below, ownership, self.now());
                let fail = |error: io::Error| {
                    self.at(
                        item,
                        error.to_string(),
                        "copy it to another place, or remove what is there before",
                    )
                };
                for (kind, index) in order {
                    match (kind, root) {
                        (0, Some(root)) => {
                            layer.put(&found[index], root, &destination).map_err(fail)?
                        }
                        _ => {
                            let group = &archives[index];
                            for found in &group.matches {
                                let folder = format!("{}/", destination.trim_end_matches('/'));
                                layer.put(found, group.root(), &folder).map_err(fail)?;
                            }
                        }
                    }
                }
                for group in &groups {
                    for found in &group.matches {
                        layer.put(found, group.root(), &destination).map_err(fail)?;
                    }
                }
                self.with_layer(worker, stage, &layer)
            },
        )
    }

    /// The files of a stage; none for one that has none.
    fn view_of(
        &self,
        worker: &Worker,
        stage: &Stage,
    ) -> Result<(Option<OwnedFd>, Option<Workspace>), BuildError> {
        let Some(id) = &stage.image else {
            return Ok((None, None));
        };
        let image = worker
            .images()
            .find(id.as_str())
            .map_err(EngineError::from)?;
        if image.config.rootfs().diff_ids().is_empty() {
            return Ok((None, None));
        }
        let workspace = worker.images().workspace()?;
        let view = worker.images().view(&image, &workspace)?;
        Ok((Some(view), Some(workspace)))
    }

    /// Whether the stage's files have a path, links followed.
    pub(crate) fn has_path(
        &self,
        worker: &Worker,
        stage: &Stage,
        paths: &[String],
    ) -> Result<Vec<bool>, BuildError> {
        let (view, _held) = self.view_of(worker, stage)?;
        let exists = |path: &String| {
            view.as_ref().is_some_and(|view| {
                let path = Path::new("/").join(path);
                isle_archive::beneath(view.as_fd(), &path, rustix::fs::OFlags::PATH).is_ok()
            })
        };
        Ok(paths.iter().map(exists).collect())
    }

    pub(crate) fn make_folder(
        &self,
        worker: &Worker,
        stage: &Stage,
        path: &str,
    ) -> Result<Option<Image>, BuildError> {
        let (view, _held) = self.view_of(worker, stage)?;
        let below = below(view.as_ref());
        let fail = BuildError::io("make the folder", path);
        let real = below.resolve(Path::new(path)).map_err(fail)?;
        if below.is_folder(&real) || real.as_os_str().is_empty() {
            return Ok(None);
        }
        let chown = stage.config.user().map(|user| owner(user, below));
        let chown = chown
            .transpose()
            .map_err(|problem| BuildError::request(problem, "make the user before"))?;
        let ownership = Ownership {
            chown,
            latest: self.epoch,
            ..Ownership::default()
        };
        let mut layer = Layer::new(below, ownership, self.now());
        layer
            .folder(&real, None)
            .map_err(BuildError::io("make the folder", path))?;
        self.with_layer(worker, stage, &layer)
    }

    /// Puts a layer on the stage's files.
    fn with_layer(
        &self,
        worker: &Worker,
        stage: &Stage,
        layer: &Layer<'_>,
    ) -> Result<Option<Image>, BuildError> {
        if layer.is_empty() && stage.image.is_some() {
            return Ok(None);
        }
        let layers = match &stage.image {
            Some(image) => worker.images().layer_refs(image)?,
            None => Vec::new(),
        };
        let (mut reader, mut writer) = io::pipe().map_err(BuildError::io("make", "a pipe"))?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || layer.write(&mut writer));
            let assembly = Assembly {
                layers: &layers,
                document: stage.config.bare(),
                names: &[],
                is_intermediate: true,
            };
            let image = worker.images().assemble(assembly, Some(&mut reader));
            drop(reader);
            match (writing.join().expect("the writer does not panic"), image) {
                (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(BuildError::io("copy", "the files")(error))
                }
                (_, Err(error)) => Err(error.into()),
                (Err(error), Ok(_)) => Err(BuildError::io("copy", "the files")(error)),
                (Ok(()), Ok(image)) => Ok(Some(image)),
            }
        })
    }

    /// What `ADD` unpacks: a local archive.
    fn archive(
        &self,
        worker: &Worker,
        root: Root<'_>,
        found: &Match,
    ) -> Result<Option<Group>, BuildError> {
        let [
            Entry {
                kind: Kind::File { source, .. },
                ..
            },
        ] = &*found.entries
        else {
            return Ok(None);
        };
        let fail = || BuildError::io("read", source);
        let mut file = File::from(root.open(source).map_err(fail())?);
        if !is_archive(&mut file).map_err(fail())? {
            return Ok(None);
        }
        let mut file = File::from(root.open(source).map_err(fail())?);
        let workspace = worker.images().workspace()?;
        unpack_to(&mut file, source, &workspace.path(), true)?;
        group_of(
            &workspace.path(),
            ".",
            &Selection::default(),
            true,
            Some(workspace),
        )
    }

    fn git(
        &self,
        worker: &Worker,
        address: &str,
        copy: &CopyInstruction,
    ) -> Result<Group, BuildError> {
        let workspace = worker.images().workspace()?;
        let folder = clone(address, &workspace.path().join("git"), copy.keep_git_dir)?;
        let group = group_of(&folder, ".", &Selection::default(), false, Some(workspace))?;
        group.ok_or_else(|| BuildError::request(format!("{address} has no files"), ""))
    }

    fn download(
        &self,
        worker: &Worker,
        item: &Item,
        address: &str,
        copy: &CopyInstruction,
    ) -> Result<Group, BuildError> {
        let workspace = worker.images().workspace()?;
        let path = address.split(['?', '#']).next().unwrap_or(address);
        let name = path
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let is_file = !path.ends_with('/')
            && path.matches('/').count() > 2
            && !name.is_empty()
            && name != "..";
        if !is_file && copy.destination.ends_with('/') {
            return Err(self.at(
                item,
                format!("{address} has no file name"),
                "write the file's name as the destination",
            ));
        }
        let name = if is_file { name } else { "download" };
        let file = workspace.path().join(name);
        crate::download::download(address, &file, &|| self.check())?;
        if let Some(wanted) = &copy.checksum {
            let handle = File::open(&file).map_err(BuildError::io("read", &file))?;
            let found = digest_of(handle).map_err(BuildError::io("read", &file))?;
            if found.as_str() != wanted {
                return Err(self.at(
                    item,
                    format!("{address} has the digest {found}, not {wanted}"),
                    "it was changed: look at it, then mend the --checksum",
                ));
            }
        }
        if copy.unpack == Some(true) {
            let folder = workspace.path().join("unpacked");
            std::fs::create_dir(&folder).map_err(BuildError::io("make", &folder))?;
            let mut handle = File::open(&file).map_err(BuildError::io("read", &file))?;
            unpack_to(&mut handle, Path::new(name), &folder, true)?;
            let group = group_of(&folder, ".", &Selection::default(), true, Some(workspace))?;
            return group.ok_or_else(|| BuildError::request(format!("{address} has no files"), ""));
        }
        let group = group_of(
            &workspace.path(),
            name,
            &Selection::default(),
            false,
            Some(workspace),
        )?;
        group.ok_or_else(|| BuildError::request(format!("{address} is empty"), ""))
    }
}

impl Group {
    fn root(&self) -> Root<'_> {
        Root {
            folder: self
                .folder
                .as_ref()
                .map_or(rustix::fs::CWD, |folder| folder.as_fd()),
            ignore: &NOTHING,
            keeps_owner: false,
        }
    }
}

fn group_of(
    folder: &Path,
    source: &str,
    selection: &Selection,
    keeps_owner: bool,
    workspace: Option<Workspace>,
) -> Result<Option<Group>, BuildError> {
    let handle = File::open(folder).map_err(BuildError::io("open", folder))?;
    let root = Root {
        folder: handle.as_fd(),
        ignore: &NOTHING,
        keeps_owner,
    };
    let matches = match root.select(source, selection) {
        Ok(matches) => matches,
        Err(Missing::Io(error)) => return Err(BuildError::io("read", folder)(error)),
        Err(_) => return Ok(None),
    };
    let digest = root
        .digest(&matches)
        .map_err(BuildError::io("read", folder))?;
    Ok(Some(Group {
        folder: Some(handle.into()),
        matches,
        digest,
        _workspace: workspace,
    }))
}

fn inline_group(name: &str, content: Vec<u8>) -> Group {
    let digest = Digest::of(&content);
    let mut key = KeyMaker::new("inline");
    key.part(name).part(digest.as_str());
    Group {
        folder: None,
        matches: vec![Match {
            name: name.into(),
            is_folder: false,
            mode: 0o644,
            entries: vec![Entry {
                path: std::path::PathBuf::new(),
                kind: Kind::Inline(content),
                mode: 0o644,
                owner: (0, 0),
                mtime: 0,
                xattrs: Vec::new(),
            }],
        }],
        digest: key.finish(),
        _workspace: None,
    }
}

/// Whether a file is a tar archive, as it is or compressed in a way that can be unpacked.
fn is_archive(file: &mut File) -> io::Result<bool> {
    let Ok(mut reader) = isle_image::decompressed(file, isle_archive::LIMITS) else {
        return Ok(false);
    };
    let mut block = Vec::new();
    let read = io::Read::read_to_end(&mut io::Read::take(&mut reader, 512), &mut block);
    if read.is_err() || block.len() < 512 || block.iter().all(|byte| *byte == 0) {
        return Ok(false);
    }
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&block);
    let told = header.cksum().unwrap_or(u32::MAX);
    header.set_cksum();
    Ok(header.cksum().is_ok_and(|sum| sum == told))
}

/// The absolute path; a slash at its end when it is to be a folder.
fn destination(stage: &Stage, text: &str) -> String {
    let is_folder = text.ends_with('/')
        || text == "."
        || text.ends_with("/.")
        || text == ".."
        || text.ends_with("/..");
    let joined = Path::new(stage.config.working_dir()).join(text);
    let path = isle_archive::lexical(&joined)
        .to_string_lossy()
        .into_owned();
    match is_folder && path != "/" {
        true => format!("{path}/"),
        false => path,
    }
}

/// The names beside a path that is not there.
fn siblings(root: Root<'_>, path: &str) -> Vec<String> {
    let path = clean(path);
    let above = Path::new("/").join(path.parent().unwrap_or(Path::new("")));
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let Ok(folder) = isle_archive::beneath(root.folder, &above, flags) else {
        return Vec::new();
    };
    let Ok(entries) = rustix::fs::Dir::read_from(&folder) else {
        return Vec::new();
    };
    let names =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    names
        .filter(|name| name != "." && name != "..")
        .take(10_000)
        .collect()
}
