//! Other verbs' flags, from words.

use clap::{Args, Command};

use crate::failure::{Failure, Result};
use crate::flags::FlagError;

/// The flags of a verb, as if the words had been typed.
pub fn parse<A: Args>(words: &[String]) -> Result<A> {
    let command = A::augment_args(
        Command::new("isle")
            .no_binary_name(true)
            .disable_help_flag(true)
            .args_override_self(true),
    );
    let matches = command
        .try_get_matches_from(words)
        .map_err(|error| refusal(&error))?;
    Ok(A::from_arg_matches(&matches)?)
}

/// What clap does not take, in the form of every other error.
fn refusal(error: &clap::Error) -> anyhow::Error {
    use clap::error::ContextKind;
    let context = |kind| error.get(kind).map(ToString::to_string);
    let source = std::error::Error::source(error);
    let (Some(flag), Some(value)) = (
        context(ContextKind::InvalidArg),
        context(ContextKind::InvalidValue),
    ) else {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        return Failure::new(first.trim_start_matches("error: ")).into();
    };
    let flag = flag.split_whitespace().next().unwrap_or_default();
    let name = flag.trim_start_matches('-');
    let mut text = format!("{value:?} is no value for {name}");
    if let Some(source) = source {
        text = format!("{text}: {source}");
    }
    let failure = Failure::new(text);
    match source.and_then(|source| source.downcast_ref::<FlagError>()) {
        Some(error) => failure.hint(error.remedy.clone()).into(),
        None => failure.into(),
    }
}
