//! Makes a real image, runs it, sends it a request, shows what happened.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::guest_kernel;
use crate::images::{self, Image};
use crate::programs::{self, Profile};
use crate::{command, setup};

/// How long the web server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A root of its own, which is taken away at the end, whatever happened.
struct Demo {
    isle: PathBuf,
    root: tempfile::TempDir,
}

impl Demo {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut isle = command::as_root("env");
        isle.arg(format!("ISLE_ROOT={}", self.root.path().display()));
        isle.arg(&self.isle).args(arguments).stdin(Stdio::null());
        isle
    }

    /// Like [`Demo::show`], and says how long it took.
    fn show_timed(&self, arguments: &[&str]) -> Result<()> {
        let begin = Instant::now();
        self.show(arguments)?;
        println!("({} ms)", begin.elapsed().as_millis());
        Ok(())
    }

    /// Shows a command as one types it, runs it, and shows what it prints.
    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!(
            "\n$ isle {}",
            arguments
                .iter()
                .map(|word| quoted(word))
                .collect::<Vec<_>>()
                .join(" ")
        );
        let status = self
            .command(arguments)
            .status()
            .context("cannot run isle")?;
        if !status.success() {
            bail!("`isle {}` ended with {status}", arguments.join(" "));
        }
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Harmless after a demonstration that went to its end.
        let _ = self
            .command(&["rm", "--force", "--volumes", "web", "own"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = command::as_root("rm")
            .arg("-rf")
            .arg(self.root.path())
            .status();
    }
}

pub fn run() -> Result<()> {
    setup::install(&["build", "demo"])?;
    println!("building isle (a few minutes the first time)");
    let programs = programs::build(Profile::Release)?;
    let description = images::make(&["nginx".to_owned()])?.remove(0);
    let image = Image::read(&description)?;
    let demo = Demo {
        isle: programs.path("isle"),
        root: tempfile::Builder::new()
            .prefix("isle-demo-")
            .tempdir_in("/var/tmp")?,
    };
    let kernel = guest_kernel::make(&programs)?;
    // It outlives the demonstration: the next one need not build it again.
    std::os::unix::fs::symlink(&kernel.kernels, demo.root.path().join("kernels"))?;
    let port = free_port()?;

    heading("An image, made from Debian packages by examples/nginx/recipe.toml");
    let mut import = vec!["import"];
    for change in &image.changes {
        import.extend(["--change", change]);
    }
    let rootfs = image.rootfs.to_string_lossy().into_owned();
    import.extend([rootfs.as_str(), "nginx"]);
    demo.show(&import)?;
    demo.show(&["images"])?;

    heading("A container of it");
    let published = format!("127.0.0.1:{port}:80");
    demo.show(&["run", "-d", "--name", "web", "-p", &published, "nginx"])?;

    heading("A request to it");
    show_request(port)?;

    heading("What happened");
    demo.show(&["ps"])?;
    demo.show(&["logs", "web"])?;
    demo.show(&["top", "web"])?;
    demo.show(&["stats", "--no-stream", "web"])?;
    demo.show(&["exec", "web", "cat", "/etc/os-release"])?;
    demo.show(&["diff", "web"])?;
    demo.show(&["stop", "web"])?;
    demo.show(&["ps", "-a"])?;
    demo.show(&["rm", "web"])?;

    heading("The same image with a kernel of its own");
    demo.show(&["kernel", "ls"])?;
    println!(
        "\n(the first virtual machine of an image and of a size takes longer: later ones are copies)"
    );
    let mut ports = Vec::new();
    for isolation in ["container", "vm", "vm"] {
        let uname = ["uname", "-r"];
        let mut words = vec!["run", "--rm", "--isolation", isolation, "nginx"];
        words.extend(uname);
        demo.show_timed(&words)?;
    }
    for (name, isolation) in [("web", "container"), ("own", "vm")] {
        let port = free_port()?.to_string();
        let published = format!("127.0.0.1:{port}:80");
        let words = ["--isolation", isolation, "-p", &published, "nginx"];
        demo.show_timed(&[&["run", "-d", "--name", name], &words[..]].concat())?;
        ports.push(port);
    }
    demo.show(&["ps"])?;
    demo.show(&["exec", "own", "uname", "-r"])?;
    println!("\n(both are on one network, and find each other by name)");
    demo.show(&["exec", "own", "getent", "hosts", "web"])?;
    demo.show(&["exec", "web", "getent", "hosts", "own"])?;
    show_request(ports.pop().context("two were published")?.parse()?)?;
    demo.show(&["stats", "--no-stream", "web", "own"])?;
    demo.show(&["rm", "--force", "web", "own"])?;
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// As a shell needs it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A port that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Asks for the first page, and shows what comes.
fn show_request(port: u16) -> Result<()> {
    println!("\nGET http://127.0.0.1:{port}/");
    println!("{}", get(port)?.trim_end());
    Ok(())
}

/// One HTTP request, repeated until the server listens.
fn get(port: u16) -> Result<String> {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                return Ok(answer.replace('\r', ""));
            }
            Err(error) if begin.elapsed() > PATIENCE => {
                return Err(error).with_context(|| format!("nothing answers at 127.0.0.1:{port}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_needs_it() {
        assert_eq!(quoted("--change"), "--change");
        assert_eq!(quoted("CMD [\"it's\"]"), r#"'CMD ["it'\''s"]'"#);
        assert_eq!(quoted(""), "''");
    }
}
