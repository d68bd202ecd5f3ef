//! Errors at the edge: printed once, with their causes and the remedy, and turned into exit codes.

use std::fmt;
use std::process::ExitCode;

use isle_engine::EngineError;
use isle_format::{TemplateError, printable};
use isle_types::nearest;

use crate::flags::FlagError;

/// What every verb returns.
pub type Result<T = ExitCode> = anyhow::Result<T>;

/// An error with a remedy, an exit code, or both.
#[derive(Debug)]
pub struct Failure {
    text: String,
    hint: Option<String>,
    code: Option<u8>,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// What failed, on what.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            hint: None,
            code: None,
            source: None,
        }
    }

    /// What to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code that it leads to.
    pub fn code(mut self, code: u8) -> Failure {
        self.code = Some(code);
        self
    }

    /// Why.
    pub fn because(mut self, source: impl Into<anyhow::Error>) -> Failure {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Whoever read our standard output has gone: `isle ps | head -1`.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct OutputClosed;

/// The engine itself failed: Docker's code for a command line that it does not understand, and for
/// a `run` that did not come to run.
pub const ENGINE: u8 = 125;
/// As a program that SIGPIPE has ended.
const PIPE: u8 = 128 + 13;

/// Prints an error and returns the exit code that it leads to.
pub fn report(error: &anyhow::Error, default_code: u8) -> u8 {
    if error.downcast_ref::<OutputClosed>().is_some() {
        return PIPE;
    }
    eprint!("{}", text(error));
    code(error, default_code)
}

/// `isle: …`, `because: …` for each cause, `hint: …`.
fn text(error: &anyhow::Error) -> String {
    let mut lines = String::new();
    let mut said = String::new();
    for (depth, cause) in error.chain().enumerate() {
        // File names of archives and words of registries come in here.
        let text = printable(&cause.to_string()).into_owned();
        // Some foreign errors repeat their source in their own text.
        if depth > 0 && said.contains(&text) {
            continue;
        }
        let label = if depth == 0 { "isle" } else { "because" };
        lines.push_str(&format!("{label}: {text}\n"));
        said.push_str(&text);
    }
    if let Some(hint) = error.chain().find_map(hint) {
        lines.push_str(&format!("hint: {hint}\n"));
    }
    lines
}

fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return failure.hint.clone();
    }
    if let Some(error) = cause.downcast_ref::<FlagError>() {
        return Some(error.remedy.clone());
    }
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<isle_image::ReferenceError>() {
        return Some(error.hint().to_owned());
    }
    macro_rules! hints_of {
        ($($error:ty),* $(,)?) => {
            $(if let Some(error) = cause.downcast_ref::<$error>() {
                return error.hint();
            })*
        };
    }
    hints_of!(
        isle_compose::LoadError,
        isle_kernel::KernelError,
        isle_image::BlockImageError,
        isle_image::FindError,
        isle_image::TagError,
        isle_image::StoreError,
        isle_image::IngestError,
        isle_image::LoadError,
        isle_image::PullError,
        isle_image::PushError,
        isle_image::SaveError,
        isle_image::BuildError,
        isle_build::BuildError,
        isle_image::RemoveError,
        isle_rootless::HouseError,
        isle_registry::RegistryError,
        isle_registry::CredentialsError,
        isle_setup::SetupError,
    );
    if cause.downcast_ref::<TemplateError>().is_some() {
        return Some(
            "use a field like {{.ID}}, {{json .}} for all of them, or --format json".into(),
        );
    }
    None
}

fn code(error: &anyhow::Error, default_code: u8) -> u8 {
    let of_cause = |cause: &(dyn std::error::Error + 'static)| {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if cause.downcast_ref::<FlagError>().is_some() {
            return Some(ENGINE);
        }
        match cause.downcast_ref::<EngineError>()?.exit_code() {
            specific @ (126 | 127) => Some(specific),
            _ => None,
        }
    };
    error.chain().find_map(of_cause).unwrap_or(default_code)
}

