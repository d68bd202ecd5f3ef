//! `isle setup`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use isle_setup::{Engine, Host, Node, Plan, Runtimes, Wish};

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;

pub const ABOUT: &str = "Have another engine use Isle as its runtime";
pub const EXAMPLES: &str = "  isle setup docker
  isle setup docker --default vm --yes
  isle setup podman --dry-run
  isle setup kubernetes --node cri-o
  isle setup docker --undo";

/// Flags of `setup`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The engine
    engine: EngineWord,
    /// The level that it runs containers at when it is told none
    #[arg(long, value_name = "LEVEL")]
    default: Option<LevelWord>,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Have everything as it was before
    #[arg(long, conflicts_with_all = ["default", "config", "oci", "node"])]
    undo: bool,
    /// The engine's configuration file, when it is not the usual one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The host whose root folder this is, in place of this one
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// The program isle-oci, when it is not beside isle
    #[arg(long, value_name = "FILE")]
    oci: Option<PathBuf>,
    /// For kubernetes: what runs containers on this node [default: cri-o if it is there, else containerd]
    #[arg(long, value_name = "RUNTIME")]
    node: Option<NodeWord>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineWord {
    Docker,
    Podman,
    Containerd,
    Kubernetes,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelWord {
    Container,
    Vm,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NodeWord {
    Containerd,
    CriO,
}

pub fn run(args: &Args, _: &Context) -> Result {
    let engine = match args.engine {
        EngineWord::Docker => Engine::Docker,
        EngineWord::Podman => Engine::Podman,
        EngineWord::Containerd => Engine::Containerd,
        EngineWord::Kubernetes => Engine::Kubernetes,
    };
    let host = host(args, engine)?;
    let plan = match args.undo {
        true => isle_setup::undo(engine, &host)?,
        false => isle_setup::plan(&wish(args, engine, host)?)?,
    };
    if plan.is_empty() && !args.undo {
        tell(&plan);
        output::line(&format!("{engine} is set up already"))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&plan.diff())?;
    tell(&plan);
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !output::confirm("This will be written.")? {
        eprintln!("nothing was written");
        return Ok(ExitCode::SUCCESS);
    }
    plan.apply()?;
    if let Some(next) = plan.next {
        eprintln!("next: {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(plan: &Plan) {
    for remark in &plan.remarks {
        eprintln!("note: {remark}");
    }
}

/// Whose files: root's are the host's; Podman is an ordinary user's engine too.
fn host(args: &Args, engine: Engine) -> Result<Host> {
    if let Some(prefix) = &args.prefix {
        return Ok(Host::below(prefix));
    }
    if rustix::process::geteuid().is_root() || engine != Engine::Podman {
        return Ok(Host::below("/"));
    }
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))
        .ok_or_else(|| {
            Failure::new("no folder for the configuration of this user is known").hint("set $HOME")
        })?;
    Ok(Host::user(config))
}

fn wish(args: &Args, engine: Engine, host: Host) -> Result<Wish> {
    let container = match &args.oci {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("isle-oci"),
    };
    let container = std::path::absolute(container)?;
    if !is_program(&container) {
        return Err(Failure::new(format!("{} is no program", container.display()))
            .hint("name the program isle-oci with --oci")
            .into());
    }
    let vm = container.with_file_name("isle-oci-vm");
    let mut runtimes = Runtimes::container(container);
    let has_vm = is_program(&vm);
    if has_vm {
        runtimes = runtimes.and_vm(&vm);
    } else {
        eprintln!(
            "note: {} is not there: no runtime isle-vm",
            vm.display()
        );
    }
    let default = match args.default {
        None => None,
        Some(LevelWord::Container) => Some("isle"),
        Some(LevelWord::Vm) if has_vm => Some("isle-vm"),
        Some(LevelWord::Vm) => {
            return Err(Failure::new("there is no runtime for virtual machines")
                .hint(format!("{} is missing: install Isle again", vm.display()))
                .into());
        }
    };
    let node = args.node.map(|node| match node {
        NodeWord::Containerd => Node::Containerd,
        NodeWord::CriO => Node::CriO,
    });
    if node.is_some() && engine != Engine::Kubernetes {
        return Err(Failure::new("--node is about kubernetes")
            .hint("leave it out")
            .into());
    }
    Ok(Wish {
        default,
        config: args.config.clone(),
        node,
        ..Wish::new(engine, host, runtimes)
    })
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
