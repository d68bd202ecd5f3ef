//! One call of a program, and what came of it.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::{PATIENCE, Terminal, wait_for};

/// A program about to be called.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    stdin: Option<Vec<u8>>,
}

impl Invocation {
    /// Any program: the tests' other tools are called like `isle` is.
    #[must_use]
    pub fn new(command: Command) -> Invocation {
        Invocation {
            command,
            stdin: None,
        }
    }

    /// What it reads from its standard input; nothing when not given.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Invocation {
        self.stdin = Some(bytes.into());
        self
    }

    /// Further arguments.
    #[must_use]
    pub fn arguments<S: AsRef<std::ffi::OsStr>>(
        mut self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Invocation {
        self.command.args(arguments);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Invocation {
        self.command.env(name, value);
        self
    }

    /// The same, called by another program, whose words these are: `unshare --mount isle …`.
    ///
    /// # Panics
    /// Without words.
    #[must_use]
    pub fn through(self, words: &[&str]) -> Invocation {
        let (program, arguments) = words.split_first().expect("the name of a program");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(self.command.get_program())
            .args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Invocation { command, ..self }
    }

    /// As one would type it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.command.get_program().to_string_lossy().into_owned();
        for argument in self.command.get_args() {
            let _ = write!(text, " {}", argument.to_string_lossy());
        }
        text
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn spawn(mut self) -> Running {
        let text = self.text();
        if self.stdin.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run `{text}`: {error}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin.take(), child.stdin.take()) {
            std::thread::spawn(move || {
                // A program may well end before it has read everything.
                let _ = pipe.write_all(&bytes);
            });
        }
        let stdout = Collector::new(child.stdout.take().expect("piped above"));
        let stderr = Collector::new(child.stderr.take().expect("piped above"));
        Running {
            text,
            child,
            stdout,
            stderr,
        }
    }

    /// Starts it on a terminal of its own.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn on_terminal(self) -> Terminal {
        Terminal::spawn(&self.command)
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it is not there or does not end.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.spawn().wait()
    }

    /// Runs it; returns what it printed, without the last line end.
    ///
    /// # Panics
    /// When it ends with another exit code than 0.
    #[track_caller]
    pub fn succeeds(self) -> String {
        self.exits_with(0).stdout().trim_end().to_owned()
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it ends with another exit code than this.
    #[track_caller]
    pub fn exits_with(self, code: i32) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.code(), code, "exit code of {outcome}");
        outcome
    }
}

/// How a call ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    text: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Outcome {
    /// As a shell sees it: 128 + n when a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => code,
            (None, signal) => 128 + signal.unwrap_or(0),
        }
    }

    /// What it wrote to its standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The same, byte for byte.
    #[must_use]
    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// What it wrote to its standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Checks that standard error says this.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn complains(&self, part: &str) -> &Outcome {
        assert!(
            self.stderr().to_lowercase().contains(&part.to_lowercase()),
            "no {part:?} in standard error of {self}"
        );
        self
    }

    /// Checks that standard output says this.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn prints(&self, part: &str) -> &Outcome {
        assert!(
            self.stdout().contains(part),
            "no {part:?} in standard output of {self}"
        );
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}`\n  ended with {}\n  standard output: {}\n  standard error: {}",
            self.text,
            self.code(),
            self.stdout().trim_end(),
            self.stderr().trim_end()
        )
    }
}

/// A call that goes on.
#[derive(Debug)]
pub struct Running {
    text: String,
    child: Child,
    stdout: Collector,
    stderr: Collector,
}

impl Running {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).expect("a child has a pid");
        rustix::process::kill_process(pid, signal).expect("the child is there");
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until its standard output contains this.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_output(&self, part: &str) {
        wait_for(&format!("{part:?} from `{}`", self.text), || {
            self.stdout().contains(part)
        });
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When the kernel does not know it.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When that takes longer than [`PATIENCE`] twice over.
    #[must_use]
    pub fn wait(mut self) -> Outcome {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                break status;
            }
            if begin.elapsed() > 2 * PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!(
                    "`{}` does not end; so far: {:?} {:?}",
                    self.text,
                    self.stdout(),
                    self.stderr()
                );
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        Outcome {
            text: self.text,
            status,
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
        }
    }
}

/// Reads a pipe to its end, so that the writer never waits for us.
#[derive(Debug)]
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn new(mut pipe: impl Read + Send + 'static) -> Collector {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count) = pipe.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                into.lock()
                    .expect("no reader panics")
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Collector { bytes, thread }
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("no reader panics");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything, up to the end of the pipe. A process that the program left behind may hold the
    /// pipe open: that is a mistake of the program (its caller would hang), found here.
    fn finish(self) -> Vec<u8> {
        wait_for("the end of output: somebody holds the pipe open", || {
            self.thread.is_finished()
        });
        let bytes = self.bytes.lock().expect("no reader panics");
        bytes.clone()
    }
}
