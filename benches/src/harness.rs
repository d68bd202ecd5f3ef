//! Measures columns interleaved, keeps the raw data, prints a table.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{WaitOptions, waitpid};

/// What holds for all benchmarks of one call.
pub struct Settings {
    /// Measured runs of each column.
    pub runs: usize,
    /// Where raw data goes.
    pub output: PathBuf,
    /// Columns to leave out.
    pub without: Vec<String>,
}

impl Settings {
    pub fn wants(&self, column: &str) -> bool {
        !self
            .without
            .iter()
            .any(|word| column.contains(word.as_str()))
    }
}

/// One benchmark.
pub struct Benchmark<'a> {
    /// The promise: `P1`.
    pub id: &'a str,
    /// One line.
    pub title: &'a str,
    /// What the start and the end are.
    pub span: &'a str,
    /// Runs of each column that are not counted.
    pub warm_up: usize,
    /// Measured runs.
    pub runs: usize,
    pub columns: Vec<Column<'a>>,
}

/// One contender. The first of a benchmark is what ratios refer to.
pub struct Column<'a> {
    pub name: String,
    /// What is timed.
    pub action: Box<dyn FnMut() -> Result<()> + 'a>,
    /// What puts things back afterwards, not timed.
    pub after: Box<dyn FnMut() -> Result<()> + 'a>,
    /// Daemons that work for it; their CPU time counts.
    pub daemons: Vec<u32>,
}

impl<'a> Column<'a> {
    pub fn new(name: impl Into<String>, action: impl FnMut() -> Result<()> + 'a) -> Column<'a> {
        Column {
            name: name.into(),
            action: Box::new(action),
            after: Box::new(|| Ok(())),
            daemons: Vec::new(),
        }
    }

    pub fn after(mut self, after: impl FnMut() -> Result<()> + 'a) -> Column<'a> {
        self.after = Box::new(after);
        self
    }

    pub fn daemons(mut self, daemons: Vec<u32>) -> Column<'a> {
        self.daemons = daemons;
        self
    }
}

#[derive(Clone, Copy)]
struct Sample {
    wall: Duration,
    cpu: Duration,
}

/// Runs the benchmark, writes its raw data and prints its table.
pub fn measure(settings: &Settings, benchmark: Benchmark<'_>) -> Result<()> {
    let Benchmark {
        id,
        title,
        span,
        warm_up,
        runs,
        columns,
    } = benchmark;
    let mut columns: Vec<Column<'_>> = columns
        .into_iter()
        .filter(|column| settings.wants(&column.name))
        .collect();
    println!("\n### {id}: {title}\n\n{span}\n");
    // One that cannot do it at all on this host is named, and left out.
    let mut able = Vec::new();
    for mut column in columns.drain(..) {
        match (column.action)().and_then(|()| (column.after)()) {
            Ok(()) => able.push(column),
            Err(error) => println!("Left out: {}: {error:#}\n", column.name),
        }
    }
    if able.is_empty() {
        bail!("{id}: no column can be measured");
    }
    let mut samples: Vec<Vec<Sample>> = able.iter().map(|_| Vec::new()).collect();
    for round in 0..warm_up + runs {
        for (column, samples) in able.iter_mut().zip(&mut samples) {
            let sample = take(column).with_context(|| format!("{id}: {}", column.name))?;
            if round >= warm_up {
                samples.push(sample);
            }
        }
    }
    let mut csv = String::from("column,run,wall_us,cpu_us\n");
    for (column, samples) in able.iter().zip(&samples) {
        for (run, sample) in samples.iter().enumerate() {
            writeln!(
                csv,
                "{},{run},{},{}",
                column.name,
                sample.wall.as_micros(),
                sample.cpu.as_micros()
            )?;
        }
    }
    fs::write(settings.output.join(format!("{id}.csv")), csv)?;
    println!(
        "| column | runs | p50 | p95 | p99 | CPU a run | p50 beside {} |",
        able[0].name
    );
    println!("|---|---|---|---|---|---|---|");
    let reference = percentile(&samples[0], 50);
    for (column, samples) in able.iter().zip(&samples) {
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.2} × |",
            column.name,
            samples.len(),
            milliseconds(percentile(samples, 50)),
            milliseconds(percentile(samples, 95)),
            milliseconds(percentile(samples, 99)),
            milliseconds(mean_cpu(samples)),
            percentile(samples, 50).as_secs_f64() / reference.as_secs_f64(),
        );
    }
    Ok(())
}

fn take(column: &mut Column<'_>) -> Result<Sample> {
    let cpu_before = isle_sys::resource_usage::of_children()? + cpu_of(&column.daemons);
    let begin = Instant::now();
    (column.action)()?;
    let wall = begin.elapsed();
    reap_orphans();
    let cpu = isle_sys::resource_usage::of_children()? + cpu_of(&column.daemons);
    (column.after)()?;
    reap_orphans();
    Ok(Sample {
        wall,
        cpu: cpu.saturating_sub(cpu_before),
    })
}

/// The smallest value that at least so many percent of the samples do not exceed.
fn percentile(samples: &[Sample], percent: usize) -> Duration {
    let mut times: Vec<Duration> = samples.iter().map(|sample| sample.wall).collect();
    times.sort();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times[rank - 1]
}

fn mean_cpu(samples: &[Sample]) -> Duration {
    let total: Duration = samples.iter().map(|sample| sample.cpu).sum();
    total / u32::try_from(samples.len()).expect("a few samples")
}

pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Supervisors leave the program that made them. They become children of this process instead of
/// init's, so that their CPU time is counted like that of every other child.
pub fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
        .context("cannot become a subreaper")
}

/// Supervisors of what has just ended are about to end too: waits a moment for them.
fn reap_orphans() {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(30) {
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return,
        }
    }
}

/// CPU time of all threads of these processes, from /proc/<pid>/task/<tid>/schedstat.
fn cpu_of(daemons: &[u32]) -> Duration {
    let mut total = 0;
    for pid in daemons {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let nanoseconds = text
                .split(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok());
            total += nanoseconds.unwrap_or(0);
        }
    }
    Duration::from_nanos(total)
}

/// Runs a command without its output; an error holds what it said on standard error, which is a
/// file: a container that outlives the command would hold a pipe open.
pub fn quietly(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut said = tempfile::tempfile()?;
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        let mut text = String::new();
        said.rewind()?;
        said.read_to_string(&mut text)?;
        bail!("{program} ended with {status}: {}", text.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_measured() {
        let samples: Vec<Sample> = (1..=40)
            .map(|wall| Sample {
                wall: Duration::from_millis(wall),
                cpu: Duration::ZERO,
            })
            .collect();
        assert_eq!(percentile(&samples, 50), Duration::from_millis(20));
        assert_eq!(percentile(&samples, 95), Duration::from_millis(38));
        assert_eq!(percentile(&samples, 99), Duration::from_millis(40));
    }
}
