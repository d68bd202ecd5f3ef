//! The files that a build is given: opened once, with what is to be left out.

use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use isle_archive::{LIMITS, TarReader, UnpackOptions, unpack};
use isle_image::{Store, Workspace, decompressed};

use crate::error::BuildError;
use crate::files::Root;
use crate::glob::Ignore;
use crate::request::{Context, DockerfileSource};

/// A context, open.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) folder: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) ignore: Ignore,
    /// Kept for as long as the files are needed, where they were unpacked.
    _workspace: Option<Workspace>,
}

impl Files {
    pub(crate) fn root(&self) -> Root<'_> {
        Root {
            folder: self.folder.as_fd(),
            ignore: &self.ignore,
            keeps_owner: false,
        }
    }

    /// Opens a context.
    ///
    /// # Errors
    /// When it is not there, or cannot be unpacked.
    pub(crate) fn open(context: &Context, store: &Store) -> Result<Files, BuildError> {
        let (path, workspace) = match context {
            Context::Directory(path) => (path.clone(), None),
            Context::Empty => {
                let workspace = store.workspace()?;
                (workspace.path(), Some(workspace))
            }
            Context::Archive(archive) => {
                let mut file =
                    File::open(archive).map_err(BuildError::io("open the archive", archive))?;
                let workspace = unpacked(&mut file, archive, store)?;
                (workspace.path(), Some(workspace))
            }
            Context::Stdin(bytes) => {
                let workspace =
                    unpacked(&mut bytes.as_slice(), Path::new("standard input"), store)?;
                (workspace.path(), Some(workspace))
            }
            Context::Git(address) => {
                let workspace = store.workspace()?;
                let folder = clone(address, &workspace.path().join("git"), false)?;
                (folder, Some(workspace))
            }
        };
        let handle = File::open(&path).map_err(BuildError::io("open the context", &path))?;
        let is_folder = handle.metadata().is_ok_and(|metadata| metadata.is_dir());
        if !is_folder {
            return Err(BuildError::request(
                format!("the context {} is not a folder", path.display()),
                "name the folder that the Dockerfile's COPY takes from; an archive is given with - and standard input",
            ));
        }
        Ok(Files {
            folder: handle.into(),
            path,
            ignore: Ignore::default(),
            _workspace: workspace,
        })
    }

    /// Finds the Dockerfile: its name for messages, and its text. Reads `.dockerignore`, that of the Dockerfile first.
    ///
    /// # Errors
    /// When one is not there or cannot be understood.
    pub(crate) fn dockerfile(
        &mut self,
        source: &DockerfileSource,
    ) -> Result<(String, String), BuildError> {
        let inside = |name: &str| -> io::Result<Option<String>> {
            match self.root().open(&Path::new("/").join(name)) {
                Ok(file) => read_text(File::from(file)).map(Some),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let (name, text, own_ignore) = match source {
            DockerfileSource::Text(text) => ("Dockerfile".to_owned(), text.clone(), None),
            DockerfileSource::Default => {
                let fail = BuildError::io("read", self.path.join("Dockerfile"));
                match inside("Dockerfile").map_err(fail)? {
                    Some(text) => {
                        let ignore = inside("Dockerfile.dockerignore").ok().flatten();
                        ("Dockerfile".to_owned(), text, ignore)
                    }
                    None => {
                        return Err(BuildError::request(
                            format!("there is no Dockerfile in {}", self.path.display()),
                            "name it with -f, or another context",
                        ));
                    }
                }
            }
            DockerfileSource::Path(path) => {
                let within = self.path.join(path);
                let found = match path.is_absolute() {
                    true => path.clone(),
                    // As Docker: below where one is, or below the context.
                    false if path.exists() => path.clone(),
                    false => within,
                };
                let file =
                    File::open(&found).map_err(BuildError::io("open the Dockerfile", &found))?;
                let text = read_text(file).map_err(BuildError::io("read", &found))?;
                let mut beside = found.clone().into_os_string();
                beside.push(".dockerignore");
                let ignore = File::open(&beside)
                    .ok()
                    .and_then(|file| read_text(file).ok());
                (path.display().to_string(), text, ignore)
            }
        };
        let fail = BuildError::io("read", self.path.join(".dockerignore"));
        let ignore = match own_ignore {
            Some(text) => Some(text),
            None => inside(".dockerignore").map_err(fail)?,
        };
        if let Some(ignore) = ignore {
            self.ignore = Ignore::parse(&ignore).map_err(|line| {
                BuildError::request(
                    format!(".dockerignore:{line}: this is not a pattern"),
                    "a [ has to be closed with a ], or to be written as \\[",
                )
            })?;
        }
        Ok((name, text))
    }
}

fn read_text(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(8 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Unpacks a context's archive: owners do not matter.
fn unpacked(stream: &mut dyn Read, name: &Path, store: &Store) -> Result<Workspace, BuildError> {
    let workspace = store.workspace()?;
    unpack_to(stream, name, &workspace.path(), false)?;
    Ok(workspace)
}

/// Unpacks an archive into a folder.
pub(crate) fn unpack_to(
    stream: &mut dyn Read,
    name: &Path,
    folder: &Path,
    keep_owner: bool,
) -> Result<(), BuildError> {
    let fail = |error: &dyn std::error::Error| {
        BuildError::request(
            format!("cannot unpack {}: {error}", name.display()),
            "it must be a tar archive, as it is or compressed with gzip or zstd",
        )
    };
    let folder = File::open(folder).map_err(BuildError::io("open", folder))?;
    let reader = decompressed(stream, LIMITS).map_err(|error| fail(&error))?;
    let mut archive = TarReader::new(BufReader::new(reader), LIMITS);
    let options = UnpackOptions {
        whiteouts: false,
        keep_owner,
        ..UnpackOptions::default()
    };
    unpack(folder.as_fd(), &mut archive, &options).map_err(|error| fail(&error))?;
    Ok(())
}

/// Whether a text is the address of a git repository.
#[must_use]
pub fn is_git(text: &str) -> bool {
    let address = text.split('#').next().unwrap_or(text);
    text.starts_with("git://")
        || text.starts_with("git@")
        || text.starts_with("ssh://")
        || text.starts_with("github.com/")
        || ((address.starts_with("http://")
            || address.starts_with("https://")
            || address.starts_with("file://"))
            && address.ends_with(".git"))
}

/// Clones `address[#ref[:folder]]` with git(1) into a folder that is not there; returns where its files are.
pub(crate) fn clone(address: &str, into: &Path, keep_git_dir: bool) -> Result<PathBuf, BuildError> {
    let (repository, fragment) = address.split_once('#').unwrap_or((address, ""));
    let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
    let repository = match repository.strip_prefix("github.com/") {
        Some(rest) => format!("https://github.com/{rest}"),
        None => repository.to_owned(),
    };
    DirBuilder::new()
        .mode(0o700)
        .create(into)
        .map_err(BuildError::io("make", into))?;
    let reference = if reference.is_empty() {
        "HEAD"
    } else {
        reference
    };
    if reference.starts_with('-') || repository.starts_with('-') {
        return Err(BuildError::request(
            format!("{address:?} is not the address of a repository"),
            "",
        ));
    }
    let git = |arguments: &[&str]| -> Result<(), BuildError> {
        let output = Command::new("git")
            .args([
                "-c",
                "protocol.ext.allow=never",
                "-c",
                "advice.detachedHead=false",
            ])
            .args(arguments)
            .current_dir(into)
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .output()
            .map_err(BuildError::io("run", "git"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(BuildError::request(
                format!(
                    "git cannot get {address}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ),
                "is the address right, and can it be reached from here?",
            )),
        }
    };
    git(&["init", "--quiet"])?;
    git(&[
        "fetch",
        "--quiet",
        "--depth",
        "1",
        "--",
        &repository,
        reference,
    ])?;
    git(&["checkout", "--quiet", "FETCH_HEAD"])?;
    if !keep_git_dir {
        let inner = into.join(".git");
        std::fs::remove_dir_all(&inner).map_err(BuildError::io("remove", &inner))?;
    }
    let found = into.join(crate::files::clean(folder));
    // The repository is a stranger's: a link in it must not lead to files of the host.
    let real = found
        .canonicalize()
        .map_err(BuildError::io("find", &found))?;
    let top = into.canonicalize().map_err(BuildError::io("find", into))?;
    match real.starts_with(&top) {
        true => Ok(real),
        false => Err(BuildError::request(
            format!("{folder:?} of {repository} leads out of the repository"),
            "name a folder of the repository",
        )),
    }
}
