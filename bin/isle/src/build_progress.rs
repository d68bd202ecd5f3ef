//! Progress of a build, on standard error, as BuildKit shows it.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use isle_build::{End, Event, Progress, Silent};
use isle_format::printable;
use serde_json::json;

/// How it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Moving lines on a terminal, plain ones elsewhere.
    #[default]
    Auto,
    /// A line for each thing that happens.
    Plain,
    /// Moving lines.
    Tty,
    /// A JSON object for each thing that happens.
    Rawjson,
    /// Nothing.
    Quiet,
}

impl Form {
    /// Who shows it.
    pub fn open(self) -> Box<dyn Progress> {
        let is_terminal = rustix::termios::isatty(std::io::stderr());
        match self {
            Form::Quiet => Box::new(Silent),
            Form::Rawjson => Box::<Json>::default(),
            Form::Tty => Box::<Moving>::default(),
            Form::Auto if is_terminal => Box::<Moving>::default(),
            Form::Plain | Form::Auto => Box::<Plain>::default(),
        }
    }
}

/// What a step has written, cut into lines.
#[derive(Debug)]
struct Step {
    name: String,
    begin: Instant,
    pending: Vec<u8>,
}

impl Step {
    fn new(name: &str) -> Step {
        Step {
            name: printable(name).into_owned(),
            begin: Instant::now(),
            pending: Vec::new(),
        }
    }

    /// Whole lines, ready to be shown.
    fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            lines.push(shown(&line));
        }
        // One that never ends its line must not fill the memory.
        if self.pending.len() > 64 << 10 {
            lines.push(shown(&std::mem::take(&mut self.pending)));
        }
        lines
    }

    fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| shown(&rest))
    }
}

fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    // What overwrites a line counts as its last state.
    printable(text.rsplit('\r').next().unwrap_or(text)).into_owned()
}

#[derive(Debug, Default)]
struct Plain {
    steps: Mutex<HashMap<usize, Step>>,
}

impl Progress for Plain {
    fn event(&self, event: &Event<'_>) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::io::stderr().lock();
        // Whoever reads the progress may go before the end.
        let _ = match event {
            Event::Started { step, name } => {
                let step_of = Step::new(name);
                let written = writeln!(out, "#{step} {}", step_of.name);
                steps.insert(*step, step_of);
                written
            }
            Event::Output { step, bytes, .. } => match steps.get_mut(step) {
                None => Ok(()),
                Some(of) => {
                    let since = of.begin.elapsed().as_secs_f64();
                    let mut lines = of.lines(bytes).into_iter();
                    lines.try_for_each(|line| writeln!(out, "#{step} {since:.3} {line}"))
                }
            },
            Event::Status { step, text } => writeln!(out, "#{step} {}", printable(text)),
            Event::Ended { step, end } => {
                let since = steps
                    .get(step)
                    .map_or(0.0, |of| of.begin.elapsed().as_secs_f64());
                if let Some(line) = steps.get_mut(step).and_then(Step::rest) {
                    let _ = writeln!(out, "#{step} {since:.3} {line}");
                }
                match end {
                    End::Done(time) => writeln!(out, "#{step} DONE {:.1}s\n", time.as_secs_f64()),
                    End::Cached => writeln!(out, "#{step} CACHED\n"),
                    End::Cancelled => writeln!(out, "#{step} CANCELED\n"),
                    End::Failed(text) => {
                        writeln!(out, "#{step} ERROR: {}\n", printable(first_line(text)))
                    }
                }
            }
            Event::Warning { rule, text, place } => {
                writeln!(
                    out,
                    "WARN: {rule}: {} (line {})",
                    printable(text),
                    place.line
                )
            }
            _ => Ok(()),
        };
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A line for each step that runs, with its last words.
#[derive(Debug, Default)]
struct Moving {
    screen: MultiProgress,
    steps: Mutex<HashMap<usize, (Step, ProgressBar)>>,
}

impl Progress for Moving {
    fn event(&self, event: &Event<'_>) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { step, name } => {
                let bar = self.screen.add(ProgressBar::new_spinner());
                let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                let of = Step::new(name);
                bar.set_prefix(of.name.clone());
                bar.enable_steady_tick(Duration::from_millis(120));
                steps.insert(*step, (of, bar));
            }
            Event::Output { step, bytes, .. } => {
                if let Some((of, bar)) = steps.get_mut(step)
                    && let Some(line) = of.lines(bytes).pop()
                {
                    bar.set_message(line);
                }
            }
            Event::Status { step, text } => {
                if let Some((_, bar)) = steps.get(step) {
                    bar.set_message(printable(text).into_owned());
                }
            }
            Event::Ended { step, end } => {
                if let Some((of, bar)) = steps.remove(step) {
                    bar.finish_and_clear();
                    let line = match end {
                        End::Done(time) => format!(" => {} {:.1}s", of.name, time.as_secs_f64()),
                        End::Cached => format!(" => CACHED {}", of.name),
                        End::Cancelled => format!(" => CANCELED {}", of.name),
                        End::Failed(_) => format!(" => ERROR {}", of.name),
                    };
                    // A screen that cannot be drawn on is no reason to fail a build.
                    let _ = self.screen.println(line);
                }
            }
            Event::Warning { rule, text, place } => {
                let line = format!(" ! {rule}: {} (line {})", printable(text), place.line);
                let _ = self.screen.println(line);
            }
            _ => {}
        }
    }
}

