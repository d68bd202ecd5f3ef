//! `--check`: BuildKit's rules for Dockerfiles, by their names.
//!
//! <https://docs.docker.com/reference/build-checks/>

use std::collections::{BTreeMap, BTreeSet};

use crate::language::{Command, Dockerfile, Instruction, Item, Lexer, Place};
use crate::steps::PROXIES;

/// One thing that is odd about a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// BuildKit's name of the rule.
    pub rule: &'static str,
    /// Where.
    pub place: Place,
    /// What.
    pub text: String,
}

/// What `# check=` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    skips: BTreeSet<String>,
    skips_all: bool,
    /// A warning is an error.
    pub(crate) is_strict: bool,
}

impl Settings {
    pub(crate) fn of(file: &Dockerfile) -> Settings {
        let mut settings = Settings::default();
        for part in file
            .directives
            .check
            .as_deref()
            .unwrap_or_default()
            .split(';')
        {
            match part.trim().split_once('=') {
                Some(("skip", "all")) => settings.skips_all = true,
                Some(("skip", rules)) => settings
                    .skips
                    .extend(rules.split(',').map(|rule| rule.trim().to_owned())),
                Some(("error", value)) => settings.is_strict = value == "true",
                _ => {}
            }
        }
        settings
    }
}

const SECRET_WORDS: [&str; 8] = [
    "apikey",
    "auth",
    "credential",
    "key",
    "password",
    "pword",
    "secret",
    "token",
];

