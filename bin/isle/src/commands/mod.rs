//! The verbs, one file each. Every file has `Args` (its flags), `run` (what it does), `ABOUT` (one line) and
//! `EXAMPLES`.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::completion::with_candidates as completion_of;
use crate::context::Context;
use crate::failure::{ENGINE, Result};
use crate::flags::switch;

macro_rules! files {
    ($($file:ident),* $(,)?) => { $(mod $file;)* };
}

files! {
    attach, build, builder_du, builder_prune, commit, completion, compose, container_inspect, container_prune, cp, create, diff, doctor, events, exec, export, history,
    image_inspect, image_prune, images, import, info, inspect, kernel_build, kernel_install, kernel_ls, kernel_rm,
    kernel_use, kill, load, login, logout, logs, network_connect, network_create, network_disconnect, network_inspect, network_ls,
    network_prune, network_rm, pause, pool_ls, pool_rm, pool_set, port, ps, pull,
    push, rename, restart, rm, rmi, run, save, setup, start, stats, stop, system_df, tag, template_ls, template_prune, template_rm, top, unpause, update, version,
    volume_clone, volume_create, volume_export, volume_import, volume_inspect, volume_ls, volume_prune,
    volume_restore, volume_rm, volume_snapshot, wait,
}

/// One verb.
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// Other names, shown in its help.
    pub aliases: &'static [&'static str],
    /// What it does, in one line.
    pub about: &'static str,
    /// The exit code when it fails for no reason of its own.
    pub failure_code: u8,
    flags: fn(Command) -> Command,
    /// Parses its flags and does it.
    pub run: fn(&ArgMatches, &Context) -> Result,
}

/// Verbs that are called behind another word: `isle image ls`.
pub struct Group {
    /// The word.
    pub name: &'static str,
    about: &'static str,
    /// The verbs.
    pub verbs: &'static [Verb],
}

macro_rules! verb {
    ($file:ident, $name:literal) => { verb!($file, $name, [], 1) };
    ($file:ident, $name:literal, [$($alias:literal),*]) => { verb!($file, $name, [$($alias),*], 1) };
    ($file:ident, $name:literal, [$($alias:literal),*], $code:expr) => {
        Verb {
            name: $name,
            aliases: &[$($alias),*],
            about: $file::ABOUT,
            failure_code: $code,
            flags: |command| {
                finish(
                    <$file::Args as clap::Args>::augment_args(command),
                    $file::ABOUT,
                    $file::EXAMPLES,
                )
            },
            run: |matches, context| {
                let args = <$file::Args as clap::FromArgMatches>::from_arg_matches(matches)?;
                $file::run(&args, context)
            },
        }
    };
}

/// Everything that is called by its name alone.
pub static VERBS: &[Verb] = &[
    verb!(run, "run", [], ENGINE),
    verb!(exec, "exec"),
    verb!(ps, "ps", ["ls", "list"]),
    verb!(logs, "logs"),
    verb!(stop, "stop"),
    verb!(rm, "rm", ["remove"]),
    verb!(create, "create", [], ENGINE),
    verb!(start, "start"),
    verb!(restart, "restart"),
    verb!(kill, "kill"),
    verb!(pause, "pause"),
    verb!(unpause, "unpause", ["resume"]),
    verb!(wait, "wait"),
    verb!(attach, "attach"),
    verb!(cp, "cp", ["copy"]),
    verb!(top, "top"),
    verb!(stats, "stats"),
    verb!(inspect, "inspect"),
    verb!(rename, "rename"),
    verb!(update, "update"),
    verb!(port, "port"),
    verb!(diff, "diff"),
    verb!(commit, "commit"),
    verb!(export, "export"),
    verb!(build, "build"),
    verb!(images, "images"),
    verb!(pull, "pull"),
    verb!(push, "push"),
    verb!(load, "load"),
    verb!(save, "save"),
    verb!(import, "import"),
    verb!(rmi, "rmi"),
    verb!(tag, "tag"),
    verb!(history, "history"),
    verb!(login, "login"),
    verb!(logout, "logout"),
    verb!(compose, "compose"),
    verb!(events, "events"),
    verb!(info, "info"),
    verb!(version, "version"),
    verb!(doctor, "doctor"),
    verb!(setup, "setup"),
    verb!(completion, "completion"),
];

