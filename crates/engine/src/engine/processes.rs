//! `top`: the processes of an instance, as ps(1) of the host shows them.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use isle_types::InstanceId;

use super::{Engine, EngineError, ProcessTable};
use crate::backend;
use crate::backend::inside::{Answer, Question};

impl Engine {
    /// Its processes, as ps(1) with the given options shows them (default `-ef`).
    ///
    /// # Errors
    /// When it does not run, or ps(1) refuses the options.
    pub fn top(&self, id: &InstanceId, ps_options: &[String]) -> Result<ProcessTable, EngineError> {
        let instance = self.current(id)?;
        self.connect("list the processes of", &instance)?;
        let fail = |reason: String| EngineError::ProcessList {
            name: instance.name.clone(),
            reason,
        };
        let question = Question::Processes {
            options: ps_options.to_vec(),
        };
        if let Some(Answer::Processes(table)) = self.ask_inside(&instance, "/", &question)? {
            return Ok(table);
        }
        let pids = backend::processes(&instance).map_err(|error| fail(error.to_string()))?;
        let mut command = Command::new("ps");
        match ps_options {
            [] => command.arg("-ef"),
            given => command.args(given),
        };
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|error| fail(format!("ps: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(fail(said.trim().to_owned()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        table(&text, &pids.into_iter().collect())
            .ok_or_else(|| fail("ps shows no PID column with these options".to_owned()))
    }
}

/// The rows of some processes; `None` when the table does not say which is which.
fn table(text: &str, pids: &BTreeSet<i32>) -> Option<ProcessTable> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()?
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let pid_column = titles.iter().position(|title| title == "PID")?;
    let rows = lines.filter_map(|line| {
        // The last column is the command, with its spaces.
        let mut row: Vec<String> = Vec::with_capacity(titles.len());
        let mut rest = line.trim_start();
        while row.len() + 1 < titles.len() {
            let (field, tail) = rest.split_once(char::is_whitespace)?;
            row.push(field.to_owned());
            rest = tail.trim_start();
        }
        row.push(rest.trim_end().to_owned());
        let pid: i32 = row.get(pid_column)?.parse().ok()?;
        pids.contains(&pid).then_some(row)
    });
    Some(ProcessTable {
        rows: rows.collect(),
        titles,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_processes_are_listed_and_commands_keep_their_spaces() {
        let text = "UID   PID  CMD\nroot    1  init\nwww    70  nginx: worker process\n";
        let found = table(text, &[70].into()).unwrap();
        assert_eq!(found.rows, [["www", "70", "nginx: worker process"]]);
        assert_eq!(table("CMD\nx\n", &[1].into()), None);
    }
}