/// BuildKit's `SolveStatus`, an object a line.
#[derive(Debug, Default)]
struct Json {
    names: Mutex<HashMap<usize, (String, jiff::Timestamp)>>,
}

impl Progress for Json {
    fn event(&self, event: &Event<'_>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let now = jiff::Timestamp::now();
        let digest = |step: &usize, name: &str| {
            isle_image::Digest::of(format!("{step} {name}").as_bytes()).to_string()
        };
        let object = match event {
            Event::Started { step, name } => {
                names.insert(*step, ((*name).to_owned(), now));
                json!({ "vertexes": [{ "digest": digest(step, name), "name": name, "started": now.to_string() }] })
            }
            Event::Output {
                step,
                is_stderr,
                bytes,
            } => {
                let Some((name, _)) = names.get(step) else {
                    return;
                };
                json!({ "logs": [{
                    "vertex": digest(step, name),
                    "stream": if *is_stderr { 2 } else { 1 },
                    "data": base64(bytes),
                    "timestamp": now.to_string(),
                }] })
            }
            Event::Status { step, text } => {
                let Some((name, started)) = names.get(step) else {
                    return;
                };
                json!({ "statuses": [{
                    "id": text,
                    "vertex": digest(step, name),
                    "timestamp": now.to_string(),
                    "started": started.to_string(),
                }] })
            }
            Event::Ended { step, end } => {
                let Some((name, started)) = names.get(step) else {
                    return;
                };
                let mut vertex = json!({
                    "digest": digest(step, name),
                    "name": name,
                    "started": started.to_string(),
                    "completed": now.to_string(),
                });
                match end {
                    End::Cached => vertex["cached"] = true.into(),
                    End::Failed(text) => vertex["error"] = (*text).into(),
                    End::Cancelled => vertex["error"] = "context canceled".into(),
                    End::Done(_) => {}
                }
                json!({ "vertexes": [vertex] })
            }
            Event::Warning { rule, text, place } => json!({ "warnings": [{
                "level": 1,
                "short": base64(format!("{rule}: {text} (line {})", place.line).as_bytes()),
            }] }),
            _ => return,
        };
        // Whoever reads the progress may go before the end.
        let _ = writeln!(std::io::stderr().lock(), "{object}");
    }
}

/// Go writes bytes so.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| (word << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => text.push(LETTERS[(word >> (18 - 6 * place)) as usize & 63].into()),
                false => text.push('='),
            }
        }
    }
    text
}