/// The same by subject, as Docker has them.
pub static GROUPS: &[Group] = &[
    Group {
        name: "container",
        about: "Manage instances",
        verbs: &[
            verb!(run, "run", [], ENGINE),
            verb!(create, "create", [], ENGINE),
            verb!(start, "start"),
            verb!(stop, "stop"),
            verb!(restart, "restart"),
            verb!(kill, "kill"),
            verb!(pause, "pause"),
            verb!(unpause, "unpause", ["resume"]),
            verb!(rm, "rm", ["remove"]),
            verb!(ps, "ls", ["ps", "list"]),
            verb!(logs, "logs"),
            verb!(exec, "exec"),
            verb!(attach, "attach"),
            verb!(cp, "cp", ["copy"]),
            verb!(top, "top"),
            verb!(stats, "stats"),
            verb!(container_inspect, "inspect"),
            verb!(wait, "wait"),
            verb!(rename, "rename"),
            verb!(update, "update"),
            verb!(port, "port"),
            verb!(diff, "diff"),
            verb!(commit, "commit"),
            verb!(export, "export"),
            verb!(container_prune, "prune"),
        ],
    },
    Group {
        name: "image",
        about: "Manage images",
        verbs: &[
            verb!(images, "ls", ["list"]),
            verb!(build, "build"),
            verb!(image_inspect, "inspect"),
            verb!(history, "history"),
            verb!(pull, "pull"),
            verb!(push, "push"),
            verb!(load, "load"),
            verb!(save, "save"),
            verb!(import, "import"),
            verb!(tag, "tag"),
            verb!(rmi, "rm", ["remove"]),
            verb!(image_prune, "prune"),
        ],
    },
    Group {
        name: "builder",
        about: "Manage the cache of builds",
        verbs: &[
            verb!(build, "build"),
            verb!(builder_du, "du"),
            verb!(builder_prune, "prune"),
        ],
    },
    Group {
        name: "volume",
        about: "Manage volumes",
        verbs: &[
            verb!(volume_create, "create"),
            verb!(volume_ls, "ls", ["list"]),
            verb!(volume_inspect, "inspect"),
            verb!(volume_rm, "rm", ["remove"]),
            verb!(volume_prune, "prune"),
            verb!(volume_snapshot, "snapshot"),
            verb!(volume_restore, "restore"),
            verb!(volume_clone, "clone"),
            verb!(volume_export, "export"),
            verb!(volume_import, "import"),
        ],
    },
    Group {
        name: "network",
        about: "Manage networks",
        verbs: &[
            verb!(network_create, "create"),
            verb!(network_ls, "ls", ["list"]),
            verb!(network_inspect, "inspect"),
            verb!(network_rm, "rm", ["remove"]),
            verb!(network_connect, "connect"),
            verb!(network_disconnect, "disconnect"),
            verb!(network_prune, "prune"),
        ],
    },
    Group {
        name: "template",
        about: "Manage what virtual machines are copied from",
        verbs: &[
            verb!(template_ls, "ls", ["list"]),
            verb!(template_rm, "rm", ["remove"]),
            verb!(template_prune, "prune"),
        ],
    },
    Group {
        name: "pool",
        about: "Manage virtual machines that wait for instances",
        verbs: &[
            verb!(pool_set, "set"),
            verb!(pool_ls, "ls", ["list"]),
            verb!(pool_rm, "rm", ["remove"]),
        ],
    },
    Group {
        name: "kernel",
        about: "Manage the kernels of virtual machines",
        verbs: &[
            verb!(kernel_ls, "ls", ["list"]),
            verb!(kernel_install, "install"),
            verb!(kernel_build, "build"),
            verb!(kernel_use, "use"),
            verb!(kernel_rm, "rm", ["remove"]),
        ],
    },
    Group {
        name: "system",
        about: "Manage Isle itself",
        verbs: &[
            verb!(system_df, "df"),
            verb!(info, "info"),
            verb!(events, "events"),
        ],
    },
];

