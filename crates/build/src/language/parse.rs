//! From logical lines to stages of instructions.

use isle_types::nearest;

use super::flags::{self, Flags};
use super::instruction::{
    ArgDefinition, Command, CopyInstruction, CopySource, Inline, Instruction, Item, Pair,
    RunInstruction, Stage,
};
use super::lines::{Directives, Line, Place, SyntaxError, heredoc, lines};
use super::split::words;

/// A Dockerfile, understood but for its variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// The comments at the top that mean something.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`.
    pub arguments: Vec<(Place, ArgDefinition)>,
    /// Its stages.
    pub stages: Vec<Stage>,
    /// What is odd about how it is written: the rule's name, where, and what.
    pub remarks: Vec<(&'static str, Place, String)>,
}

const WORDS: [&str; 19] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
    "INCLUDE",
];

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// The first thing that is wrong, its place, and what would be right.
    pub fn parse(text: &str) -> Result<Dockerfile, SyntaxError> {
        let (directives, lines) = lines(text)?;
        let mut file = Dockerfile {
            directives,
            ..Dockerfile::default()
        };
        let escape = file.escape();
        let mut casing: [Option<(Place, String)>; 2] = [None, None];
        for line in &lines {
            let word = line.text.split([' ', '\t']).next().unwrap_or_default();
            let place = line.place(0);
            if line.has_empty_continuation {
                file.remark("NoEmptyContinuation", place, "Empty continuation line");
            }
            let case = match (
                word == word.to_ascii_uppercase(),
                word == word.to_ascii_lowercase(),
            ) {
                (true, _) => Some(0),
                (_, true) => Some(1),
                _ => {
                    let text = format!("Command '{word}' should be consistently cased");
                    file.remark("ConsistentInstructionCasing", place, &text);
                    None
                }
            };
            if let Some(case) = case {
                casing[case].get_or_insert((place, word.to_owned()));
            }
            match &*word.to_ascii_uppercase() {
                "FROM" => {
                    let stage = from(line, escape)?;
                    if let Some((as_place, as_word)) = as_word(line, escape)
                        && (as_word == as_word.to_ascii_uppercase())
                            != (word == word.to_ascii_uppercase())
                    {
                        let text =
                            format!("'{as_word}' and '{word}' keywords' casing do not match");
                        file.remark("FromAsCasing", as_place, &text);
                    }
                    file.stages.push(stage);
                }
                _ => {
                    let item = item(line, escape)?;
                    match (file.stages.last_mut(), item.instruction) {
                        (Some(stage), instruction) => stage.items.push(Item {
                            instruction,
                            ..item
                        }),
                        (None, Instruction::Arg(definitions)) => {
                            let at = definitions.into_iter().map(|arg| (item.place, arg));
                            file.arguments.extend(at);
                        }
                        (None, instruction) => {
                            return Err(SyntaxError::new(
                                item.place,
                                format!("{} comes before the first FROM", instruction.word()),
                                "begin with FROM IMAGE; only ARG may come before it",
                            ));
                        }
                    }
                }
            }
        }
        if let [Some((first, _)), Some((place, word))] = &casing
            && first != place
        {
            let text = format!(
                "Command '{word}' should match the case of the command majority (uppercase)"
            );
            file.remark("ConsistentInstructionCasing", *place, &text);
        }
        if file.stages.is_empty() {
            return Err(SyntaxError::new(
                Place { line: 1, column: 1 },
                "the Dockerfile has no FROM",
                "begin with FROM IMAGE, or FROM scratch",
            ));
        }
        Ok(file)
    }

    /// The character that continues lines and escapes others.
    #[must_use]
    pub fn escape(&self) -> char {
        self.directives.escape.unwrap_or('\\')
    }

    fn remark(&mut self, rule: &'static str, place: Place, text: &str) {
        self.remarks.push((rule, place, text.to_owned()));
    }
}

/// The instruction of an `ONBUILD`. Its places are those in its own text.
pub(crate) fn parse_trigger(text: &str) -> Result<Vec<Item>, SyntaxError> {
    let (_, lines) = lines(text)?;
    lines.iter().map(|line| item(line, '\\')).collect()
}

fn as_word(line: &Line, escape: char) -> Option<(Place, &str)> {
    let words = words(&line.text, escape);
    let found = words
        .iter()
        .skip(2)
        .find(|(_, word)| word.eq_ignore_ascii_case("as"));
    found.map(|(offset, word)| (line.place(*offset), *word))
}

