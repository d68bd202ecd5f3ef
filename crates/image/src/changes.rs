//! `--change` of `import` and `commit`: single instructions of a Dockerfile that change an image's
//! configuration.
//!
//! <https://docs.docker.com/reference/dockerfile/>

use std::time::Duration;

use isle_types::{Signal, parse_duration};
use serde_json::{Map, Value, json};

/// Why an instruction cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply the change {instruction:?}: {problem}")]
pub struct ChangeError {
    instruction: String,
    problem: String,
}

impl ChangeError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "a change is one of CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME \
         WORKDIR as in a Dockerfile, like 'ENV KEY=value' or 'CMD [\"program\", \"argument\"]'"
    }
}

/// Applies instructions, in their order, to the `config` object of an image configuration.
///
/// # Errors
/// [`ChangeError`] for the first that cannot be applied.
pub fn apply_changes(
    config: &mut Map<String, Value>,
    changes: &[String],
) -> Result<(), ChangeError> {
    let mut has_cmd = false;
    for change in changes {
        apply(config, change, &mut has_cmd).map_err(|problem| ChangeError {
            instruction: change.chars().take(300).collect(),
            problem,
        })?;
    }
    Ok(())
}

fn apply(config: &mut Map<String, Value>, change: &str, has_cmd: &mut bool) -> Result<(), String> {
    let change = change.trim();
    let (word, rest) = change
        .split_once(|c: char| c.is_whitespace())
        .unwrap_or((change, ""));
    let rest = rest.trim();
    let instruction = word.to_ascii_uppercase();
    if rest.is_empty() && instruction != "CMD" && instruction != "ENTRYPOINT" {
        return Err("it has no argument".to_owned());
    }
    let environment = environment(config);
    let words = |text: &str| words(text, &environment);
    match &*instruction {
        "CMD" => {
            *has_cmd = true;
            config.insert("Cmd".to_owned(), command(rest)?.into());
        }
        "ENTRYPOINT" => {
            config.insert("Entrypoint".to_owned(), command(rest)?.into());
            // As Docker does: arguments that were made for another program are dropped.
            if !*has_cmd {
                config.remove("Cmd");
            }
        }
        "ENV" => {
            for (key, value) in pairs(rest, &environment)? {
                set_environment(config, &key, &value);
            }
        }
        "LABEL" => {
            let labels = object(config, "Labels")?;
            for (key, value) in pairs(rest, &environment)? {
                labels.insert(key, value.into());
            }
        }
        "EXPOSE" => {
            let ports = words(rest)?;
            let exposed = object(config, "ExposedPorts")?;
            for port in ports {
                for port in expand_ports(&port)? {
                    exposed.insert(port, json!({}));
                }
            }
        }
        "VOLUME" => {
            let paths = match json_list(rest) {
                Some(paths) => paths,
                None => words(rest)?,
            };
            let volumes = object(config, "Volumes")?;
            for path in paths {
                if path.is_empty() {
                    return Err("a volume has no path".to_owned());
                }
                volumes.insert(path, json!({}));
            }
        }
        "USER" => {
            config.insert("User".to_owned(), one(words(rest)?)?.into());
        }
        "WORKDIR" => {
            let path = one(words(rest)?)?;
            let before = config
                .get("WorkingDir")
                .and_then(Value::as_str)
                .unwrap_or("/");
            config.insert("WorkingDir".to_owned(), join(before, &path).into());
        }
        "STOPSIGNAL" => {
            let signal = one(words(rest)?)?;
            signal
                .parse::<Signal>()
                .map_err(|error| error.to_string())?;
            config.insert("StopSignal".to_owned(), signal.into());
        }
        "HEALTHCHECK" => {
            config.insert("Healthcheck".to_owned(), healthcheck(rest)?);
        }
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default();
            if ["ONBUILD", "FROM", "MAINTAINER"].contains(&&*trigger.to_ascii_uppercase()) {
                return Err(format!("{trigger} cannot be a trigger"));
            }
            let triggers = config
                .entry("OnBuild")
                .and_modify(|value| {
                    if value.is_null() {
                        *value = json!([]);
                    }
                })
                .or_insert_with(|| json!([]));
            triggers
                .as_array_mut()
                .ok_or("the image's triggers are not a list")?
                .push(rest.into());
        }
        _ => {
            return Err(format!(
                "{word:?} is not an instruction that changes a configuration"
            ));
        }
    }
    Ok(())
}

