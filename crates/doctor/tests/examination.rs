//! The examination of this host.

#![allow(clippy::unwrap_used, reason = "tests")]

use isle_doctor::{Report, Section, State, examine};

#[test]
fn every_section_is_examined_and_every_lack_has_a_remedy() {
    let root = tempfile::tempdir().unwrap();
    let report = examine(root.path());
    for section in [
        Section::Kernel,
        Section::Cgroups,
        Section::Privileges,
        Section::Storage,
        Section::Network,
        Section::Virtualization,
        Section::Programs,
    ] {
        assert!(report.section(section).count() > 0, "{section:?}");
    }
    for check in &report.checks {
        assert!(!check.found.is_empty(), "{check:?}");
        assert!(!check.meaning.is_empty(), "{check:?}");
        assert!(!check.needed_by.is_empty(), "{check:?}");
        let lacks = matches!(check.state, State::Missing | State::Unusable);
        assert_eq!(lacks, check.remedy.is_some(), "{check:?}");
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn the_report_survives_json() {
    let root = tempfile::tempdir().unwrap();
    let report = examine(root.path());
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.contains("\"neededBy\""));
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn a_level_that_is_not_available_says_why() {
    let report = examine("/nonexistent/state".as_ref());
    let names: Vec<&str> = report.levels.iter().map(|l| l.isolation.as_str()).collect();
    assert_eq!(names, ["container", "sandbox", "vm", "wasm"]);
    for level in &report.levels {
        assert!(level.is_available || !level.notes.is_empty(), "{level:?}");
    }
}