fn from(line: &Line, escape: char) -> Result<Stage, SyntaxError> {
    let (mut flags, start) = flags::read("FROM", line, "FROM".len(), escape);
    let platform = flags.one("platform")?;
    flags.finish()?;
    let rest = words(&line.text[start..], escape);
    let place = |offset: usize| line.place(start + offset);
    let fix = "write FROM IMAGE, or FROM IMAGE AS NAME";
    let (base, name) = match &*rest {
        [(_, base)] => (*base, None),
        [(_, base), (_, word), (at, name)] if word.eq_ignore_ascii_case("as") => {
            if !is_stage_name(name) {
                return Err(SyntaxError::new(
                    place(*at),
                    format!("{name:?} cannot be the name of a stage"),
                    "use letters, digits, - _ and . and begin with a letter",
                ));
            }
            (*base, Some(name.to_ascii_lowercase()))
        }
        [] => return Err(SyntaxError::new(line.place(0), "FROM names no image", fix)),
        [_, (at, word), ..] => {
            return Err(SyntaxError::new(
                place(*at),
                format!("FROM does not understand {word:?}"),
                fix,
            ));
        }
    };
    Ok(Stage {
        place: line.place(0),
        base: base.to_owned(),
        platform,
        name,
        source: line.text.clone(),
        items: Vec::new(),
    })
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The word, where the rest begins.
struct Rest<'l> {
    line: &'l Line,
    escape: char,
    word: &'static str,
    start: usize,
}

impl Rest<'_> {
    fn text(&self) -> &str {
        self.line.text[self.start..].trim()
    }

    fn begin(&self) -> usize {
        let rest = &self.line.text[self.start..];
        self.start + (rest.len() - rest.trim_start().len())
    }

    fn error(&self, problem: impl Into<String>, fix: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.line.place(self.begin()), problem, fix)
    }

    fn required(&self, fix: &str) -> Result<&str, SyntaxError> {
        match self.text() {
            "" => Err(self.error(format!("{} has no argument", self.word), fix)),
            text => Ok(text),
        }
    }

    /// `["a", "b"]`, or the text.
    fn command(&self) -> Command {
        match json_list(self.text()) {
            Some(list) => Command::Exec(list),
            None => Command::Shell(self.text().to_owned()),
        }
    }
}

/// A list of strings in JSON.
fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

fn item(line: &Line, escape: char) -> Result<Item, SyntaxError> {
    let given = line.text.split([' ', '\t']).next().unwrap_or_default();
    let upper = given.to_ascii_uppercase();
    let Some(word) = WORDS[..18].iter().find(|word| **word == upper) else {
        let fix = match nearest(&upper, WORDS[..18].iter().copied()) {
            Some(word) => format!("did you mean {word}?"),
            None => "an instruction is one of ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL ONBUILD \
                     RUN SHELL STOPSIGNAL USER VOLUME WORKDIR; a line goes on with \\ at its end"
                .to_owned(),
        };
        return Err(SyntaxError::new(
            line.place(0),
            format!(
                "there is no instruction {:?}",
                given.chars().take(40).collect::<String>()
            ),
            fix,
        ));
    };
    let (mut flags, start) = match *word {
        // HEALTHCHECK reads its own, and a command may begin with two dashes.
        "ADD" | "COPY" | "RUN" => flags::read(word, line, given.len(), escape),
        _ => (
            flags::read(word, line, line.text.len(), escape).0,
            given.len(),
        ),
    };
    let rest = Rest {
        line,
        escape,
        word,
        start,
    };
    let instruction = match *word {
        "ADD" => Instruction::Add(copy(&rest, &mut flags, true)?),
        "COPY" => Instruction::Copy(copy(&rest, &mut flags, false)?),
        "RUN" => Instruction::Run(run(&rest, &mut flags)?),
        "ARG" => Instruction::Arg(arguments(&rest)?),
        "CMD" => Instruction::Cmd(rest.command()),
        "ENTRYPOINT" => Instruction::Entrypoint(rest.command()),
        "ENV" => Instruction::Env(pairs(&rest)?),
        "LABEL" => Instruction::Label(pairs(&rest)?),
        "EXPOSE" => Instruction::Expose(rest.required("write EXPOSE 80/tcp")?.to_owned()),
        "HEALTHCHECK" => {
            let fix = "write HEALTHCHECK [--interval=30s …] CMD command, or HEALTHCHECK NONE";
            Instruction::Healthcheck(rest.required(fix)?.to_owned())
        }
        "MAINTAINER" => Instruction::Maintainer(rest.required("write who")?.to_owned()),
        "ONBUILD" => Instruction::Onbuild(trigger(&rest)?),
        "SHELL" => match json_list(rest.text()) {
            Some(list) if !list.is_empty() => Instruction::Shell(list),
            _ => {
                return Err(rest.error(
                    "SHELL takes a list in JSON",
                    "write SHELL [\"/bin/bash\", \"-c\"]",
                ));
            }
        },
        "STOPSIGNAL" => {
            Instruction::Stopsignal(rest.required("write STOPSIGNAL SIGTERM")?.to_owned())
        }
        "USER" => Instruction::User(
            rest.required("write USER name or USER 1000:1000")?
                .to_owned(),
        ),
        "VOLUME" => {
            rest.required("write VOLUME /path")?;
            Instruction::Volume(rest.command())
        }
        "WORKDIR" => Instruction::Workdir(rest.required("write WORKDIR /path")?.to_owned()),
        // An ONBUILD trigger: those of a file are read by `from`.
        _ => {
            return Err(rest.error("FROM cannot stand here", "leave it out"));
        }
    };
    flags.finish()?;
    Ok(Item {
        place: line.place(0),
        last_line: line.last_line,
        source: line.text.clone(),
        instruction,
    })
}