fn one(words: Vec<String>) -> Result<String, String> {
    match <[String; 1]>::try_from(words) {
        Ok([word]) if !word.is_empty() => Ok(word),
        Ok(_) => Err("its argument is empty".to_owned()),
        Err(words) => Err(format!("it takes one argument, not {}", words.len())),
    }
}

/// `["a", "b"]` as it stands; anything else through the shell.
fn command(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    match json_list(text) {
        Some(list) => Ok(list),
        None => Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]),
    }
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())?
}

fn object<'c>(
    config: &'c mut Map<String, Value>,
    key: &str,
) -> Result<&'c mut Map<String, Value>, String> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .ok_or_else(|| format!("the image's {key} are not an object"))
}

fn environment(config: &Map<String, Value>) -> Vec<(String, String)> {
    let list = config.get("Env").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts
        .filter_map(|text| text.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn set_environment(config: &mut Map<String, Value>, key: &str, value: &str) {
    let mut list: Vec<Value> = match config.get_mut("Env").and_then(Value::as_array_mut) {
        Some(list) => std::mem::take(list),
        None => Vec::new(),
    };
    let entry = Value::String(format!("{key}={value}"));
    let is_same = |old: &Value| {
        old.as_str()
            .and_then(|old| old.split_once('='))
            .is_some_and(|(old, _)| old == key)
    };
    match list.iter_mut().find(|old| is_same(old)) {
        Some(old) => *old = entry,
        None => list.push(entry),
    }
    config.insert("Env".to_owned(), Value::Array(list));
}

/// `a=b "c d"=e`, or the old form `key the rest`.
fn pairs(text: &str, environment: &[(String, String)]) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text
            .split_once(|c: char| c.is_whitespace())
            .ok_or_else(|| format!("{text:?} has no value"))?;
        let value = expand(value.trim(), environment)?;
        return Ok(vec![(key.to_owned(), value)]);
    }
    words(text, environment)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("{word:?} is not KEY=value")),
        })
        .collect()
}

/// Words at white space, without their quotes, variables replaced.
fn words(text: &str, environment: &[(String, String)]) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut current: Option<String> = None;
    scan(text, environment, |piece| match piece {
        Piece::Space => words.extend(current.take()),
        Piece::Text(text) => current.get_or_insert_default().push_str(&text),
    })?;
    words.extend(current);
    Ok(words)
}

/// The text as one word.
fn expand(text: &str, environment: &[(String, String)]) -> Result<String, String> {
    let mut result = String::new();
    scan(text, environment, |piece| match piece {
        Piece::Space => result.push(' '),
        Piece::Text(text) => result.push_str(&text),
    })?;
    Ok(result)
}

enum Piece {
    Space,
    Text(String),
}

fn scan(
    text: &str,
    environment: &[(String, String)],
    mut take: impl FnMut(Piece),
) -> Result<(), String> {
    let mut rest = text.chars().peekable();
    let mut quote: Option<char> = None;
    while let Some(c) = rest.next() {
        match (c, quote) {
            ('\'', None) | ('"', None) => {
                quote = Some(c);
                take(Piece::Text(String::new()));
            }
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => match rest.next() {
                Some(next) if quote.is_none() || matches!(next, '"' | '\\' | '$') => {
                    take(Piece::Text(next.to_string()));
                }
                Some(next) => take(Piece::Text(format!("\\{next}"))),
                None => take(Piece::Text("\\".to_owned())),
            },
            ('$', None | Some('"')) => {
                take(Piece::Text(variable(&mut rest, environment)?));
            }
            (c, None) if c.is_whitespace() => take(Piece::Space),
            (c, _) => take(Piece::Text(c.to_string())),
        }
    }
    match quote {
        Some(quote) => Err(format!("a {quote} is not closed")),
        None => Ok(()),
    }
}

