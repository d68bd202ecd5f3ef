//! Where errors go: standard error, and the file that the caller names.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use crate::arguments::{Global, LogFormat};

pub(crate) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
}

impl Log {
    pub(crate) fn new(global: &Global) -> Log {
        Log {
            file: global.log.clone(),
            format: global.log_format,
        }
    }

    /// The whole chain in one line, as callers search it.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        eprintln!("isle-oci: {text}");
        if let Some(hint) = crate::command::hint(error) {
            eprintln!("hint: {hint}");
        }
        let Some(path) = &self.file else { return };
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let line = match self.format {
            LogFormat::Text => format!("time=\"{time}\" level=error msg={text:?}\n"),
            LogFormat::Json => {
                let text = serde_json::Value::from(text);
                format!("{{\"level\":\"error\",\"msg\":{text},\"time\":\"{time}\"}}\n")
            }
        };
        let written = File::options()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            eprintln!("isle-oci: cannot write the log {}: {error}", path.display());
        }
    }
}
