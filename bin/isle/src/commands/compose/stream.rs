//! What several instances write, line by line, each with a name in front.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::Sender;
use std::time::Duration;

use isle_engine::state::{Instance, Status};
use isle_engine::{Engine, LogRequest, Paths};
use isle_format::human;
use isle_types::InstanceId;
use jiff::Timestamp;

use super::session::Ansi;
use crate::failure::Result;
use crate::output;

/// What a reader of logs has to tell.
pub enum Told {
    /// A line of an instance, with its end.
    Line {
        name: String,
        time: Timestamp,
        bytes: Vec<u8>,
    },
    /// An instance has ended for good.
    Ended {
        name: String,
        service: String,
        code: i32,
    },
    /// Its log cannot be read.
    Failed { name: String, error: anyhow::Error },
    /// The user wants an end, so often until now.
    Interrupted(usize),
}

/// How long a piece without a line's end waits for the rest: none is longer than this many bytes.
const LONGEST: usize = 64 << 10;

/// Reads the log of an instance in a thread of its own, until it has ended for good.
pub fn read(
    paths: Paths,
    instance: &Instance,
    short: String,
    request: LogRequest,
    sender: Sender<Told>,
) {
    let id = instance.id;
    let service = super::session::service_of(instance).to_owned();
    std::thread::spawn(move || {
        let name = short;
        match follow(paths, &id, &name, request, &sender) {
            Ok(code) => drop(sender.send(Told::Ended {
                name,
                service,
                code,
            })),
            Err(error) => drop(sender.send(Told::Failed { name, error })),
        }
    });
}

fn follow(
    paths: Paths,
    id: &InstanceId,
    name: &str,
    mut request: LogRequest,
    sender: &Sender<Told>,
) -> Result<i32> {
    let engine = Engine::open(paths)?;
    let follows = request.follow;
    loop {
        let mut open: [Vec<u8>; 2] = Default::default();
        let mut last = None;
        for entry in engine.logs(id, &request)? {
            let entry = entry?;
            last = Some(entry.time);
            let piece = &mut open[usize::from(entry.is_stderr)];
            piece.extend_from_slice(&entry.bytes);
            if piece.ends_with(b"\n") || piece.len() >= LONGEST {
                let told = Told::Line {
                    name: name.to_owned(),
                    time: entry.time,
                    bytes: std::mem::take(piece),
                };
                if sender.send(told).is_err() {
                    return Ok(0);
                }
            }
        }
        for bytes in open {
            if !bytes.is_empty() {
                let time = last.unwrap_or_default();
                drop(sender.send(Told::Line {
                    name: name.to_owned(),
                    time,
                    bytes,
                }));
            }
        }
        let state = match engine.find(&id.to_string()) {
            Ok(instance) => instance.state,
            // `down` has taken it away.
            Err(_) => return Ok(0),
        };
        match state.status {
            _ if !follows => return Ok(0),
            Status::Exited | Status::Removing | Status::Created => {
                return Ok(state.exit.map_or(0, |exit| exit.code));
            }
            Status::Running | Status::Paused | Status::Restarting => {}
        }
        // It is started again: what comes after the last line.
        request.tail = None;
        if let Some(last) = last {
            request.since = last.checked_add(jiff::SignedDuration::from_nanos(1)).ok();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Prints lines with names.
pub struct Printer {
    width: usize,
    has_colour: bool,
    has_prefix: bool,
    has_time: bool,
    names: Vec<String>,
}

/// As Docker Compose: cyan, yellow, green, magenta, blue, and their bright ones.
const COLOURS: [&str; 10] = [
    "36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1",
];

impl Printer {
    /// For instances of these names.
    pub fn new(
        names: &[String],
        ansi: Ansi,
        no_colour: bool,
        no_prefix: bool,
        has_time: bool,
    ) -> Printer {
        let has_colour = match ansi {
            _ if no_colour => false,
            Ansi::Never => false,
            Ansi::Always => true,
            Ansi::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        Printer {
            width: names.iter().map(String::len).max().unwrap_or(0),
            has_colour,
            has_prefix: !no_prefix,
            has_time,
            names: names.to_vec(),
        }
    }

    fn prefix(&self, name: &str) -> String {
        if !self.has_prefix {
            return String::new();
        }
        let padded = format!("{name:<width$}  | ", width = self.width);
        let index = self.names.iter().position(|other| other == name);
        match (self.has_colour, index) {
            (true, Some(index)) => {
                format!("\x1b[{}m{padded}\x1b[0m", COLOURS[index % COLOURS.len()])
            }
            _ => padded,
        }
    }

    /// One line.
    pub fn line(&self, name: &str, time: Timestamp, bytes: &[u8]) -> Result<()> {
        let mut text = self.prefix(name).into_bytes();
        if self.has_time {
            text.extend_from_slice(human::rfc3339(time).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(bytes);
        if !bytes.ends_with(b"\n") {
            text.push(b'\n');
        }
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(&text)
            .and_then(|()| stdout.flush())
            .map_err(output::closed)
    }

    /// How an instance has ended.
    pub fn ended(&self, name: &str, code: i32) -> Result<()> {
        let line = format!("{name} exited with code {code}\n");
        let line = match self.has_prefix {
            true => line,
            false => return Ok(()),
        };
        output::write(line.as_bytes())
    }
}