fn arguments(rest: &Rest<'_>) -> Result<Vec<ArgDefinition>, SyntaxError> {
    rest.required("write ARG NAME or ARG NAME=default")?;
    let mut definitions = Vec::new();
    for (at, word) in words(&rest.line.text[rest.start..], rest.escape) {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err(SyntaxError::new(
                rest.line.place(rest.start + at),
                format!("{word:?} has no name"),
                "write ARG NAME=default, without space around the =",
            ));
        }
        definitions.push(ArgDefinition {
            name: name.to_owned(),
            default,
        });
    }
    Ok(definitions)
}

fn pairs(rest: &Rest<'_>) -> Result<Vec<Pair>, SyntaxError> {
    let fix = format!("write {} KEY=value", rest.word);
    rest.required(&fix)?;
    let split = words(&rest.line.text[rest.start..], rest.escape);
    let Some((_, first)) = split.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        // The old form: the value is all that follows.
        let text = rest.text();
        let value = text[first.len()..].trim_start();
        if value.is_empty() {
            return Err(rest.error(format!("{} {first} has no value", rest.word), fix));
        }
        return Ok(vec![Pair {
            key: (*first).to_owned(),
            value: value.to_owned(),
        }]);
    }
    let mut pairs = Vec::new();
    for (at, word) in split {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => pairs.push(Pair {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => {
                return Err(SyntaxError::new(
                    rest.line.place(rest.start + at),
                    format!("{word:?} has no = in it"),
                    "put a value with spaces into quotes: KEY=\"a value\"",
                ));
            }
        }
    }
    Ok(pairs)
}

fn trigger(rest: &Rest<'_>) -> Result<String, SyntaxError> {
    let text = rest.required("write ONBUILD INSTRUCTION …")?;
    let word = text.split_ascii_whitespace().next().unwrap_or_default();
    if ["ONBUILD", "FROM", "MAINTAINER"].contains(&&*word.to_ascii_uppercase()) {
        return Err(rest.error(
            format!("{word} cannot be a trigger"),
            "ONBUILD takes any other instruction",
        ));
    }
    let mut trigger = text.to_owned();
    for heredoc in &rest.line.heredocs {
        trigger.push('\n');
        trigger.push_str(&heredoc.content);
        trigger.push_str(&heredoc.name);
    }
    // What is wrong with it is wrong here, not where the image is used.
    parse_trigger(&trigger).map_err(|error| SyntaxError {
        place: rest
            .line
            .place(rest.begin() + error.place.column.saturating_sub(1)),
        ..error
    })?;
    Ok(trigger)
}

fn run(rest: &Rest<'_>, flags: &mut Flags) -> Result<RunInstruction, SyntaxError> {
    let run = RunInstruction {
        mounts: flags.many("mount")?,
        network: flags.one("network")?,
        security: flags.one("security")?,
        devices: flags.many("device")?,
        command: rest.command(),
        heredocs: rest.line.heredocs.clone(),
    };
    rest.required("write RUN command, or RUN [\"program\", \"argument\"]")?;
    Ok(run)
}

