//! `isle compose watch`: files that change go into services, as `develop.watch` says.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use isle_compose::{Options, Project, Trigger};
use isle_engine::ExecRequest;

use super::converge::{ConvergeFlags, Convergence};
use super::execute::instances_of;
use super::session::ProjectFlags;
use super::signals::Interrupts;
use super::words::parse;
use crate::commands::{cp, exec};
use crate::context::Context;
use crate::failure::{Failure, Result, report};

pub const EXAMPLES: &str = "  isle compose watch";

/// Flags of `compose watch`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Do not bring the services up first
    #[arg(long)]
    no_up: bool,
    /// No progress of builds
    #[arg(long)]
    quiet: bool,
    /// Services; all that say what to watch when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Between two looks. Looking costs a `stat` a file, and needs no limits of the kernel raised, as notices do.
const INTERVAL: Duration = Duration::from_millis(300);
/// The most files that are watched: more are a mistake in a path.
const MOST: usize = 100_000;

/// What tells that a file has changed.
type Stamp = (i64, i64, u64, u64);
type Snapshot = BTreeMap<PathBuf, Stamp>;

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("watch")?;
    let mut project = flags.load()?;
    project.enable(&args.services)?;
    let is_meant = |name: &String| args.services.is_empty() || args.services.contains(name);
    let triggers: Vec<(String, Trigger)> = project
        .services
        .iter()
        .filter(|(name, _)| is_meant(name))
        .flat_map(|(name, service)| {
            let watched = service
                .develop
                .iter()
                .flat_map(|develop| develop.watch.clone());
            watched.map(|trigger| (name.clone(), trigger))
        })
        .collect();
    if triggers.is_empty() {
        return Err(Failure::new("no service says what is to be watched")
            .hint("write develop: {watch: [{path: ., action: sync, target: /srv}]}")
            .into());
    }
    let interrupts = Interrupts::of_work()?;
    let watch = Watch {
        args,
        flags,
        context,
        project: &project,
        interrupts: &interrupts,
    };
    if !args.no_up {
        watch.up(&args.services, false)?;
    }
    let mut seen = Vec::with_capacity(triggers.len());
    for (name, trigger) in &triggers {
        let snapshot = look(trigger)?;
        if trigger.initial_sync {
            let all: Vec<&Path> = snapshot.keys().map(PathBuf::as_path).collect();
            watch.sync(name, trigger, &all, &[])?;
        }
        seen.push(snapshot);
    }
    eprintln!("Watch enabled");
    while interrupts.count() == 0 {
        std::thread::sleep(INTERVAL);
        for ((name, trigger), old) in triggers.iter().zip(&mut seen) {
            let new = look(trigger)?;
            if new == *old {
                continue;
            }
            let changed: Vec<&Path> = new
                .iter()
                .filter(|(path, stamp)| old.get(*path) != Some(stamp))
                .map(|(path, _)| path.as_path())
                .collect();
            let gone: Vec<&Path> = old
                .keys()
                .filter(|path| !new.contains_key(*path))
                .map(PathBuf::as_path)
                .collect();
            // One that fails is told, and the next change is tried again.
            if let Err(error) = watch.act(name, trigger, &changed, &gone) {
                report(&error, 1);
            }
            *old = new;
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Watch<'a> {
    args: &'a Args,
    flags: &'a ProjectFlags,
    context: &'a Context,
    project: &'a Project,
    interrupts: &'a Interrupts,
}

impl Watch<'_> {
    fn up(&self, services: &[String], is_rebuild: bool) -> Result<()> {
        let converge = ConvergeFlags {
            build: is_rebuild,
            quiet_pull: self.args.quiet,
            ..ConvergeFlags::default()
        };
        let options = Options {
            without_dependencies: is_rebuild,
            ..converge.options(self.project, services)?
        };
        Convergence {
            context: self.context,
            flags: self.flags,
            project: self.project,
            options: &options,
            converge: &converge,
            renews_volumes: false,
            timeout: None,
            interrupts: self.interrupts,
        }
        .run()
        .map(drop)
    }

    fn act(&self, name: &str, trigger: &Trigger, changed: &[&Path], gone: &[&Path]) -> Result<()> {
        let count = changed.len() + gone.len();
        eprintln!("{name}: {count} changed, {}", trigger.action);
        if trigger.action == "rebuild" {
            return self.up(&[name.to_owned()], true);
        }
        if trigger.action != "restart" {
            self.sync(name, trigger, changed, gone)?;
        }
        let engine = self.context.engine()?;
        for instance in instances_of(engine, &self.project.name, name)? {
            match (trigger.action.as_str(), &trigger.exec) {
                ("restart" | "sync+restart", _) => engine.restart(&instance.id, None, None)?,
                ("sync+exec", Some(hook)) => {
                    let mut words = Vec::new();
                    words.extend(hook.user.iter().map(|user| format!("--user={user}")));
                    words.extend(
                        hook.working_dir
                            .iter()
                            .map(|folder| format!("--workdir={folder}")),
                    );
                    words.extend(hook.privileged.then(|| "--privileged".to_owned()));
                    let variables = hook.environment.iter().filter_map(|(key, value)| {
                        Some(format!("--env={key}={}", value.as_ref()?))
                    });
                    words.extend(variables);
                    words.push(instance.name.to_string());
                    words.extend(hook.command.iter().cloned());
                    if exec::run(&parse(&words)?, self.context)? != ExitCode::SUCCESS {
                        eprintln!("warning: {}: the command has failed", instance.name);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies what has changed, and takes away what is gone.
    fn sync(&self, name: &str, trigger: &Trigger, changed: &[&Path], gone: &[&Path]) -> Result<()> {
        let target = trigger.target.as_deref().ok_or_else(|| {
            Failure::new(format!(
                "services.{name}.develop.watch: sync needs a target"
            ))
            .hint("write target: /srv")
        })?;
        let root = Path::new(&trigger.path);
        let inside = |path: &Path| match path.strip_prefix(root) {
            Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from(target),
            Ok(rest) => Path::new(target).join(rest),
            Err(_) => PathBuf::from(target),
        };
        let engine = self.context.engine()?;
        for instance in instances_of(engine, &self.project.name, name)? {
            let command = |args: Vec<String>| -> Result<()> {
                let request = ExecRequest {
                    args,
                    user: Some("0".into()),
                    ..ExecRequest::default()
                };
                engine.exec(&instance.id, &request, None)?.wait()?;
                Ok(())
            };
            let mut folders: Vec<String> = changed
                .iter()
                .filter_map(|path| Some(inside(path).parent()?.display().to_string()))
                .collect();
            folders.sort();
            folders.dedup();
            if !folders.is_empty() {
                command(
                    ["mkdir", "-p", "--"]
                        .map(str::to_owned)
                        .into_iter()
                        .chain(folders)
                        .collect(),
                )?;
            }
            for path in changed {
                let to = format!("{}:{}", instance.name, inside(path).display());
                cp::run(
                    &parse(&["--quiet".to_owned(), path.display().to_string(), to])?,
                    self.context,
                )?;
            }
            if !gone.is_empty() {
                let gone = gone.iter().map(|path| inside(path).display().to_string());
                command(
                    ["rm", "-rf", "--"]
                        .map(str::to_owned)
                        .into_iter()
                        .chain(gone)
                        .collect(),
                )?;
            }
        }
        Ok(())
    }
}

/// The files of a trigger as they are now.
fn look(trigger: &Trigger) -> Result<Snapshot> {
    let mut found = Snapshot::new();
    let root = Path::new(&trigger.path);
    walk(root, root, trigger, &mut found)?;
    Ok(found)
}

fn stamp(metadata: &Metadata) -> Stamp {
    (
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.size(),
        metadata.ino(),
    )
}

fn walk(path: &Path, root: &Path, trigger: &Trigger, found: &mut Snapshot) -> Result<()> {
    // What goes away while we look was not there.
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    let relative = path
        .strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned();
    let fits = |patterns: &[String]| patterns.iter().any(|pattern| is_below(&relative, pattern));
    if relative == ".git" || relative.ends_with("/.git") || fits(&trigger.ignore) {
        return Ok(());
    }
    if metadata.is_dir() {
        let Ok(entries) = path.read_dir() else {
            return Ok(());
        };
        for entry in entries.flatten() {
            walk(&entry.path(), root, trigger, found)?;
        }
        return Ok(());
    }
    if trigger.include.is_empty() || fits(&trigger.include) {
        found.insert(path.to_owned(), stamp(&metadata));
    }
    match found.len() > MOST {
        false => Ok(()),
        true => Err(
            Failure::new(format!("{} has more than {MOST} files", root.display()))
                .hint("name a smaller folder, or ignore what is not of the program")
                .into(),
        ),
    }
}

/// Whether a path, relative to what is watched, is a pattern's, or below it.
fn is_below(path: &str, pattern: &str) -> bool {
    let pattern = pattern
        .trim_start_matches("./")
        .trim_end_matches('/')
        .trim_end_matches("/**");
    let parts = path.split('/').count();
    (1..=parts).any(|count| {
        let start: Vec<&str> = path.split('/').take(count).collect();
        glob(pattern, &start.join("/"))
    })
}

/// `*` within a name, `**/` over any number of folders.
fn glob(pattern: &str, path: &str) -> bool {
    match pattern.split_once("**/") {
        Some(("", rest)) => {
            let parts: Vec<&str> = path.split('/').collect();
            (0..parts.len()).any(|from| glob(rest, &parts[from..].join("/")))
        }
        _ => {
            let (patterns, parts): (Vec<&str>, Vec<&str>) =
                (pattern.split('/').collect(), path.split('/').collect());
            patterns.len() == parts.len()
                && patterns
                    .iter()
                    .zip(&parts)
                    .all(|(pattern, part)| name_fits(pattern, part))
        }
    }
}

fn name_fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|at| rest.is_char_boundary(*at))
                .any(|at| name_fits(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_files_and_all_below() {
        for (pattern, path, expected) in [
            ("node_modules/", "node_modules/a/b.js", true),
            ("node_modules/", "src/node_modules/a", false),
            ("**/node_modules", "src/node_modules/a", true),
            ("*.pyc", "a.pyc", true),
            ("*.pyc", "a/b.pyc", false),
            ("**/*.pyc", "a/b.pyc", true),
            ("./a", "a", true),
            ("a*c", "abc", true),
            ("a*c", "abd", false),
        ] {
            assert_eq!(is_below(path, pattern), expected, "{pattern} {path}");
        }
    }
}
