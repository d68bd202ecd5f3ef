//! Standard output, for results only; everything else goes to standard error.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use isle_format::{Column, Listing, Row};

use crate::failure::{Failure, OutputClosed, Result, report};

/// Writes text to standard output.
pub fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// Writes a line to standard output.
pub fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes bytes to standard output, at once.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(closed)
}

/// A reader that has gone is no failure of ours.
pub fn closed(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => anyhow::Error::from(error).context("cannot write to standard output"),
    }
}

/// What the flags `--format`, `-q` and `--no-headers` of a list ask for.
#[derive(Clone, Copy, Debug)]
pub struct ListFlags<'a> {
    /// `--format`
    pub format: Option<&'a str>,
    /// `-q`: this field alone.
    pub only: Option<&'a str>,
    /// `--no-headers`
    pub without_titles: bool,
}

impl ListFlags<'_> {
    /// The form of the list; `default` are the columns of a table without template.
    pub fn listing(self, default: &[Column]) -> Result<Listing> {
        let listing = match (self.only, self.format) {
            // As in Docker, a template wins over -q.
            (Some(field), None | Some("" | "table")) => Listing::only(field)?,
            _ => Listing::new(self.format, default)?,
        };
        Ok(match self.without_titles {
            true => listing.without_titles(),
            false => listing,
        })
    }
}

/// The flags of a list that has nothing further to choose.
#[derive(clap::Args, Debug)]
pub struct Format {
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Without the title line
    #[arg(long)]
    no_headers: bool,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
}

impl Format {
    /// The form of the list; `default` are the columns of a table without template, the first of which `-q` asks for.
    pub fn listing(&self, default: &[Column]) -> Result<Listing> {
        let name = default.first().map(|column| column.field);
        ListFlags {
            format: self.format.as_deref(),
            only: name.filter(|_| self.quiet),
            without_titles: self.no_headers,
        }
        .listing(default)
    }
}

/// Prints rows.
pub fn list(listing: &Listing, columns: &[Column], rows: &[Row]) -> Result {
    print(&listing.render(columns, rows)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Does one thing to each of several names: all are tried, those that succeed are echoed, errors
/// are reported as they come, and any of them makes the exit code 1.
pub fn each(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result {
    each_silent(names, |name| {
        act(name)?;
        line(name)
    })
}

/// Like [`each`], without echo.
pub fn each_silent(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result {
    let mut code = 0;
    for name in names {
        if let Err(error) = act(name) {
            if error.downcast_ref::<OutputClosed>().is_some() {
                return Err(error);
            }
            code = code.max(report(&error, 1));
        }
    }
    Ok(ExitCode::from(code))
}

/// A file, or standard output unless that is a terminal, that an archive is written to.
pub enum Archive {
    /// `-o FILE`: written under another name and renamed when it is whole.
    File {
        /// Where it is written.
        file: io::BufWriter<tempfile::NamedTempFile>,
        /// What it is called at the end.
        path: std::path::PathBuf,
    },
    /// Standard output.
    Stdout {
        /// It.
        stdout: io::StdoutLock<'static>,
        /// Whoever read it has gone.
        is_closed: bool,
    },
}

impl Archive {
    /// Opens it.
    pub fn create(path: Option<&Path>) -> Result<Archive> {
        let Some(path) = path else {
            let stdout = io::stdout();
            if rustix::termios::isatty(&stdout) {
                return Err(Failure::new("cannot write an archive to a terminal")
                    .hint("use -o FILE, or redirect standard output")
                    .into());
            }
            return Ok(Archive::Stdout {
                stdout: stdout.lock(),
                is_closed: false,
            });
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".isle-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .tempfile_in(folder)
            .map_err(|error| {
                Failure::new(format!("cannot write {}", path.display()))
                    .hint("name a file in a directory that you can write")
                    .because(error)
            })?;
        Ok(Archive::File {
            file: io::BufWriter::with_capacity(256 << 10, file),
            path: path.to_owned(),
        })
    }

    /// Why it could not be filled: a reader that has gone is no failure of ours.
    pub fn failed(&self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        match self {
            Archive::Stdout {
                is_closed: true, ..
            } => OutputClosed.into(),
            _ => error.into(),
        }
    }

    /// Makes it whole.
    pub fn finish(self) -> Result<()> {
        match self {
            Archive::Stdout { mut stdout, .. } => stdout.flush().map_err(closed),
            Archive::File { file, path } => {
                let write = || {
                    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                    file.persist(&path).map_err(|error| error.error)?;
                    Ok::<_, io::Error>(())
                };
                write().map_err(|error| {
                    Failure::new(format!("cannot write {}", path.display()))
                        .because(error)
                        .into()
                })
            }
        }
    }
}

impl Write for Archive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Archive::File { file, .. } => file.write(bytes),
            Archive::Stdout { stdout, is_closed } => {
                let written = stdout.write(bytes);
                *is_closed |= written
                    .as_ref()
                    .is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
                written
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Archive::File { file, .. } => file.flush(),
            Archive::Stdout { stdout, .. } => stdout.flush(),
        }
    }
}

/// Asks on the terminal; anything but yes is no.
pub fn confirm(question: &str) -> Result<bool> {
    eprint!("{question}\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// With an ellipsis where something is left out.
pub fn shorten(text: &str, limit: usize) -> String {
    match text.chars().count() > limit {
        true => text.chars().take(limit - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
