//! `isle compose`: projects of several services, from Compose files.
//!
//! What the files mean, and what has to be done, is decided in `isle-compose`. Here is the executor, and the verbs in the words of
//! Docker Compose: one file a verb.

mod attach;
mod build;
mod config;
mod converge;
mod cp;
mod create;
mod down;
mod events;
mod exec;
mod execute;
mod images;
mod kill;
mod logs;
mod ls;
mod make;
mod names;
mod observe;
mod pause;
mod port;
mod ps;
mod pull;
mod push;
mod report;
mod restart;
mod rm;
mod run_one;
mod scale;
mod session;
mod signals;
mod start;
mod stats;
mod stop;
mod stream;
mod top;
mod unpause;
mod up;
mod version;
mod viz;
mod volumes;
mod wait;
mod watch;
mod words;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Result;
use session::ProjectFlags;

pub const ABOUT: &str = "Run projects of several services, from Compose files";
pub const EXAMPLES: &str = "  isle compose up -d
  isle compose ps
  isle compose logs -f web
  isle compose -f compose.yaml -f production.yaml --profile debug config
  isle compose down -v";

/// Flags of `compose`.
#[derive(clap::Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct Args {
    #[command(flatten)]
    project: ProjectFlags,
    #[command(subcommand)]
    verb: Verb,
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident => $file:ident),* $(,)?) => {
        /// What is done with the project.
        #[derive(Subcommand, Debug)]
        #[allow(clippy::large_enum_variant)] // there is one of it
        enum Verb {
            $($(#[$doc])* #[command(after_help = super::shown($file::EXAMPLES))] $variant($file::Args),)*
        }

        pub fn run(args: &Args, context: &Context) -> Result {
            match &args.verb {
                $(Verb::$variant(verb) => $file::run(verb, &args.project, context),)*
            }
        }
    };
}

verbs! {
    /// Make and start what the files say
    Up => up,
    /// Stop and take away what `up` has made
    Down => down,
    /// Make what the files say, without starting it
    Create => create,
    /// List the project's instances
    Ps => ps,
    /// Show what services have written
    Logs => logs,
    /// Check the files and print what they mean
    #[command(visible_alias = "convert")]
    Config => config,
    /// Stop services
    Stop => stop,
    /// Start services that are there
    Start => start,
    /// Stop services and start them again
    Restart => restart,
    /// Take away instances that do not run
    #[command(visible_alias = "remove")]
    Rm => rm,
    /// End services at once, or send them a signal
    Kill => kill,
    /// Freeze services
    Pause => pause,
    /// Let paused services go on
    Unpause => unpause,
    /// Run a further program in an instance of a service
    Exec => exec,
    /// Run one command in an instance of its own
    Run => run_one,
    /// Connect to what an instance of a service writes and reads
    Attach => attach,
    /// Wait until services have ended, and say with which code
    Wait => wait,
    /// Have so many instances of services
    Scale => scale,
    /// Build the images of services
    Build => build,
    /// Bring changes of files into services, as they happen
    Watch => watch,
    /// Get the images of services from their registries
    Pull => pull,
    /// Bring images that were built to their registries
    Push => push,
    /// List the images of instances
    Images => images,
    /// List the project's volumes
    Volumes => volumes,
    /// Show the processes of services
    Top => top,
    /// Show what services use of CPU, memory and I/O
    Stats => stats,
    /// Show which port of the host leads to a port of a service
    Port => port,
    /// Show what happens to the project, as it happens
    Events => events,
    /// Copy files between a service and the host
    Cp => cp,
    /// List projects
    Ls => ls,
    /// Draw the project, for Graphviz
    Viz => viz,
    /// Show the version
    Version => version,
}
