//! `isle doctor`.

use std::process::ExitCode;

use isle_doctor::{Check, Report, Section, State};
use isle_format::human;
use serde_json::Value;

use super::version::show;
use crate::context::Context;
use crate::failure::Result;

pub const ABOUT: &str = "Look at what the host can do, and say how to get what is missing";
pub const EXAMPLES: &str = "  isle doctor
  isle doctor --format json";

/// Flags of `doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// json for one object with all findings, or a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// In the order of the report.
const SECTIONS: [Section; 7] = [
    Section::Kernel,
    Section::Cgroups,
    Section::Privileges,
    Section::Storage,
    Section::Network,
    Section::Virtualization,
    Section::Programs,
];

pub fn run(args: &Args, context: &Context) -> Result {
    let report = isle_doctor::examine(&context.paths().root);
    let value: Value = serde_json::to_value(&report)?;
    show(args.format.as_deref(), &value, || words(&report))?;
    // No level at all: nothing can be run here.
    Ok(match report.levels.iter().any(|level| level.is_available) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// For people.
fn words(report: &Report) -> String {
    let host = &report.host;
    let mut text = format!(
        "{}, Linux {}, {}, {} processors, {} of memory\n",
        host.operating_system,
        host.kernel,
        host.architecture,
        host.processors,
        human::binary_size(host.memory_bytes),
    );
    for section in SECTIONS {
        let checks: Vec<&Check> = report.section(section).collect();
        if checks.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{}\n", section.title()));
        let width = checks.iter().map(|check| check.name.chars().count()).max();
        let width = width.unwrap_or(0);
        for check in checks {
            text.push_str(&check_words(check, width));
        }
    }
    text.push_str("\nLevels of isolation\n");
    for level in &report.levels {
        let state = match (level.is_available, level.is_host_ready) {
            (true, _) => "available",
            (false, true) => "not in this version; the host has what it needs",
            (false, false) => "not available",
        };
        text.push_str(&format!("  {:<10} {state}\n", level.isolation));
        for note in &level.notes {
            text.push_str(&format!("  {:<10}   {note}\n", ""));
        }
    }
    let missing = report
        .checks
        .iter()
        .filter(|check| matches!(check.state, State::Missing | State::Unusable))
        .count();
    text.push_str(&match missing {
        0 => "\nNothing is missing.\n".to_owned(),
        1 => "\nOne thing is missing or unusable.\n".to_owned(),
        count => format!("\n{count} things are missing or unusable.\n"),
    });
    text
}

fn check_words(check: &Check, width: usize) -> String {
    let mark = match check.state {
        State::Ok => "ok ",
        State::NotNeeded => "-- ",
        State::Missing => "no ",
        State::Unusable => "!! ",
    };
    let mut line = format!("  {mark} {:<width$}", check.name);
    if !check.found.is_empty() {
        line.push_str(&format!("  {}", check.found));
    }
    let mut text = line.trim_end().to_owned() + "\n";
    if matches!(check.state, State::Missing | State::Unusable) {
        let indent = " ".repeat(width + 8);
        if !check.meaning.is_empty() {
            text.push_str(&format!("{indent}{}\n", check.meaning));
        }
        if !check.needed_by.is_empty() {
            text.push_str(&format!("{indent}needed by: {}\n", check.needed_by.join(", ")));
        }
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("{indent}remedy: {remedy}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_shown_with_its_remedy() {
        let check = Check {
            section: Section::Programs,
            name: "qemu".into(),
            state: State::Missing,
            found: String::new(),
            meaning: "runs virtual machines".into(),
            needed_by: vec!["vm".into()],
            remedy: Some("apt-get install qemu-system-x86".into()),
        };
        let text = check_words(&check, 4);
        assert_eq!(
            text,
            "  no  qemu\n            runs virtual machines\n            needed by: vm\n            remedy: apt-get install qemu-system-x86\n"
        );
        let fine = Check {
            state: State::Ok,
            found: "7.2".into(),
            ..check
        };
        assert_eq!(check_words(&fine, 6), "  ok  qemu    7.2\n");
    }
}