/// What follows a `$`: `NAME`, `{NAME}`, `{NAME:-default}`, `{NAME:+other}`.
fn variable(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    environment: &[(String, String)],
) -> Result<String, String> {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let value_of = |name: &str| {
        let found = environment.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    if rest.next_if_eq(&'{').is_none() {
        let name: String = std::iter::from_fn(|| rest.next_if(is_name)).collect();
        return Ok(match name.is_empty() {
            true => "$".to_owned(),
            false => value_of(&name).unwrap_or_default(),
        });
    }
    let mut inner = String::new();
    loop {
        match rest.next() {
            Some('}') => break,
            Some(c) => inner.push(c),
            None => return Err("a ${ is not closed".to_owned()),
        }
    }
    let name: String = inner.chars().take_while(is_name).collect();
    let modifier = &inner[name.len()..];
    let value = value_of(&name).filter(|value| !value.is_empty());
    match modifier.get(..2) {
        _ if name.is_empty() => Err(format!("${{{inner}}} names no variable")),
        None if modifier.is_empty() => Ok(value.unwrap_or_default()),
        Some(":-") => Ok(value.unwrap_or_else(|| modifier[2..].to_owned())),
        Some(":+") => Ok(value.map(|_| modifier[2..].to_owned()).unwrap_or_default()),
        _ => Err(format!("${{{inner}}} has a modifier that is not supported")),
    }
}

/// `80`, `53/udp`, `8000-8010/tcp`.
fn expand_ports(text: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&&*protocol) {
        return Err(format!("{text:?} has an unknown protocol"));
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    match (from.parse::<u16>(), to.parse::<u16>()) {
        (Ok(from @ 1..), Ok(to)) if from <= to => Ok((from..=to)
            .map(|port| format!("{port}/{protocol}"))
            .collect()),
        _ => Err(format!("{text:?} is not a port")),
    }
}

/// `/a` and `b` to `/a/b`; `..` is resolved in the text, as Docker does.
fn join(before: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let start = match path.starts_with('/') {
        true => "",
        false => before,
    };
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn healthcheck(text: &str) -> Result<Value, String> {
    let mut rest = text;
    let mut check = Map::new();
    while let Some(option) = rest.strip_prefix("--") {
        let (option, tail) = option
            .split_once(|c: char| c.is_whitespace())
            .ok_or("it has no command")?;
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("--{option} has no value"))?;
        let nanoseconds = || -> Result<Value, String> {
            let duration = parse_duration(value).map_err(|error| error.to_string())?;
            if duration != Duration::ZERO && duration < Duration::from_millis(1) {
                return Err(format!("--{name} is shorter than 1ms"));
            }
            u64::try_from(duration.as_nanos())
                .map(Value::from)
                .map_err(|_| format!("--{name} is too long"))
        };
        let (key, value) = match name {
            "interval" => ("Interval", nanoseconds()?),
            "timeout" => ("Timeout", nanoseconds()?),
            "start-period" => ("StartPeriod", nanoseconds()?),
            "start-interval" => ("StartInterval", nanoseconds()?),
            "retries" => match value.parse::<u32>() {
                Ok(retries) => ("Retries", retries.into()),
                Err(_) => return Err("--retries is not a number".to_owned()),
            },
            _ => return Err(format!("--{name} is not an option of HEALTHCHECK")),
        };
        check.insert(key.to_owned(), value);
        rest = tail.trim_start();
    }
    let (word, argument) = rest
        .split_once(|c: char| c.is_whitespace())
        .unwrap_or((rest, ""));
    let test = match (&*word.to_ascii_uppercase(), argument.trim()) {
        ("NONE", "") if check.is_empty() => vec!["NONE".to_owned()],
        ("CMD", "") => return Err("it has no command".to_owned()),
        ("CMD", argument) => match json_list(argument) {
            Some(list) => [vec!["CMD".to_owned()], list].concat(),
            None => vec!["CMD-SHELL".to_owned(), argument.to_owned()],
        },
        _ => return Err("it must be NONE or CMD with a command".to_owned()),
    };
    check.insert("Test".to_owned(), test.into());
    Ok(Value::Object(check))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<Value, ChangeError> {
        let mut config = Map::new();
        config.insert("Env".to_owned(), json!(["PATH=/bin"]));
        config.insert("Cmd".to_owned(), json!(["old"]));
        config.insert("Labels".to_owned(), Value::Null);
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply_changes(&mut config, &changes).map(|()| Value::Object(config))
    }

    #[test]
    fn every_instruction_does_what_it_does_in_a_dockerfile() {
        let config = changed(&[
            "ENTRYPOINT [\"/init\", \"-x\"]",
            "cmd echo $HOME",
            "ENV PATH=$PATH:/opt \"A B\"='c $d' E=\"${X:-y} ${PATH:+z}\"",
            "ENV OLD some value",
            "EXPOSE 80 53/udp 8000-8001",
            "LABEL a=b c=\"d e\"",
            "VOLUME [\"/data\", \"/more\"]",
            "VOLUME /third",
            "USER 1000:100",
            "WORKDIR /srv",
            "WORKDIR app/../www",
            "STOPSIGNAL SIGQUIT",
            "HEALTHCHECK --interval=5s --retries=3 CMD curl -f http://localhost/",
            "ONBUILD RUN echo hi",
        ])
        .unwrap();
        assert_eq!(
            config,
            json!({
                "Entrypoint": ["/init", "-x"],
                "Cmd": ["/bin/sh", "-c", "echo $HOME"],
                "Env": ["PATH=/bin:/opt", "A B=c $d", "E=y z", "OLD=some value"],
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
                "Labels": {"a": "b", "c": "d e"},
                "Volumes": {"/data": {}, "/more": {}, "/third": {}},
                "User": "1000:100",
                "WorkingDir": "/srv/www",
                "StopSignal": "SIGQUIT",
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl -f http://localhost/"],
                    "Interval": 5_000_000_000_u64,
                    "Retries": 3
                },
                "OnBuild": ["RUN echo hi"],
            })
        );
    }

    #[test]
    fn a_new_entrypoint_drops_the_old_arguments() {
        let config = changed(&["ENTRYPOINT /x"]).unwrap();
        assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-c", "/x"]));
        assert!(config.get("Cmd").is_none());
        let config = changed(&["HEALTHCHECK NONE"]).unwrap();
        assert_eq!(config["Healthcheck"], json!({ "Test": ["NONE"] }));
    }

    #[test]
    fn what_is_no_change_is_refused_by_name() {
        for change in [
            "",
            "RUN x",
            "FROM x",
            "COPY a b",
            "ENV",
            "ENV X",
            "ENV =x",
            "EXPOSE http",
            "EXPOSE 0",
            "EXPOSE 9-8",
            "EXPOSE 80/icmp",
            "LABEL a",
            "USER a b",
            "STOPSIGNAL NOPE",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=x CMD y",
            "HEALTHCHECK --foo=1 CMD y",
            "HEALTHCHECK x",
            "ONBUILD FROM x",
            "ENV A=\"b",
            "ENV A=${b",
            "ENV A=${b%x}",
            "HEALTHCHECK --interval=1us CMD x",
        ] {
            let error = changed(&[change]).expect_err(change);
            assert!(
                error.to_string().contains("cannot apply the change"),
                "{error}"
            );
        }
    }
}