fn copy(rest: &Rest<'_>, flags: &mut Flags, is_add: bool) -> Result<CopyInstruction, SyntaxError> {
    let mut copy = CopyInstruction {
        chown: flags.one("chown")?,
        chmod: flags.one("chmod")?,
        link: flags.switch("link")?.unwrap_or(false),
        exclude: flags.many("exclude")?,
        ..CopyInstruction::default()
    };
    match is_add {
        true => {
            copy.checksum = flags.one("checksum")?;
            copy.keep_git_dir = flags.switch("keep-git-dir")?.unwrap_or(false);
            copy.unpack = flags.switch("unpack")?;
        }
        false => {
            copy.from = flags.one("from")?;
            copy.parents = flags.switch("parents")?.unwrap_or(false);
        }
    }
    let fix = format!("write {} SOURCE … DESTINATION", rest.word);
    let text = rest.required(&fix)?;
    let mut words: Vec<String> = match json_list(text) {
        Some(list) => list,
        None => words(text, rest.escape)
            .into_iter()
            .map(|(_, word)| word.to_owned())
            .collect(),
    };
    let destination = match words.len() {
        0 | 1 => {
            return Err(rest.error(format!("{} has no destination", rest.word), fix));
        }
        _ => words.pop().unwrap_or_default(),
    };
    copy.destination = destination;
    let mut heredocs = rest.line.heredocs.iter();
    for word in words {
        let source = match heredoc(&word).and_then(|_| heredocs.next()) {
            Some(heredoc) => CopySource::Inline(Inline {
                name: heredoc.name.clone(),
                content: heredoc.text(),
                expands: heredoc.expands,
            }),
            None => CopySource::Path(word),
        };
        copy.sources.push(source);
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Instruction {
        let file = Dockerfile::parse(&format!("FROM a\n{text}")).unwrap();
        file.stages[0].items[0].instruction.clone()
    }

    fn error(text: &str) -> (String, String) {
        let error = Dockerfile::parse(text).unwrap_err();
        (
            error.place.to_string(),
            format!("{} / {}", error.problem, error.fix),
        )
    }

    #[test]
    fn stages_have_bases_names_and_platforms() {
        let file = Dockerfile::parse(
            "ARG V=1\nFROM --platform=$BUILDPLATFORM base:${V} AS Build\nRUN x\nFROM scratch\n",
        )
        .unwrap();
        assert_eq!(file.arguments[0].1.default.as_deref(), Some("1"));
        assert_eq!(file.stages[0].name.as_deref(), Some("build"));
        assert_eq!(file.stages[0].platform.as_deref(), Some("$BUILDPLATFORM"));
        assert_eq!(file.stages[1].base, "scratch");
    }

    #[test]
    fn commands_have_two_forms() {
        assert_eq!(
            only("CMD [\"a\", \"b c\"]"),
            Instruction::Cmd(Command::Exec(vec!["a".to_owned(), "b c".to_owned()]))
        );
        assert_eq!(
            only("CMD ['a']"),
            Instruction::Cmd(Command::Shell("['a']".to_owned()))
        );
    }

    #[test]
    fn copies_have_flags_lists_and_heredocs() {
        let Instruction::Copy(copy) = only("COPY --from=x --link --exclude=*.md a \"b c\" /d/")
        else {
            panic!("a COPY");
        };
        assert_eq!(copy.from.as_deref(), Some("x"));
        assert!(copy.link);
        assert_eq!(copy.sources[1], CopySource::Path("\"b c\"".to_owned()));
        let Instruction::Copy(copy) = only("COPY <<one <<\"two\" /d/\n1$a\none\n2\ntwo") else {
            panic!("a COPY");
        };
        assert_eq!(
            copy.sources[1],
            CopySource::Inline(Inline {
                name: "two".to_owned(),
                content: "2\n".to_owned(),
                expands: false
            })
        );
    }

    #[test]
    fn pairs_have_two_forms() {
        let pair = |key: &str, value: &str| Pair {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        assert_eq!(
            only("ENV a b  c"),
            Instruction::Env(vec![pair("a", "b  c")])
        );
        assert_eq!(
            only("LABEL a=b c=\"d e\""),
            Instruction::Label(vec![pair("a", "b"), pair("c", "\"d e\"")])
        );
    }

    #[test]
    fn what_is_wrong_is_placed_and_has_a_fix() {
        for (text, place, part) in [
            ("RUN x\n", "1:1", "before the first FROM"),
            ("", "1:1", "no FROM"),
            ("FROM a\n  RUM x", "2:3", "did you mean RUN"),
            ("FROM a\nCOPY --form=b c d", "2:6", "did you mean --from"),
            ("FROM a\nCOPY b", "2:6", "no destination"),
            ("FROM a AS 1b", "1:11", "name of a stage"),
            ("FROM a b", "1:8", "FROM IMAGE AS NAME"),
            ("FROM a\nENV a=b \\\n c", "3:2", "no ="),
            ("FROM a\nSHELL sh", "2:7", "JSON"),
            ("FROM a\nONBUILD FROM x", "2:9", "trigger"),
            ("FROM a\nONBUILD COPY x", "2:14", "no destination"),
            ("FROM a\nUSER", "2:5", "no argument"),
        ] {
            let (found, words) = error(text);
            assert!(words.contains(part), "{text:?}: {words}");
            assert_eq!(found, place, "{text:?}: {words}");
        }
    }
}
