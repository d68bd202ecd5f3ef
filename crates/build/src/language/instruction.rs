//! What a Dockerfile consists of. Words are as they were written: variables not replaced, quotes in place.

use super::lines::{Heredoc, Place};

/// One `FROM` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Where its `FROM` is.
    pub place: Place,
    /// The image, the name of an earlier stage, or `scratch`.
    pub base: String,
    /// `--platform`
    pub platform: Option<String>,
    /// `AS name`, in lower case.
    pub name: Option<String>,
    /// The `FROM` as it was written.
    pub source: String,
    /// In their order.
    pub items: Vec<Item>,
}

/// An instruction with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it begins.
    pub place: Place,
    /// Where it ends.
    pub last_line: usize,
    /// As it was written, on one line, without heredocs.
    pub source: String,
    /// What it says.
    pub instruction: Instruction,
}

/// `["a", "b"]`, or a line for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// For the shell.
    Shell(String),
    /// Program and arguments.
    Exec(Vec<String>),
}

/// `KEY=value`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The part before the `=`.
    pub key: String,
    /// The part behind it.
    pub value: String,
}

/// `ARG name[=default]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDefinition {
    /// Its name.
    pub name: String,
    /// Its value when none is given.
    pub default: Option<String>,
}

/// Where `COPY` and `ADD` take from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern in the context, an address, a git repository.
    Path(String),
    /// A heredoc.
    Inline(Inline),
}

/// A file whose content is in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inline {
    /// The file's name.
    pub name: String,
    /// Its content.
    pub content: String,
    /// Whether variables are replaced in it.
    pub expands: bool,
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyInstruction {
    /// `--from`
    pub from: Option<String>,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
    /// `--checksum`, of `ADD`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`, of `ADD`.
    pub keep_git_dir: bool,
    /// `--unpack`, of `ADD`.
    pub unpack: Option<bool>,
    /// What is copied.
    pub sources: Vec<CopySource>,
    /// To where.
    pub destination: String,
}

/// `RUN`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInstruction {
    /// What runs.
    pub command: Command,
    /// Its heredocs.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`
    pub mounts: Vec<String>,
    /// `--network`
    pub network: Option<String>,
    /// `--security`
    pub security: Option<String>,
    /// `--device`
    pub devices: Vec<String>,
}

/// One instruction of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ADD`
    Add(CopyInstruction),
    /// `ARG`
    Arg(Vec<ArgDefinition>),
    /// `CMD`
    Cmd(Command),
    /// `COPY`
    Copy(CopyInstruction),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `ENV`
    Env(Vec<Pair>),
    /// `EXPOSE`
    Expose(String),
    /// `HEALTHCHECK`, all behind the word.
    Healthcheck(String),
    /// `LABEL`
    Label(Vec<Pair>),
    /// `MAINTAINER`
    Maintainer(String),
    /// `ONBUILD`, the instruction that it is for.
    Onbuild(String),
    /// `RUN`
    Run(RunInstruction),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    Stopsignal(String),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Command),
    /// `WORKDIR`
    Workdir(String),
}

impl Instruction {
    /// Its word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Instruction::Add(_) => "ADD",
            Instruction::Arg(_) => "ARG",
            Instruction::Cmd(_) => "CMD",
            Instruction::Copy(_) => "COPY",
            Instruction::Entrypoint(_) => "ENTRYPOINT",
            Instruction::Env(_) => "ENV",
            Instruction::Expose(_) => "EXPOSE",
            Instruction::Healthcheck(_) => "HEALTHCHECK",
            Instruction::Label(_) => "LABEL",
            Instruction::Maintainer(_) => "MAINTAINER",
            Instruction::Onbuild(_) => "ONBUILD",
            Instruction::Run(_) => "RUN",
            Instruction::Shell(_) => "SHELL",
            Instruction::Stopsignal(_) => "STOPSIGNAL",
            Instruction::User(_) => "USER",
            Instruction::Volume(_) => "VOLUME",
            Instruction::Workdir(_) => "WORKDIR",
        }
    }
}