/// Flags that users of Docker know and that this version does not have, and the way round each.
const NOT_HERE: [(&str, &str); 13] = [
    ("--network-alias", LATER_NETWORKS),
    ("--net-alias", LATER_NETWORKS),
    ("--ip", LATER_NETWORKS),
    ("--ip6", LATER_NETWORKS),
    ("--link", LATER_NETWORKS),
    ("--mac-address", LATER_NETWORKS),
    ("--gpus", "make the device nodes available with --device"),
    ("--runtime", "the wall is chosen with --isolation"),
    ("--device-cgroup-rule", "name the device with --device"),
    (
        "--cgroup-parent",
        "limit the instance itself, with --memory and --cpus",
    ),
    ("--cpu-period", "use --cpus"),
    ("--cpu-quota", "use --cpus"),
    ("--oom-kill-disable", "use --oom-score-adj"),
];
const LATER_NETWORKS: &str =
    "it comes with networks in a later version; until then use --network host or none";

/// A command line that clap refuses: in the same form as every other error.
pub fn report_usage(error: &clap::Error) -> u8 {
    use clap::error::{ContextKind, ErrorKind};
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe behind `--help` is no failure worth words.
            let _ = error.print();
            return 0;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ENGINE;
        }
        _ => {}
    }
    let rendered = error.render().to_string();
    let context = |kind| error.get(kind).map(ToString::to_string);
    if error.kind() == ErrorKind::ValueValidation {
        let flag = context(ContextKind::InvalidArg).unwrap_or_default();
        let value = context(ContextKind::InvalidValue).unwrap_or_default();
        eprintln!("isle: invalid value {value:?} for {flag}");
        let source = std::error::Error::source(error);
        if let Some(source) = source {
            eprintln!("because: {source}");
        }
        if let Some(hint) = source.and_then(hint) {
            eprintln!("hint: {hint}");
        }
        // Docker's command line understands any name; it is the engine that refuses it.
        return match flag.starts_with('-') {
            true => ENGINE,
            false => 1,
        };
    }
    let mut hints = Vec::new();
    let mut reason: Vec<&str> = Vec::new();
    for line in rendered.lines() {
        let line = line.trim();
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            continue;
        }
        match line.strip_prefix("tip: ") {
            // The escape that clap offers is none for a flag with a slip.
            Some(tip) if tip.starts_with("to pass") => {}
            Some(tip) => hints.push(tip.to_owned()),
            None if !line.is_empty() => reason.push(line.strip_prefix("error: ").unwrap_or(line)),
            None => {}
        }
    }
    let unknown = context(ContextKind::InvalidArg).unwrap_or_default();
    let unknown = unknown.split('=').next().unwrap_or_default();
    if let Some((_, why)) = NOT_HERE.iter().find(|(flag, _)| *flag == unknown)
        && error.kind() == ErrorKind::UnknownArgument
    {
        eprintln!("isle: {unknown} is not available in this version\nhint: {why}");
        return ENGINE;
    }
    eprintln!("isle: {}", reason.join(" "));
    if error.kind() == ErrorKind::InvalidSubcommand
        && hints.is_empty()
        && let Some(word) = context(ContextKind::InvalidSubcommand)
        && let Some(meant) = nearest(&word, crate::commands::names())
    {
        hints.push(format!("did you mean `isle {meant}`?"));
    }
    for hint in &hints {
        eprintln!("hint: {hint}");
    }
    if let Some(usage) = rendered
        .lines()
        .find_map(|line| line.trim().strip_prefix("Usage: "))
    {
        let words: Vec<&str> = usage
            .split(' ')
            .take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
            .collect();
        eprintln!("hint: see `{} --help`", words.join(" "));
    }
    ENGINE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_printed_with_its_causes_and_the_remedy() {
        let error = anyhow::Error::from(FlagError::new("\"x\" is not a size", "write 512m"))
            .context("cannot create web");
        assert_eq!(
            text(&error),
            "isle: cannot create web\nbecause: \"x\" is not a size\nhint: write 512m\n"
        );
        assert_eq!(code(&error, 1), 125);
        let error = anyhow::Error::from(Failure::new("no").hint("do").code(3));
        assert_eq!(text(&error), "isle: no\nhint: do\n");
        assert_eq!(code(&error, 1), 3);
        assert_eq!(code(&anyhow::anyhow!("x"), 1), 1);
    }
}
