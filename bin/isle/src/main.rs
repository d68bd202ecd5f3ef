//! The command line.
//!
//! `main` finds the verb and hands over to its file in `commands`, which turns flags into a request to
//! the engine and the answer into text. Flags are parsed in `flags`, one file a concept; what is
//! printed is formed by `isle-format` and `isle-docker-model`. Errors are printed here, once.

#![forbid(unsafe_code)]

mod ahead;
mod build_progress;
mod commands;
mod completion;
mod context;
mod failure;
mod flags;
mod images;
mod kernel_progress;
mod output;
mod progress;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, value_parser};

use commands::{GROUPS, VERBS, Verb};
use context::Context;

fn main() -> ExitCode {
    terminal::restore_on_panic();
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = completion::answer() {
        return code;
    }
    let matches = match definition(&words).try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return help(&words, &error),
        Err(error) => return ExitCode::from(failure::report_usage(&error)),
    };
    let context = Context::new(matches.get_one::<PathBuf>("root").map(PathBuf::as_path));
    let (verb, matches) = match chosen(&matches) {
        Some(chosen) => chosen,
        None => return ExitCode::from(failure::ENGINE),
    };
    let visit = match OUTSIDE.contains(&verb.name) {
        true => Ok(None),
        false => context.enter_house(),
    };
    // It is held until the verb is done.
    match visit.and_then(|_visit| (verb.run)(matches, &context)) {
        Ok(code) => code,
        Err(error) => ExitCode::from(failure::report(&error, verb.failure_code)),
    }
}

/// Verbs that have nothing to do with what Isle keeps: an ordinary user's user namespace is none of theirs.
const OUTSIDE: [&str; 6] = [
    "completion",
    "doctor",
    "login",
    "logout",
    "setup",
    "version",
];

/// Shows help from a definition that is made for it.
fn help(words: &[OsString], error: &clap::Error) -> ExitCode {
    commands::IS_FOR_HELP.store(true, Ordering::Relaxed);
    let code = match root().try_get_matches_from(words) {
        Err(error) if error.kind() == ErrorKind::DisplayHelp => failure::report_usage(&error),
        _ => failure::report_usage(error),
    };
    ExitCode::from(code)
}

/// The verb that the words name, and its own flags.
fn chosen(matches: &ArgMatches) -> Option<(&'static Verb, &ArgMatches)> {
    let (name, inner) = matches.subcommand()?;
    if let Some(verb) = VERBS.iter().find(|verb| verb.name == name) {
        return Some((verb, inner));
    }
    let group = GROUPS.iter().find(|group| group.name == name)?;
    let (name, inner) = inner.subcommand()?;
    let verb = group.verbs.iter().find(|verb| verb.name == name)?;
    Some((verb, inner))
}

/// What is needed to parse these words: the verb that comes first, or else everything. Building sixty
/// commands takes as long as the system calls of a short verb.
fn definition(words: &[OsString]) -> Command {
    let first = words.get(1).and_then(|word| word.to_str());
    match first.and_then(|name| VERBS.iter().find(|verb| verb.name == name)) {
        Some(verb) => trunk().subcommand(verb.command()),
        None => root(),
    }
}

/// The whole tree. A verb's own flags are only built when it is the one that was called.
pub(crate) fn root() -> Command {
    trunk()
        .about("Runs any image at the isolation you choose")
        .arg_required_else_help(true)
        .help_template(
            "{about}\n\nUsage: {usage}{after-help}\n\nOptions:\n{options}\n\n\
             `isle COMMAND --help` explains a command, with examples.\n",
        )
        .after_help(commands::overview())
        .subcommands(VERBS.iter().map(Verb::command))
        .subcommands(GROUPS.iter().map(commands::Group::command))
}

/// The program itself and its own options.
fn trunk() -> Command {
    let root = Arg::new("root")
        .long("root")
        .value_name("DIR")
        .env("ISLE_ROOT")
        .hide_env(true)
        .value_parser(value_parser!(PathBuf))
        .help("Where images and instances are kept (default /var/lib/isle)");
    Command::new("isle")
        .version(env!("CARGO_PKG_VERSION"))
        .arg(root)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand_value_name("COMMAND")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_tree_is_sound() {
        let mut root = root();
        root.build();
        root.debug_assert();
    }

    #[test]
    fn every_verb_has_examples_and_words() {
        let grouped = GROUPS.iter().flat_map(|group| group.verbs);
        for verb in VERBS.iter().chain(grouped) {
            let mut command = verb.command();
            command.build();
            let examples = command.get_after_help().map(ToString::to_string);
            assert!(
                examples.is_some_and(|text| text.contains("  isle ")),
                "{} has no examples",
                verb.name
            );
            assert!(
                !verb.about.is_empty() && !verb.about.ends_with('.'),
                "{}",
                verb.name
            );
        }
    }

    fn parse(words: &[&str]) -> Result<(), String> {
        let whole = root().try_get_matches_from(words).map(drop);
        let short: Vec<OsString> = words.iter().map(OsString::from).collect();
        let short = definition(&short).try_get_matches_from(words).map(drop);
        let text = |error: clap::Error| error.to_string();
        assert_eq!(
            whole.as_ref().map_err(ToString::to_string),
            short.as_ref().map_err(ToString::to_string)
        );
        whole.map_err(text)
    }

    #[test]
    fn words_behind_the_image_are_not_ours() {
        parse(&[
            "isle", "run", "-it", "--rm", "debian", "ls", "--rm", "-x", "--", "-y",
        ])
        .unwrap();
        parse(&["isle", "exec", "-i", "web", "sh", "-c", "echo"]).unwrap();
        parse(&["isle", "run", "--rm=false", "-t=true", "debian"]).unwrap();
        parse(&["isle", "run", "--name", "a", "--name", "b", "debian"]).unwrap();
        parse(&["isle", "container", "ls", "-a"]).unwrap();
        parse(&["isle", "ls"]).unwrap();
        parse(&["isle", "remove", "-f", "x"]).unwrap();
    }

    #[test]
    fn switches_that_are_on_by_default_can_be_turned_off() {
        for (words, expected) in [
            (&["isle", "attach", "web"][..], true),
            (&["isle", "attach", "--sig-proxy=false", "web"], false),
            (&["isle", "attach", "--sig-proxy", "web"], true),
        ] {
            let matches = root().try_get_matches_from(words).unwrap();
            let (_, inner) = matches.subcommand().unwrap();
            assert_eq!(
                inner.get_one::<bool>("sig_proxy"),
                Some(&expected),
                "{words:?}"
            );
        }
    }

    #[test]
    fn a_slip_is_answered_with_what_was_meant() {
        let error = parse(&["isle", "inspekt", "debian"]).unwrap_err();
        assert!(error.contains("inspect"), "{error}");
        let error = parse(&["isle", "run", "--memroy", "1g", "debian"]).unwrap_err();
        assert!(error.contains("--memory"), "{error}");
        parse(&["isle", "run"]).unwrap_err();
        parse(&["isle", "stop"]).unwrap_err();
    }
}
