//! Programs of the host that get, unpack and compile things.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::KernelError;

/// Finds a program as a shell of root's would.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| {
            path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// A program with an environment that does not depend on the user's.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", search_path())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    for name in ["HOME", "http_proxy", "https_proxy", "no_proxy", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn output(purpose: &str, command: &mut Command) -> Result<String, KernelError> {
    lines(purpose, command, |_| {})
}

/// Runs a program to its end, hands over each line that it prints, and returns all of them.
///
/// # Errors
/// When it cannot be run or ends badly, with the last lines of its errors.
pub(crate) fn lines(
    purpose: &str,
    command: &mut Command,
    mut line: impl FnMut(&str),
) -> Result<String, KernelError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |how: String, said: String| KernelError::Program {
        purpose: purpose.to_owned(),
        program: program.clone(),
        how,
        said,
    };
    let cannot = |error: std::io::Error| failed(format!("cannot be run: {error}"), String::new());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let errors = child.stderr.take().expect("standard error is a pipe");
    let stdout = child.stdout.take().expect("standard output is a pipe");
    let (printed, said) = std::thread::scope(|scope| {
        let said = scope.spawn(|| last_lines(errors));
        let mut printed = String::new();
        for one in BufReader::new(stdout).lines().map_while(Result::ok) {
            line(&one);
            printed.push_str(&one);
            printed.push('\n');
        }
        (printed, said.join().expect("the thread does not panic"))
    });
    let status = child.wait().map_err(cannot)?;
    match status.success() {
        true => Ok(printed),
        false => Err(failed(format!("ended with {status}"), said)),
    }
}

/// The last lines of a stream, of which each is told on a line of its own.
fn last_lines(stream: impl Read) -> String {
    const COUNT: usize = 12;
    let mut last = std::collections::VecDeque::new();
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|count| count > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        last.push_back(text);
        if last.len() > COUNT {
            last.pop_front();
        }
    }
    last.iter().map(|line| format!("\n  {line}")).collect()
}

/// Programs (and C headers) with the Debian packages that have them.
pub(crate) fn require(purpose: &'static str, wanted: &[(&str, &str)]) -> Result<(), KernelError> {
    let mut missing = Vec::new();
    let mut packages = Vec::new();
    for (name, package) in wanted {
        let is_there = match name.strip_suffix(".h") {
            Some(_) => has_header(name),
            None => find(name).is_some(),
        };
        if !is_there {
            missing.push((*name).to_owned());
            packages.push((*package).to_owned());
        }
    }
    packages.dedup();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(KernelError::Missing {
            purpose,
            missing,
            packages,
        }),
    }
}

/// Whether the compiler finds a header. Without a compiler the compiler itself is what is missing.
fn has_header(name: &str) -> bool {
    let status = command("gcc")
        .args(["-include", name, "-x", "c", "-E", "/dev/null"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.map_or(true, |status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_the_last_lines() {
        let mut seen = Vec::new();
        let script = "echo one; echo two; for i in $(seq 20); do echo e$i >&2; done; exit 3";
        let error = lines("try", command("sh").args(["-c", script]), |line| {
            seen.push(line.to_owned());
        })
        .unwrap_err();
        assert_eq!(seen, ["one", "two"]);
        let text = error.to_string();
        assert!(
            text.starts_with("cannot try: sh ended with exit status: 3"),
            "{text}"
        );
        assert!(
            text.ends_with("\n  e20") && !text.contains("e8\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let wanted = [
            ("sh", "dash"),
            ("no-such-program", "package-a"),
            ("no-such-header.h", "package-b"),
        ];
        let error = require("do it", &wanted).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot do it: no-such-program, no-such-header.h are not installed"
        );
        assert_eq!(error.hint().unwrap(), "apt install package-a package-b");
    }
}
