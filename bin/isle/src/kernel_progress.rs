//! Progress of `kernel install` and `kernel build`, on standard error.

use std::cell::Cell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use isle_format::printable;
use isle_kernel::{Event, Progress, Silent};
use serde_json::json;

use crate::progress::{Form, ProgressFlags};

/// Who shows it.
pub fn open(flags: ProgressFlags) -> Box<dyn Progress> {
    match flags.form() {
        Form::None => Box::new(Silent),
        Form::Tty => Box::new(Bar::new()),
        Form::Plain | Form::Auto => Box::new(Lines::default()),
        Form::Rawjson => Box::new(Json),
    }
}

/// The step that is being done, with a bar while the compiler works.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::no_length();
        bar.set_style(style("{spinner} {msg} ({elapsed})"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Bar(bar)
    }
}

impl Progress for Bar {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Step(text) => {
                self.0.set_style(style("{spinner} {msg} ({elapsed})"));
                self.0.set_message(printable(text).into_owned());
            }
            Event::Compiled { files, about } => {
                if self.0.length() != Some(*about) {
                    self.0.set_length(*about);
                    let template =
                        "{spinner} {msg} [{bar:40}] {percent}% ({elapsed}, about {eta} left)";
                    self.0.set_style(style(template));
                }
                self.0.set_position(*files);
            }
            Event::Message(text) => self.0.println(printable(text)),
            _ => {}
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// A line a step, and one for each tenth that is compiled.
#[derive(Default)]
struct Lines {
    tenths: Cell<u64>,
}

impl Progress for Lines {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Step(text) | Event::Message(text) => eprintln!("{}", printable(text)),
            Event::Compiled { files, about } => {
                let tenths = files * 10 / about;
                if tenths > self.tenths.replace(tenths) {
                    eprintln!("compiling: {} % ({files} files)", tenths * 10);
                }
            }
            _ => {}
        }
    }
}

/// An object a step.
struct Json;

impl Progress for Json {
    fn event(&self, event: &Event<'_>) {
        let object = match event {
            Event::Step(text) | Event::Message(text) => json!({ "status": text }),
            Event::Compiled { files, about } => json!({
                "status": "compiling",
                "progressDetail": { "current": files, "total": about },
            }),
            _ => return,
        };
        eprintln!("{object}");
    }
}
