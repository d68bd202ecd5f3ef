//! `isle compose viz`: the project as a graph in the language of Graphviz.

use std::fmt::Write;
use std::process::ExitCode;

use isle_compose::Condition;

use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const EXAMPLES: &str = "  isle compose viz | dot -Tsvg > project.svg";

/// Flags of `compose viz`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The images of services
    #[arg(long)]
    image: bool,
    /// The networks of services
    #[arg(long)]
    networks: bool,
    /// The ports of services
    #[arg(long)]
    ports: bool,
    /// Spaces before each line
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    indentation_size: usize,
    /// Spaces instead of tabs
    #[arg(long)]
    spaces: bool,
}

/// A text in quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

pub fn run(args: &Args, flags: &ProjectFlags, _: &Context) -> Result {
    flags.no_dry_run("viz")?;
    let project = flags.load()?;
    let indent = match args.spaces {
        true => " ".repeat(args.indentation_size),
        false => "\t".repeat(args.indentation_size.div_ceil(2)),
    };
    let mut text = format!(
        "digraph {} {{\n{indent}layout=dot;\n{indent}node [shape=box];\n",
        quoted(&project.name)
    );
    for service in project.services.values() {
        let mut lines = vec![
            service.name.clone(),
            format!("isolation: {}", service.isolation()),
        ];
        if args.image {
            lines.push(format!("image: {}", service.image_name(&project.name)));
        }
        if args.networks && !service.networks.is_empty() {
            let names: Vec<&str> = service.networks.keys().map(String::as_str).collect();
            lines.push(format!("networks: {}", names.join(", ")));
        }
        if args.ports && !service.ports.is_empty() {
            let ports = service.ports.iter().map(|port| match &port.published {
                Some(published) => format!("{published}:{}/{}", port.target, port.protocol),
                None => format!("{}/{}", port.target, port.protocol),
            });
            lines.push(format!("ports: {}", ports.collect::<Vec<_>>().join(", ")));
        }
        // A wall of its own is drawn as one.
        let style = if service.isolation() == "vm" {
            ", peripheries=2"
        } else {
            ""
        };
        let label = quoted(&lines.join("\n")).replace('\n', "\\n");
        let _ = writeln!(
            text,
            "{indent}{} [label={label}{style}];",
            quoted(&service.name)
        );
    }
    for service in project.services.values() {
        for (other, dependency) in &service.depends_on {
            let label = match dependency.condition {
                Condition::ServiceStarted => "",
                Condition::ServiceHealthy => " [label=healthy]",
                Condition::ServiceCompletedSuccessfully => " [label=completed]",
            };
            let _ = writeln!(
                text,
                "{indent}{} -> {}{label};",
                quoted(&service.name),
                quoted(other)
            );
        }
    }
    text.push_str("}\n");
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
