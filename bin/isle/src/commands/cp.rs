//! `isle cp`: files between the host and an instance, with Docker's rules for what goes where.

mod extract;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use isle_engine::{Engine, EngineError, PathStat};
use isle_types::InstanceId;

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::output;

pub const ABOUT: &str = "Copy files between an instance and the host";
pub const EXAMPLES: &str = "  isle cp web:/etc/nginx/nginx.conf .
  isle cp ./site/. web:/usr/share/nginx/html
  tar c . | isle cp - web:/srv";

/// Flags of `cp`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Keep user and group of the files
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link points to instead of the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// From: CONTAINER:PATH, a path of the host, or - for a tar archive on standard input
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    source: String,
    /// To: CONTAINER:PATH, a path of the host, or - for a tar archive on standard output
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    destination: String,
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Stream,
    Host(String),
    Instance { name: String, path: String },
}

/// `NAME:PATH`, unless what is before the colon looks like a path.
fn side(text: &str) -> Side {
    if text == "-" {
        return Side::Stream;
    }
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
            Side::Instance {
                name: name.to_owned(),
                path: path.to_owned(),
            }
        }
        _ => Side::Host(text.to_owned()),
    }
}

pub fn run(args: &Args, context: &Context) -> Result {
    match (side(&args.source), side(&args.destination)) {
        (Side::Instance { name, path }, Side::Host(target)) => {
            let engine = context.engine()?;
            let id = engine.find(&name)?.id;
            from_instance(engine, &id, &path, &target, args)?;
        }
        (Side::Instance { name, path }, Side::Stream) => {
            let engine = context.engine()?;
            let id = engine.find(&name)?.id;
            let mut archive = output::Archive::create(None)?;
            engine
                .copy_out(&id, &absolute(&path), args.follow_link, &mut archive)
                .map_err(|error| archive.failed(error))?;
            archive.finish()?;
        }
        (Side::Host(source), Side::Instance { name, path }) => {
            let engine = context.engine()?;
            let id = engine.find(&name)?.id;
            to_instance(engine, &id, &source, &path, args)?;
        }
        (Side::Stream, Side::Instance { name, path }) => {
            let engine = context.engine()?;
            let id = engine.find(&name)?.id;
            let directory = absolute(&path);
            if !engine.stat_path(&id, &directory).is_ok_and(|stat| is_directory(&stat)) {
                return Err(Failure::new(format!("destination \"{name}:{directory}\" must be a directory"))
                    .hint("a tar archive is unpacked into a directory that is there")
                    .into());
            }
            engine.copy_in(&id, &directory, args.archive, &mut io::stdin().lock())?;
        }
        (Side::Instance { .. }, Side::Instance { .. }) => {
            return Err(Failure::new("copying between instances is not supported")
                .hint("isle cp A:/path - | isle cp - B:/directory")
                .code(ENGINE)
                .into());
        }
        _ => {
            return Err(Failure::new("neither side names an instance")
                .hint("write CONTAINER:PATH for one of them")
                .code(ENGINE)
                .into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Paths inside start at the root, as Docker has it.
fn absolute(path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

fn is_directory(stat: &PathStat) -> bool {
    stat.mode & 0o170_000 == 0o040_000
}

/// What is there at a path: nothing, a directory, or something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    File,
}

/// Where a copy goes: into this directory, under this name. `None` for the name: the contents of the
/// source go straight into the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    directory: String,
    name: Option<String>,
}

/// Docker's rules, see docs.docker.com/reference/cli/docker/container/cp.
fn place(
    source: &str,
    source_is_directory: bool,
    target: &str,
    there: There,
) -> std::result::Result<Place, Failure> {
    let wants_contents = source.ends_with("/.") || source == ".";
    let wants_directory = target.ends_with('/') || target.ends_with("/.");
    let base = base_name(source);
    match (there, source_is_directory) {
        (There::Directory, true) if wants_contents => Ok(Place {
            directory: target.to_owned(),
            name: None,
        }),
        (There::Directory, _) => Ok(Place {
            directory: target.to_owned(),
            name: Some(base),
        }),
        (There::File, true) => Err(Failure::new(format!(
            "cannot copy a directory to the file {target}"
        ))
        .hint("name a directory, or a path that is not there yet")),
        (There::File | There::Nothing, false) if wants_directory => Err(Failure::new(format!(
            "the directory {target} is not there"
        ))
        .hint("make it first, or leave out the slash at the end")),
        (There::File, false) | (There::Nothing, _) => {
            let trimmed = target.trim_end_matches("/.").trim_end_matches('/');
            let (directory, name) = match trimmed.rsplit_once('/') {
                Some(("", name)) => ("/", name),
                Some((directory, name)) => (directory, name),
                None => (".", trimmed),
            };
            Ok(Place {
                directory: directory.to_owned(),
                name: Some(name.to_owned()),
            })
        }
    }
}

/// The last element; `/` and `.` have none that could be kept.
fn base_name(path: &str) -> String {
    let path = path.trim_end_matches("/.").trim_end_matches('/');
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

fn to_instance(
    engine: &Engine,
    id: &InstanceId,
    source: &str,
    target: &str,
    args: &Args,
) -> Result<()> {
    let path = Path::new(source);
    // A slash at the end, or the flag, asks for what a link points to.
    let follows = args.follow_link || source.ends_with('/');
    let metadata = match follows {
        true => path.metadata(),
        false => path.symlink_metadata(),
    };
    let metadata = metadata.map_err(|error| {
        Failure::new(format!("cannot read {source}"))
            .hint("name a file or directory of the host that is there")
            .because(error)
    })?;
    if source.ends_with('/') && !metadata.is_dir() {
        return Err(Failure::new(format!("{source} is not a directory"))
            .hint("leave out the slash at the end")
            .into());
    }
    let target = absolute(target);
    let (target, there) = resolve_inside(engine, id, &target)?;
    let place = place(source, metadata.is_dir(), &target, there)?;
    if there == There::Nothing {
        match engine.stat_path(id, &place.directory) {
            Ok(stat) if is_directory(&stat) || stat.link_target.is_some() => {}
            _ => {
                return Err(Failure::new(format!(
                    "the directory {} is not there",
                    place.directory
                ))
                .hint("make it first")
                .into());
            }
        }
    }
    let source_path = match follows && metadata.is_dir() {
        true => path.canonicalize()?,
        false => path.to_owned(),
    };
    let (mut reader, writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let name = place.name.clone();
        let packer = scope.spawn(move || pack(&source_path, name.as_deref(), follows, writer));
        let copied = engine.copy_in(id, &place.directory, args.archive, &mut reader);
        // Whoever reads no more must not leave the packer waiting.
        drop(reader);
        let packed = packer.join();
        copied?;
        match packed {
            Ok(result) => result.map_err(|error| {
                Failure::new(format!("cannot read {source}")).because(error).into()
            }),
            Err(_) => Err(Failure::new(format!("cannot pack {source}")).into()),
        }
    })
}

/// Follows links inside, as far as the engine tells where they lead.
fn resolve_inside(engine: &Engine, id: &InstanceId, path: &str) -> Result<(String, There)> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let stat = match engine.stat_path(id, &path) {
            Ok(stat) => stat,
            Err(EngineError::NoSuchPath { .. }) => return Ok((path, There::Nothing)),
            Err(error) => return Err(error.into()),
        };
        match stat.link_target {
            Some(target) if target != path => path = absolute(&target),
            _ if is_directory(&stat) => return Ok((path, There::Directory)),
            _ => return Ok((path, There::File)),
        }
    }
    Err(Failure::new(format!("too many links at {path}")).into())
}

/// Writes a tar archive of a path of the host, its top renamed, or its contents alone.
fn pack(source: &Path, name: Option<&str>, follows: bool, writer: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, writer));
    builder.follow_symlinks(false);
    let metadata = match follows {
        true => source.metadata()?,
        false => source.symlink_metadata()?,
    };
    let packed = match (metadata.is_dir(), name) {
        (true, Some(name)) => builder.append_dir_all(name, source),
        (true, None) => builder.append_dir_all(".", source),
        (false, _) => {
            builder.follow_symlinks(follows);
            let name = name.map_or_else(|| OsString::from("file"), OsString::from);
            builder.append_path_with_name(source, name)
        }
    };
    packed?;
    builder.into_inner()?.flush()
}

