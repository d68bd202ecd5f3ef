//! `list`: every container below `--root`.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::state::describe;
use crate::arguments::{Format, List};
use crate::container::Container;
use crate::log;
use crate::log::print;

pub(super) fn run(root: &Path, arguments: &List) -> anyhow::Result<u8> {
    let mut ids = Vec::new();
    match std::fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            let fail = || format!("cannot read {}", root.display());
            for entry in entries.with_context(fail)? {
                if let Ok(id) = entry.with_context(fail)?.file_name().into_string() {
                    ids.push(id);
                }
            }
        }
    }
    ids.sort();
    let mut containers = Vec::new();
    for id in ids {
        match Container::open(root, &id) {
            Ok(container) => containers.push(describe(&container)),
            // one that is damaged or just going must not hide the others
            Err(error) => log::warning(&format!("{error:#}")),
        }
    }
    let text = |value: &Value, key: &str| match &value[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if arguments.quiet {
        for container in &containers {
            print(&text(container, "id"))?;
        }
        return Ok(0);
    }
    if arguments.format == Format::Json {
        print(&Value::from(containers).to_string())?;
        return Ok(0);
    }
    let columns = ["id", "pid", "status", "bundle", "created", "owner"];
    let mut rows = vec![columns.map(str::to_uppercase)];
    for container in &containers {
        rows.push(columns.map(|column| text(container, column)));
    }
    for row in &rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[index].len()).max().unwrap_or(0);
            line.push_str(&format!("{cell:<width$}   "));
        }
        print(line.trim_end())?;
    }
    Ok(0)
}
