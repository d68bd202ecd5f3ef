//! `isle logs`.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use isle_engine::LogRequest;
use isle_format::human;
use jiff::Timestamp;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::FlagError;
use crate::flags::time::past_moment;
use crate::output;

pub const ABOUT: &str = "Show what an instance has written";
pub const EXAMPLES: &str = "  isle logs -f web
  isle logs --tail 100 --since 10m -t web
  isle logs web 2>/dev/null";

/// Flags of `logs`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines: a number, or all
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = tail, default_value = "all", allow_hyphen_values = true)]
    tail: Tail,
    /// Not before: a time, or 10m for the last ten minutes
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    since: Option<Timestamp>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    until: Option<Timestamp>,
    /// The time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Its labels before each line
    #[arg(long)]
    details: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    instance: String,
}

/// How many lines; `None` for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail(pub Option<usize>);

pub fn tail(text: &str) -> std::result::Result<Tail, FlagError> {
    match text {
        "all" | "" => Ok(Tail(None)),
        // Docker: a negative number is all.
        text if text.parse::<i64>().is_ok_and(|count| count < 0) => Ok(Tail(None)),
        text => text.parse().map(|count| Tail(Some(count))).map_err(|_| {
            FlagError::new(
                format!("{text:?} is not a number of lines"),
                "write a number, or all",
            )
        }),
    }
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instance = engine.find(&args.instance)?;
    let request = LogRequest {
        follow: args.follow,
        tail: args.tail.0,
        since: args.since,
        until: args.until,
        stdout: true,
        stderr: true,
    };
    let details: String = match args.details {
        true => {
            let pairs = instance.config.labels.iter();
            let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
            pairs.join(",") + " "
        }
        false => String::new(),
    };
    // Written line by line when followed, in large pieces otherwise.
    let mut stdout = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let mut stderr = io::stderr().lock();
    let mut starts_line = [true, true];
    for entry in engine.logs(&instance.id, &request)? {
        let entry = entry?;
        let stream = usize::from(entry.is_stderr);
        let mut bytes = Vec::with_capacity(entry.bytes.len() + 32);
        if starts_line[stream] {
            if args.timestamps {
                bytes.extend_from_slice(human::rfc3339(entry.time).as_bytes());
                bytes.push(b' ');
            }
            bytes.extend_from_slice(details.as_bytes());
        }
        starts_line[stream] = entry.bytes.ends_with(b"\n");
        bytes.extend_from_slice(&entry.bytes);
        let written = match entry.is_stderr {
            // A tty has one stream, and the order of the two is kept where they are one file.
            true => stdout.flush().and_then(|()| stderr.write_all(&bytes)),
            false => stdout.write_all(&bytes).and_then(|()| match args.follow {
                true => stdout.flush(),
                false => Ok(()),
            }),
        };
        written.map_err(output::closed)?;
    }
    stdout.flush().map_err(output::closed)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_takes_numbers_and_all() {
        assert_eq!(tail("all"), Ok(Tail(None)));
        assert_eq!(tail("-1"), Ok(Tail(None)));
        assert_eq!(tail("5"), Ok(Tail(Some(5))));
        tail("few").unwrap_err();
    }
}