fn from_instance(
    engine: &Engine,
    id: &InstanceId,
    source: &str,
    target: &str,
    args: &Args,
) -> Result<()> {
    let inside = absolute(source);
    let stat = engine.stat_path(id, &inside)?;
    let is_link = stat.link_target.is_some();
    let stat = match (is_link, args.follow_link, &stat.link_target) {
        (true, true, Some(link)) => engine.stat_path(id, &absolute(link))?,
        _ => stat,
    };
    let there = match Path::new(target).metadata() {
        Ok(metadata) if metadata.is_dir() => There::Directory,
        Ok(_) => There::File,
        Err(_) => There::Nothing,
    };
    let place = place(&inside, is_directory(&stat), target, there)?;
    let directory = PathBuf::from(&place.directory);
    if !directory.is_dir() {
        return Err(Failure::new(format!("the directory {} is not there", place.directory))
            .hint("make it first")
            .into());
    }
    let name = place.name.filter(|name| !name.is_empty());
    let (reader, mut writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let unpacker = scope.spawn(move || {
            extract::extract(
                io::BufReader::with_capacity(64 << 10, reader),
                &directory,
                name.as_deref(),
                args.archive,
            )
        });
        let copied = engine.copy_out(id, &inside, args.follow_link, &mut writer);
        drop(writer);
        let unpacked = unpacker.join();
        match (copied, unpacked) {
            (_, Ok(Err(error))) => Err(Failure::new(format!("cannot write to {target}"))
                .because(error)
                .into()),
            (Err(error), _) => Err(error.into()),
            (Ok(()), Ok(Ok(()))) => Ok(()),
            (Ok(()), Err(_)) => Err(Failure::new(format!("cannot unpack to {target}")).into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_docker_does() {
        let inside = |name: &str, path: &str| Side::Instance {
            name: name.into(),
            path: path.into(),
        };
        assert_eq!(side("web:/etc"), inside("web", "/etc"));
        assert_eq!(side("web:etc"), inside("web", "etc"));
        assert_eq!(side("./a:b"), Side::Host("./a:b".into()));
        assert_eq!(side("/a:b"), Side::Host("/a:b".into()));
        assert_eq!(side("file"), Side::Host("file".into()));
        assert_eq!(side("-"), Side::Stream);
    }

    #[test]
    fn what_goes_where_follows_dockers_rules() {
        let expect = |directory: &str, name: Option<&str>| Place {
            directory: directory.into(),
            name: name.map(str::to_owned),
        };
        for (source, is_directory, target, there, expected) in [
            ("/a/f", false, "/t", There::Directory, expect("/t", Some("f"))),
            ("/a/f", false, "/t/g", There::Nothing, expect("/t", Some("g"))),
            ("/a/f", false, "/t/g", There::File, expect("/t", Some("g"))),
            ("/a/f", false, "g", There::Nothing, expect(".", Some("g"))),
            ("/a/d", true, "/t", There::Directory, expect("/t", Some("d"))),
            ("/a/d/", true, "/t", There::Directory, expect("/t", Some("d"))),
            ("/a/d/.", true, "/t", There::Directory, expect("/t", None)),
            (".", true, "/t", There::Directory, expect("/t", None)),
            ("/a/d", true, "/t/n", There::Nothing, expect("/t", Some("n"))),
            ("/a/d/.", true, "/t/n/", There::Nothing, expect("/t", Some("n"))),
            ("/a/d", true, "/n", There::Nothing, expect("/", Some("n"))),
        ] {
            let place = place(source, is_directory, target, there)
                .unwrap_or_else(|error| panic!("{source} {target}: {error}"));
            assert_eq!(place, expected, "{source} {target}");
        }
        place("/a/d", true, "/t", There::File).unwrap_err();
        place("/a/f", false, "/t/", There::Nothing).unwrap_err();
    }
}
