//! Completion of words in the shell, with the names of instances and images as they are now.
//!
//! The shell's script (`isle completion bash`) calls this program again with [`VARIABLE`] set; clap's dynamic
//! engine then answers from the same definition of the flags that parses them.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Arg, Command};
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete::{ArgValueCandidates, CompletionCandidate};
use isle_docker_model::status;

use crate::context::Context;

/// Set by the shell's script to its own name.
const VARIABLE: &str = "ISLE_COMPLETE";

/// Whether the shell asks for words. clap takes the variable away before it asks for the definition.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// Answers the shell, when it is the shell that asks.
pub fn answer() -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    IS_ASKED.store(true, Ordering::Relaxed);
    let words: Vec<OsString> = std::env::args_os().collect();
    let result = CompleteEnv::with_factory(crate::root)
        .var(VARIABLE)
        .try_complete(words, std::env::current_dir().ok().as_deref());
    match result {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(error) => {
            // The shell shows nothing of it; a person who tries by hand sees it.
            eprintln!("isle: cannot complete\nbecause: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// The script that makes a shell ask us.
pub fn script(shell: &str) -> std::io::Result<Option<String>> {
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(shell) else {
        return Ok(None);
    };
    let mut text = Vec::new();
    completer.write_registration(VARIABLE, "isle", "isle", "isle", &mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// Gives flags and words that name instances or images what there is to choose from.
pub fn with_candidates(command: Command) -> Command {
    if !IS_ASKED.load(Ordering::Relaxed) {
        return command;
    }
    command.mut_args(|arg| {
        let first = arg.get_value_names().and_then(|names| names.first());
        match first.map(|name| name.as_str()) {
            Some("CONTAINER") => candidates(arg, instances),
            Some("IMAGE" | "IMAGE[:TAG]" | "SOURCE-IMAGE") => candidates(arg, images),
            Some("NAME-OR-ID") => candidates(arg, both),
            Some("VOLUME") => candidates(arg, volumes),
            Some("VOLUME@SNAPSHOT") => candidates(arg, snapshots),
            Some("VOLUME[@SNAPSHOT]") => candidates(arg, volumes_and_snapshots),
            Some("NETWORK") => candidates(arg, networks),
            Some("KERNEL") => candidates(arg, kernels),
            _ => arg,
        }
    })
}

fn candidates(arg: Arg, list: fn() -> Vec<CompletionCandidate>) -> Arg {
    arg.add(ArgValueCandidates::new(list))
}

/// The engine on the root that the environment names: flags before the verb are not known here.
fn context() -> Context {
    Context::new(None)
}

fn instances() -> Vec<CompletionCandidate> {
    let context = context();
    let list = context.engine().ok().and_then(|engine| engine.list().ok());
    let candidate = |instance: isle_engine::state::Instance| {
        let help = format!(
            "{} ({})",
            instance.config.image,
            status::word(instance.state.status)
        );
        CompletionCandidate::new(instance.name.to_string()).help(Some(help.into()))
    };
    list.into_iter().flatten().map(candidate).collect()
}

fn images() -> Vec<CompletionCandidate> {
    let context = context();
    let names = crate::images::names(&context).unwrap_or_default();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn volumes() -> Vec<CompletionCandidate> {
    let context = context();
    let list = context
        .engine()
        .ok()
        .and_then(|engine| engine.volumes().ok());
    let names = list.into_iter().flatten().map(|volume| volume.name);
    names.map(CompletionCandidate::new).collect()
}

fn snapshots() -> Vec<CompletionCandidate> {
    let context = context();
    let engine = context.engine().ok();
    let list = engine.and_then(|engine| engine.volume_snapshots(None).ok());
    let names = list
        .into_iter()
        .flatten()
        .map(|snapshot| format!("{}@{}", snapshot.volume, snapshot.name));
    names.map(CompletionCandidate::new).collect()
}

fn volumes_and_snapshots() -> Vec<CompletionCandidate> {
    volumes().into_iter().chain(snapshots()).collect()
}

fn networks() -> Vec<CompletionCandidate> {
    let context = context();
    let list = context
        .engine()
        .ok()
        .and_then(|engine| engine.networks().ok());
    let names = list.into_iter().flatten().map(|network| network.name);
    names.map(CompletionCandidate::new).collect()
}

fn kernels() -> Vec<CompletionCandidate> {
    let list = context().kernels().list().unwrap_or_default();
    let names = list.into_iter().map(|kernel| kernel.name);
    names.map(CompletionCandidate::new).collect()
}

fn both() -> Vec<CompletionCandidate> {
    instances().into_iter().chain(images()).collect()
}