/// Looks through a Dockerfile. `env_of` knows the variables of base images, where they are here.
pub(crate) fn lint(
    file: &Dockerfile,
    env_of: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = Vec::new();
    let settings = Settings::of(file);
    if settings.skips_all {
        return warnings;
    }
    let mut warn = |rule: &'static str, place: Place, text: String| {
        if !settings.skips.contains(rule) {
            warnings.push(Warning { rule, place, text });
        }
    };
    for (rule, place, text) in &file.remarks {
        warn(rule, *place, text.clone());
    }
    let globals: BTreeMap<&str, bool> = file
        .arguments
        .iter()
        .map(|(_, arg)| (arg.name.as_str(), arg.default.is_some()))
        .collect();
    let lexer = Lexer {
        escape: file.escape(),
        keeps_quotes: false,
    };
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut known_of: BTreeMap<&str, Option<BTreeSet<String>>> = BTreeMap::new();
    for stage in &file.stages {
        if let Some(name) = stage.name.as_deref() {
            if !names.insert(name) {
                warn(
                    "DuplicateStageName",
                    stage.place,
                    format!("Duplicate stage name {name:?}, stage names should be unique"),
                );
            }
            if name == "scratch" || name == "context" {
                warn(
                    "ReservedStageName",
                    stage.place,
                    format!("Stage name should not use the same name as reserved stage {name:?}"),
                );
            }
            let written = stage.source.split_whitespace().last().unwrap_or(name);
            if written != written.to_ascii_lowercase() {
                warn(
                    "StageNameCasing",
                    stage.place,
                    format!("Stage name '{written}' should be lowercase"),
                );
            }
        }
        let unset = lexer.expand(&stage.base, &|name: &str| {
            let is_set = globals.contains_key(name) || is_platform(name);
            is_set.then(|| "x".to_owned())
        });
        for name in unset.map(|expansion| expansion.unset).unwrap_or_default() {
            warn(
                "UndefinedArgInFrom",
                stage.place,
                format!("FROM argument '{name}' is not declared"),
            );
        }
        let empty = lexer.expand(&stage.base, &|name: &str| match globals.get(name) {
            Some(true) => Some("x".to_owned()),
            Some(false) => Some(String::new()),
            None => is_platform(name).then(|| "x".to_owned()),
        });
        if let Ok(expansion) = empty
            && (expansion.text.is_empty()
                || expansion.text.ends_with(':')
                || expansion.text.ends_with('@'))
        {
            warn(
                "InvalidDefaultArgInFrom",
                stage.place,
                format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base
                ),
            );
        }
        match stage.platform.as_deref() {
            Some("$TARGETPLATFORM" | "${TARGETPLATFORM}") => warn(
                "RedundantTargetPlatform",
                stage.place,
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior".to_owned(),
            ),
            Some(platform) if !platform.contains('$') => warn(
                "FromPlatformFlagConstDisallowed",
                stage.place,
                format!("FROM --platform flag should not use constant value {platform:?}"),
            ),
            _ => {}
        }
        let mut known: Option<BTreeSet<String>> =
            match known_of.get(stage.base.to_ascii_lowercase().as_str()) {
                Some(known) => known.clone(),
                None if stage.base == "scratch" => Some(BTreeSet::new()),
                None => env_of(&stage.base).map(BTreeSet::from_iter),
            };
        if let Some(known) = &mut known {
            known.extend(PROXIES.iter().map(|name| (*name).to_owned()));
            known.insert("PATH".to_owned());
        }
        let mut has_workdir = false;
        let mut seen: BTreeMap<&'static str, Place> = BTreeMap::new();
        for item in &stage.items {
            if let (Some(known), Some(text)) = (&known, expanded(item)) {
                let found =
                    lexer.expand(&text, &|name: &str| known.contains(name).then(String::new));
                for name in found.map(|expansion| expansion.unset).unwrap_or_default() {
                    warn(
                        "UndefinedVar",
                        item.place,
                        format!("Usage of undefined variable '${name}'"),
                    );
                }
            }
            let word = item.instruction.word();
            match &item.instruction {
                Instruction::Cmd(command) | Instruction::Entrypoint(command) => {
                    if matches!(command, Command::Shell(text) if !text.is_empty())
                        && !seen.contains_key("SHELL")
                    {
                        warn(
                            "JSONArgsRecommended",
                            item.place,
                            format!(
                                "JSON arguments recommended for {word} to prevent unintended behavior related to OS signals"
                            ),
                        );
                    }
                    repeated(&mut seen, word, item, &mut warn);
                }
                Instruction::Healthcheck(_) => repeated(&mut seen, word, item, &mut warn),
                Instruction::Shell(_) => {
                    seen.insert("SHELL", item.place);
                }
                Instruction::Maintainer(_) => warn(
                    "MaintainerDeprecated",
                    item.place,
                    "Maintainer instruction is deprecated in favor of using label".to_owned(),
                ),
                Instruction::Workdir(path) => {
                    if !has_workdir && !path.starts_with(['/', '$']) {
                        warn(
                            "WorkdirRelativePath",
                            item.place,
                            format!(
                                "Relative workdir {path:?} can have unexpected results if the base image changes"
                            ),
                        );
                    }
                    has_workdir = true;
                }
                Instruction::Env(pairs) => {
                    legacy(item, &mut warn);
                    for pair in pairs {
                        secret("ENV", &pair.key, item, &mut warn);
                        if let Some(known) = &mut known {
                            known.insert(pair.key.clone());
                        }
                    }
                }
                Instruction::Label(_) => legacy(item, &mut warn),
                Instruction::Arg(arguments) => {
                    for argument in arguments {
                        secret("ARG", &argument.name, item, &mut warn);
                        if let Some(known) = &mut known {
                            known.insert(argument.name.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(name) = stage.name.as_deref() {
            known_of.insert(name, known);
        }
    }
    warnings.sort_by_key(|warning| warning.place);
    warnings
}

fn repeated(
    seen: &mut BTreeMap<&'static str, Place>,
    word: &'static str,
    item: &Item,
    warn: &mut dyn FnMut(&'static str, Place, String),
) {
    if let Some(before) = seen.insert(word, item.place) {
        warn(
            "MultipleInstructionsDisallowed",
            before,
            format!(
                "Multiple {word} instructions should not be used in the same stage because only the last one will be used"
            ),
        );
    }
}

/// `ENV key value`
fn legacy(item: &Item, warn: &mut dyn FnMut(&'static str, Place, String)) {
    let first = item.source.split_whitespace().nth(1).unwrap_or_default();
    if !first.contains('=') {
        let word = item.instruction.word();
        warn(
            "LegacyKeyValueFormat",
            item.place,
            format!(
                "\"{word} key=value\" should be used instead of legacy \"{word} key value\" format"
            ),
        );
    }
}

fn secret(word: &str, name: &str, item: &Item, warn: &mut dyn FnMut(&'static str, Place, String)) {
    let lower = name.to_ascii_lowercase();
    let mut parts = lower.split(['_', '-']);
    let is_secret = parts.any(|part| SECRET_WORDS.contains(&part)) && !lower.contains("public");
    if is_secret {
        warn(
            "SecretsUsedInArgOrEnv",
            item.place,
            format!("Do not use ARG or ENV instructions for sensitive data ({word} {name:?})"),
        );
    }
}

/// What of an instruction has its variables replaced by the builder.
fn expanded(item: &Item) -> Option<String> {
    let words =
        |texts: Vec<&String>| Some(texts.into_iter().cloned().collect::<Vec<_>>().join(" "));
    match &item.instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            words(pairs.iter().map(|pair| &pair.value).collect())
        }
        Instruction::Copy(copy) | Instruction::Add(copy) => {
            let sources = copy.sources.iter().filter_map(|source| match source {
                crate::language::CopySource::Path(path) => Some(path),
                crate::language::CopySource::Inline(_) => None,
            });
            words(sources.chain([&copy.destination]).collect())
        }
        Instruction::Expose(text)
        | Instruction::User(text)
        | Instruction::Workdir(text)
        | Instruction::Stopsignal(text) => Some(text.clone()),
        _ => None,
    }
}

fn is_platform(name: &str) -> bool {
    ["BUILD", "TARGET"].iter().any(|prefix| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| ["PLATFORM", "OS", "ARCH", "VARIANT", "STAGE"].contains(&rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<&'static str> {
        let file = Dockerfile::parse(text).unwrap();
        let warnings = lint(&file, &|_| Some(vec!["HOME".to_owned()]));
        warnings.into_iter().map(|warning| warning.rule).collect()
    }

    #[test]
    fn rules_have_buildkits_names() {
        for (text, rule) in [
            ("FROM a AS B\n", "StageNameCasing"),
            ("FROM a AS x\nFROM b AS x\n", "DuplicateStageName"),
            ("FROM $X\n", "UndefinedArgInFrom"),
            ("ARG V\nFROM a:$V\n", "InvalidDefaultArgInFrom"),
            (
                "FROM --platform=$TARGETPLATFORM a\n",
                "RedundantTargetPlatform",
            ),
            (
                "FROM --platform=linux/arm64 a\n",
                "FromPlatformFlagConstDisallowed",
            ),
            ("FROM a\nCMD x\n", "JSONArgsRecommended"),
            (
                "FROM a\nCMD [\"x\"]\nCMD [\"y\"]\n",
                "MultipleInstructionsDisallowed",
            ),
            ("FROM a\nMAINTAINER x\n", "MaintainerDeprecated"),
            ("FROM a\nWORKDIR x\n", "WorkdirRelativePath"),
            ("FROM a\nENV a b\n", "LegacyKeyValueFormat"),
            ("FROM a\nARG DB_PASSWORD\n", "SecretsUsedInArgOrEnv"),
            ("FROM a\nCOPY $NONE /x\n", "UndefinedVar"),
            ("from a\nRUN x\n", "ConsistentInstructionCasing"),
            ("FROM a as x\n", "FromAsCasing"),
            ("FROM a\nRUN x \\\n\n y\n", "NoEmptyContinuation"),
            ("FROM a AS scratch\n", "ReservedStageName"),
        ] {
            let found = rules(text);
            assert!(found.contains(&rule), "{text:?}: {found:?}");
        }
        assert_eq!(
            rules("ARG V=1\nFROM a:$V AS b\nENV X=$HOME\nCOPY $X /\nCMD [\"x\"]\n"),
            [""; 0]
        );
        assert_eq!(
            rules("# check=skip=JSONArgsRecommended\nFROM a\nCMD x\n"),
            [""; 0]
        );
    }
}
