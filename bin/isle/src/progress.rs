//! Progress of pull, push, load, save and import, on standard error.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use isle_engine::Preparation;
use isle_format::printable;
use isle_image::{Digest, Event, Phase, Progress, Silent};
use serde_json::json;

/// Says what is made before the first start, on standard error: it takes seconds, once.
pub fn preparation(what: Preparation) {
    let what = match what {
        Preparation::BlockImage => "writing the image as a disk for virtual machines",
        Preparation::Template => "booting a virtual machine, to be cloned from now on",
        Preparation::Rehearsal => {
            "preparing a virtual machine of this image, to be cloned from now on"
        }
    };
    // Only a person wants to know: elsewhere standard error is the program's.
    if !std::io::stderr().is_terminal() {
        return;
    }
    let _ = writeln!(std::io::stderr(), "isle: {what} (once)");
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Bars on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A line for each step of a layer.
    Plain,
    /// Bars.
    Tty,
    /// A JSON object for each step.
    Rawjson,
    /// Nothing.
    None,
}

/// The flags.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct ProgressFlags {
    /// How progress is shown: auto, plain, tty, rawjson or none
    #[arg(
        long,
        value_name = "FORM",
        default_value = "auto",
        hide_possible_values = true
    )]
    progress: Form,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
}

impl ProgressFlags {
    /// Bars on a terminal, or nothing: for verbs without flags of their own.
    pub fn only_quiet(quiet: bool) -> ProgressFlags {
        ProgressFlags {
            progress: Form::Auto,
            quiet,
        }
    }

    /// The form that it takes here: never [`Form::Auto`].
    pub fn form(self) -> Form {
        let is_terminal = rustix::termios::isatty(std::io::stderr());
        match (self.quiet, self.progress) {
            (true, _) => Form::None,
            (_, Form::Auto) if is_terminal => Form::Tty,
            (_, Form::Auto) => Form::Plain,
            (_, form) => form,
        }
    }

    /// Who shows it.
    pub fn open(self) -> Arc<dyn Progress> {
        match self.form() {
            Form::None => Arc::new(Silent),
            Form::Tty => Arc::new(Bars::default()),
            Form::Plain | Form::Auto => Arc::new(Lines::default()),
            Form::Rawjson => Arc::new(Json::default()),
        }
    }
}

/// A bar a layer.
#[derive(Debug, Default)]
struct Bars {
    screen: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Progress for Bars {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Message(text) => {
                // A screen that cannot be drawn on is no reason to fail a pull.
                let _ = self.screen.println(printable(text));
            }
            Event::Layer {
                id,
                phase,
                done,
                total,
            } => {
                let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = bars.entry((*id).clone()).or_insert_with(|| {
                    let bar = self.screen.add(ProgressBar::no_length());
                    bar.set_prefix(id.short().to_owned());
                    bar.set_style(words());
                    bar
                });
                let moves = matches!(
                    phase,
                    Phase::Downloading | Phase::Unpacking | Phase::Uploading
                );
                if bar.message() != phase.as_str() {
                    bar.set_message(phase.as_str());
                    bar.set_style(if moves && total.is_some() {
                        moving()
                    } else {
                        words()
                    });
                }
                if let Some(total) = total {
                    bar.set_length(*total);
                }
                bar.set_position(*done);
                if phase.is_final() {
                    bar.finish();
                }
            }
            _ => {}
        }
    }
}

fn words() -> ProgressStyle {
    style("{prefix}: {msg}")
}

fn moving() -> ProgressStyle {
    style("{prefix}: {msg} [{bar:40}] {bytes}/{total_bytes}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// A line for each step of a layer.
#[derive(Debug, Default)]
struct Lines {
    last: Mutex<HashMap<Digest, Phase>>,
}

impl Progress for Lines {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Message(text) => eprintln!("{}", printable(text)),
            Event::Layer { id, phase, .. } => {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.insert((*id).clone(), *phase) != Some(*phase) {
                    eprintln!("{}: {}", id.short(), phase.as_str());
                }
            }
            _ => {}
        }
    }
}

/// A JSON object for each step, in the shape of Docker's API; those of one phase of one layer not more
/// often than this.
const JSON_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Json {
    last: Mutex<HashMap<Digest, (Phase, Instant)>>,
}

impl Progress for Json {
    fn event(&self, event: &Event<'_>) {
        let object = match event {
            Event::Message(text) => json!({ "status": text }),
            Event::Layer {
                id,
                phase,
                done,
                total,
            } => {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                let is_early = last.get(*id).is_some_and(|(before, time)| {
                    before == phase && now.duration_since(*time) < JSON_INTERVAL
                });
                if is_early {
                    return;
                }
                last.insert((*id).clone(), (*phase, now));
                json!({
                    "status": phase.as_str(),
                    "progressDetail": { "current": done, "total": total },
                    "id": id.short(),
                })
            }
            _ => return,
        };
        let mut stderr = std::io::stderr().lock();
        // Whoever reads the progress may go before the end.
        let _ = writeln!(stderr, "{object}");
    }
}

/// A reader or writer that shows how many bytes have passed.
pub struct Meter<T> {
    inner: T,
    /// In the past tense.
    what: &'static str,
    form: Form,
    bar: Option<ProgressBar>,
    bytes: u64,
}

impl<T> Meter<T> {
    /// Around a reader or writer.
    pub fn new(flags: ProgressFlags, what: &'static str, inner: T) -> Meter<T> {
        let form = flags.form();
        let bar = (form == Form::Tty).then(|| {
            let bar = ProgressBar::no_length();
            bar.set_style(style("{prefix} {bytes} ({binary_bytes_per_sec})"));
            bar.set_prefix(what);
            bar
        });
        Meter {
            inner,
            what,
            form,
            bar,
            bytes: 0,
        }
    }

    fn add(&mut self, count: usize) {
        self.bytes += count as u64;
        if let Some(bar) = &self.bar {
            bar.set_position(self.bytes);
        }
    }

    /// Says how many there were.
    pub fn finish(self) {
        let size = isle_format::human::size(self.bytes, 3);
        let mut stderr = std::io::stderr().lock();
        // Whoever reads the progress may go before the end.
        let _ = match (self.form, &self.bar) {
            (_, Some(bar)) => {
                bar.finish();
                Ok(())
            }
            (Form::Rawjson, _) => writeln!(
                stderr,
                "{}",
                json!({ "status": self.what, "progressDetail": { "current": self.bytes } })
            ),
            (Form::None, _) => Ok(()),
            _ => writeln!(stderr, "{}: {size}", self.what),
        };
    }
}

impl<T: std::io::Read> std::io::Read for Meter<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.add(count);
        Ok(count)
    }
}

impl<T: Write> Write for Meter<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.add(count);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
