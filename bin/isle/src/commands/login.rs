//! `isle login`.

use std::io::{self, BufRead, Read};
use std::process::ExitCode;

use isle_registry::{Client, Config, Credential, Secret, registry_of_server};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::output;

pub const ABOUT: &str = "Log in to a registry";
pub const EXAMPLES: &str = "  isle login ghcr.io
  echo \"$TOKEN\" | isle login -u ada --password-stdin registry.example.com";

/// Flags of `login`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password or access token; others can see it in the list of processes
    #[arg(short, long, value_name = "TEXT")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Registry; Docker Hub when not given
    server: Option<String>,
}

pub fn run(args: &Args, _context: &Context) -> Result {
    if args.password_stdin && args.password.is_some() {
        return Err(Failure::new("--password and --password-stdin are mutually exclusive")
            .hint("leave one of them out")
            .code(ENGINE)
            .into());
    }
    if args.password_stdin && args.username.is_none() {
        return Err(Failure::new("--password-stdin needs --username")
            .hint("add -u NAME: standard input has the password alone")
            .code(ENGINE)
            .into());
    }
    if args.password.is_some() {
        eprintln!(
            "isle: warning: a password on the command line can be seen by others\nhint: use --password-stdin"
        );
    }
    let registry = registry_of_server(args.server.as_deref());
    let username = match &args.username {
        Some(name) => name.clone(),
        None => ask("Username: ", true)?,
    };
    let password = match (&args.password, args.password_stdin) {
        (Some(password), _) => password.clone(),
        (None, true) => {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text)?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        (None, false) => ask("Password: ", false)?,
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new("user name and password must not be empty").into());
    }
    let client = Client::new(Config::of_host()?);
    let credential = Credential::Password {
        username,
        password: Secret::new(password),
    };
    let login = client.login(&registry, &credential)?;
    if let isle_registry::Keeper::File(path) = &login.keeper {
        eprintln!(
            "isle: warning: the credential is kept unencrypted in {}\nhint: set credsStore in that file to a credential helper",
            path.display()
        );
    }
    output::line("Login Succeeded")?;
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal, with or without showing what is typed.
fn ask(question: &str, shows: bool) -> Result<String> {
    let stdin = io::stdin();
    if !rustix::termios::isatty(&stdin) {
        return Err(Failure::new("cannot ask: standard input is not a terminal")
            .hint("give --username and --password-stdin")
            .into());
    }
    eprint!("{question}");
    let settings = tcgetattr(&stdin)?;
    if !shows {
        let mut silent = settings.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    }
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    if !shows {
        tcsetattr(&stdin, OptionalActions::Now, &settings)?;
        eprintln!();
    }
    read?;
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}
