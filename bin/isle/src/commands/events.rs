//! `isle events`.

use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::Duration;

use isle_engine::{Engine, Event};
use isle_format::{Template, human};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::Filters;
use crate::flags::time::past_moment;
use crate::output;

pub const ABOUT: &str = "Show what happens, as it happens";
pub const EXAMPLES: &str = "  isle events --filter type=container --filter event=die
  isle events --since 1h --until 0s --format json";

/// Flags of `events`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only those that fit: container, event, image, label, type, volume
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// From then on: a time, or 10m for the last ten minutes
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    since: Option<Timestamp>,
    /// Until then, then end
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    until: Option<Timestamp>,
}

const FILTERS: [&str; 6] = ["container", "event", "image", "label", "type", "volume"];
/// A change that no notice told of (a file system without inotify) is seen after this time.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn run(args: &Args, context: &Context) -> Result {
    follow(args, context, |_| true)
}

/// Those alone that `is_wanted`, too.
pub fn follow(args: &Args, context: &Context, is_wanted: impl Fn(&Event) -> bool) -> Result {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let as_json = args.format.as_deref() == Some("json");
    let engine = context.engine()?;
    let mut notices = Notices::new(context)?;
    let mut after = match args.since.is_some() || args.until.is_some() {
        true => 0,
        false => last(engine)?,
    };
    loop {
        for event in engine.events(after)? {
            after = event.sequence;
            let is_in_time = args.since.is_none_or(|since| event.time >= since)
                && args.until.is_none_or(|until| event.time <= until);
            if !is_in_time || !fits(&event, &filters) || !is_wanted(&event) {
                continue;
            }
            let line = match &template {
                Some(template) => template.render(&as_docker(&event))?,
                None if as_json => as_docker(&event).to_string(),
                None => text(&event),
            };
            output::line(&line)?;
        }
        let left = match args.until {
            None => PATIENCE,
            Some(until) if until <= Timestamp::now() => return Ok(ExitCode::SUCCESS),
            Some(until) => PATIENCE.min(human::elapsed(Timestamp::now(), until)),
        };
        notices.wait(left)?;
    }
}

fn last(engine: &Engine) -> Result<u64> {
    Ok(engine.events(0)?.last().map_or(0, |event| event.sequence))
}

/// Tells when the state file may have changed, at no cost while it does not.
struct Notices {
    inotify: std::os::fd::OwnedFd,
}

impl Notices {
    fn new(context: &Context) -> Result<Notices> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let watched = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&inotify, context.paths().root, watched)?;
        Ok(Notices { inotify })
    }

    fn wait(&mut self, limit: Duration) -> Result<()> {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        poll(&mut fds, Some(&limit))?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while reader.next().is_ok() {}
        Ok(())
    }
}

fn fits(event: &Event, filters: &Filters) -> bool {
    let name = event.attributes.get("name").map(String::as_str);
    let image = event.attributes.get("image").map(String::as_str);
    filters.labels_fit(&event.attributes)
        && filters.fits("type", |wanted| wanted == event.kind)
        // `health_status` stands for `health_status: healthy` too.
        && filters.fits("event", |wanted| {
            event.action == wanted || event.action.split(':').next() == Some(wanted)
        })
        && filters.fits("container", |wanted| {
            event.kind == "container" && (name == Some(wanted) || event.id.starts_with(wanted))
        })
        && filters.fits("volume", |wanted| event.kind == "volume" && event.id == wanted)
        && filters.fits("image", |wanted| {
            image == Some(wanted) || (event.kind == "image" && name == Some(wanted))
        })
}

/// As the Engine API has it.
fn as_docker(event: &Event) -> Value {
    json!({
        "status": event.action,
        "id": event.id,
        "from": event.attributes.get("image"),
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "ID": event.id,
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": event.time.as_nanosecond() as i64,
    })
}

fn text(event: &Event) -> String {
    let attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(" ({})", attributes.join(", ")),
    };
    format!(
        "{} {} {} {}{attributes}",
        human::rfc3339(event.time),
        event.kind,
        event.action,
        event.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            sequence: 1,
            time: "2026-11-21T12:00:00Z".parse().unwrap(),
            kind: "container".into(),
            action: "health_status: healthy".into(),
            id: "abc".into(),
            attributes: [("name", "web"), ("image", "nginx")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn an_event_is_a_line_as_dockers() {
        assert_eq!(
            text(&event()),
            "2026-11-21T12:00:00.000000000Z container health_status: healthy abc (image=nginx, name=web)"
        );
        assert_eq!(as_docker(&event())["Actor"]["Attributes"]["name"], "web");
    }

    #[test]
    fn filters_choose() {
        for (filter, expected) in [
            ("type=container", true),
            ("type=image", false),
            ("event=health_status", true),
            ("event=die", false),
            ("container=web", true),
            ("container=ab", true),
            ("container=db", false),
            ("image=nginx", true),
        ] {
            let filters = Filters::parse(&[filter.to_owned()], &FILTERS).unwrap();
            assert_eq!(fits(&event(), &filters), expected, "{filter}");
        }
    }
}