impl Verb {
    /// For clap, with the flags built only when the verb is called.
    pub fn command(&self) -> Command {
        Command::new(self.name)
            .about(self.about)
            .visible_aliases(self.aliases)
            .defer(self.flags)
    }
}

impl Group {
    /// For clap.
    pub fn command(&self) -> Command {
        Command::new(self.name)
            .about(self.about)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .disable_help_subcommand(true)
            .subcommands(self.verbs.iter().map(Verb::command))
    }
}

/// Every word that can follow `isle`.
pub fn names() -> impl Iterator<Item = &'static str> {
    let verbs = VERBS.iter();
    verbs
        .flat_map(|verb| verb.aliases.iter().chain([&verb.name]).copied())
        .chain(GROUPS.iter().map(|group| group.name))
}

/// The definition is for showing it: a switch is then shown without the value that it can take.
pub static IS_FOR_HELP: AtomicBool = AtomicBool::new(false);

/// Examples, below a help text.
fn shown(examples: &str) -> String {
    format!("Examples:\n{examples}")
}

/// What all verbs have: examples, switches as Go has them, and the last of several wins.
fn finish(command: Command, about: &'static str, examples: &'static str) -> Command {
    let command = completion_of(command)
        .args_override_self(true)
        .about(about)
        .after_help(shown(examples));
    let command = switches(command);
    let command = command.mut_subcommands(|below| switches(completion_of(below)));
    // `-h` is the host name for `run` and `create`, as in Docker.
    let has_h = command
        .get_arguments()
        .any(|arg| arg.get_short() == Some('h'));
    match has_h {
        false => command,
        true => command.disable_help_flag(true).arg(
            Arg::new("help")
                .long("help")
                .action(ArgAction::Help)
                .help("Print help"),
        ),
    }
}

/// Switches as Go has them: `--force=false` too.
fn switches(command: Command) -> Command {
    command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue if !IS_FOR_HELP.load(Ordering::Relaxed) => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("BOOL")
            .hide_possible_values(true)
            .hide_default_value(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(switch),
        _ => arg,
    })
}

/// The commands by subject, for `isle --help`.
pub fn overview() -> String {
    let mut text = String::new();
    let sections: [(&str, &[&str]); 5] = [
        (
            "Common commands",
            &["run", "exec", "ps", "logs", "stop", "rm"],
        ),
        (
            "Instances",
            &[
                "create", "start", "restart", "kill", "pause", "unpause", "wait", "attach", "cp",
                "top", "stats", "inspect", "rename", "update", "diff", "commit", "export",
            ],
        ),
        ("Projects", &["compose"]),
        ("Images", IMAGE_VERBS),
        (
            "Host",
            &["events", "info", "version", "doctor", "setup", "completion"],
        ),
    ];
    for (title, names) in sections {
        if names.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{title}:\n"));
        for verb in names
            .iter()
            .filter_map(|name| VERBS.iter().find(|verb| verb.name == *name))
        {
            text.push_str(&format!("  {:<12} {}\n", verb.name, verb.about));
        }
    }
    text.push_str("\nBy subject:\n");
    for group in GROUPS {
        text.push_str(&format!("  {:<12} {}\n", group.name, group.about));
    }
    text.trim().to_owned()
}

const IMAGE_VERBS: &[&str] = &[
    "build", "images", "pull", "push", "load", "save", "import", "rmi", "tag", "history", "login",
    "logout",
];
