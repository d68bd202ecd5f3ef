//! Where words go: answers to standard output, errors and warnings to standard error and the file that the caller
//! names. Nobody has to listen: a pipe that was closed is no reason to fail.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context;

use crate::arguments::{Global, LogFormat};

struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
    is_verbose: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// As the caller wants it. Before, nothing is written to a file.
pub(crate) fn begin(global: &Global) {
    let _ = LOG.set(Log {
        file: global.log.clone(),
        format: global.log_format,
        is_verbose: global.debug,
    });
}

/// A line of an answer.
pub(crate) fn print(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{line}").context(UNHEARD)
}

const UNHEARD: &str = "cannot write to standard output";

/// Whether an error is that nobody listens any more, which ends a verb that only tells something.
pub(crate) fn is_unheard(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    error.to_string() == UNHEARD
        && cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The whole chain in one line, as callers search it.
pub(crate) fn error(error: &anyhow::Error) {
    let text = format!("{error:#}");
    say(&format!("isle-oci: {text}"));
    if let Some(hint) = crate::command::hint(error) {
        say(&format!("hint: {hint}"));
    }
    write("error", &text);
}

/// What is odd and changes nothing.
pub(crate) fn warning(text: &str) {
    say(&format!("isle-oci: warning: {text}"));
    write("warning", text);
}

/// What `--debug` asks for; each line of the text is one of the log.
pub(crate) fn debug(text: impl FnOnce() -> String) {
    if LOG.get().is_some_and(|log| log.is_verbose) {
        for line in text().lines() {
            say(&format!("isle-oci: {line}"));
            write("debug", line);
        }
    }
}

/// The lines are those of logrus, which engines parse.
fn write(level: &str, text: &str) {
    let Some((log, path)) = LOG.get().and_then(|log| Some((log, log.file.as_ref()?))) else {
        return;
    };
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let line = match log.format {
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
        LogFormat::Json => {
            let text = serde_json::Value::from(text);
            format!("{{\"level\":\"{level}\",\"msg\":{text},\"time\":\"{time}\"}}\n")
        }
    };
    let written = File::options()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        say(&format!(
            "isle-oci: cannot write the log {}: {error}",
            path.display()
        ));
    }
}
