//! What is being done, as it is done, on standard error.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::session::Form;

/// Tells of steps. Shared by all who carry them out.
pub struct Report {
    form: Form,
    screen: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Report {
    /// In the form that fits where standard error leads to.
    pub fn new(form: Form) -> Report {
        let form = match form {
            Form::Auto if std::io::stderr().is_terminal() => Form::Tty,
            Form::Auto => Form::Plain,
            form => form,
        };
        Report {
            form,
            screen: MultiProgress::new(),
            bars: Mutex::default(),
        }
    }

    /// Something has begun: `Container web-1`, `Creating`.
    pub fn begins(&self, what: &str, doing: &str) {
        self.say(what, doing, None);
    }

    /// It is done: `Created`.
    pub fn done(&self, what: &str, state: &str) {
        self.say(what, state, Some(true));
    }

    /// It has failed.
    pub fn failed(&self, what: &str, why: &str) {
        self.say(what, &format!("Error: {why}"), Some(false));
    }

    fn say(&self, what: &str, state: &str, ended: Option<bool>) {
        match self.form {
            Form::Quiet => {}
            Form::Json => {
                let status = match ended {
                    None => "Working",
                    Some(true) => "Done",
                    Some(false) => "Error",
                };
                let line = json!({"id": what, "status": status, "text": state});
                let _ = writeln!(std::io::stderr().lock(), "{line}");
            }
            Form::Plain | Form::Auto => {
                let _ = writeln!(std::io::stderr().lock(), " {what}  {state}");
            }
            Form::Tty => self.show(what, state, ended),
        }
    }

    fn show(&self, what: &str, state: &str, ended: Option<bool>) {
        let Ok(mut bars) = self.bars.lock() else {
            return;
        };
        let bar = bars.entry(what.to_owned()).or_insert_with(|| {
            let bar = self.screen.add(ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let template = match ended {
            None => " {spinner:.cyan} {prefix} {msg:.dim}",
            Some(true) => " ✔ {prefix} {msg:.green}",
            Some(false) => " ✘ {prefix} {msg:.red}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        match ended {
            None => bar.set_message(state.to_owned()),
            Some(_) => bar.finish_with_message(state.to_owned()),
        }
        if ended.is_some() {
            // Said again later: a new line, not one that has ended.
            bars.remove(what);
        }
    }
}
