//! `isle version`.

use std::process::ExitCode;

use isle_format::Template;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Show the version";
pub const EXAMPLES: &str = "  isle version
  isle version --format '{{.Client.Version}}'";

/// Flags of `version`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub fn run(args: &Args, _context: &Context) -> Result {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let value = json!({
        "Client": {
            "Version": env!("CARGO_PKG_VERSION"),
            "Os": std::env::consts::OS,
            "Arch": std::env::consts::ARCH,
            "KernelVersion": kernel,
        },
        // The engine is linked in: there is no daemon whose version could differ.
        "Server": {
            "Version": env!("CARGO_PKG_VERSION"),
            "Os": std::env::consts::OS,
            "Arch": std::env::consts::ARCH,
            "KernelVersion": kernel,
        },
    });
    show(args.format.as_deref(), &value, || {
        format!(
            "isle {}\n OS/Arch:  {}/{}\n Kernel:   {kernel}\n Daemon:   none needed\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
        )
    })
}

/// One object, by a template, as JSON, or in words.
pub fn show(format: Option<&str>, value: &Value, words: impl FnOnce() -> String) -> Result {
    match format {
        None | Some("") => output::print(&words())?,
        Some("json") => output::line(&value.to_string())?,
        Some(text) => output::line(&Template::parse(text)?.render(value)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
