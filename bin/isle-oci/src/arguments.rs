//! Flags and verbs, as runc and crun have them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use isle_types::Isolation;

/// The OCI container runtime of Isle.
#[derive(Debug, Parser)]
#[command(
    name = "isle-oci",
    // the form in which engines look for it
    version = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"),
    disable_help_subcommand = true,
    disable_version_flag = true
)]
pub(crate) struct Arguments {
    /// Print the version
    #[arg(short, short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory for the state of containers; /run/isle-oci when not given, and for a user without privileges
    /// $XDG_RUNTIME_DIR/isle-oci
    #[arg(long, value_name = "DIR", default_value_os_t = default_root())]
    pub(crate) root: PathBuf,
    /// File that errors and warnings are appended to
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Format of that file
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Log what is going to be done, too
    #[arg(long)]
    pub(crate) debug: bool,
    /// Isolation level of new containers: container, or vm (a kernel of its own). An annotation dev.isle.isolation can ask for vm,
    /// and a program called isle-oci-vm does
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "container",
        overrides_with = "isolation"
    )]
    pub(crate) isolation: Isolation,
    /// Where kernels and templates of virtual machines are (default: $ISLE_ROOT, or /var/lib/isle)
    #[arg(long, value_name = "DIR")]
    pub(crate) isle_root: Option<PathBuf>,
    /// Let systemd make control groups: linux.cgroupsPath is slice:prefix:name
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Who makes control groups
    #[arg(long, value_name = "MANAGER", default_value = "cgroupfs")]
    pub(crate) cgroup_manager: CgroupManager,
    /// Go on without a control group that this user may not make; auto: for a user without privileges on the host
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) rootless: Rootless,
}

fn default_root() -> PathBuf {
    if !rustix::process::geteuid().is_root()
        && let Some(run) = std::env::var_os("XDG_RUNTIME_DIR")
    {
        return PathBuf::from(run).join("isle-oci");
    }
    PathBuf::from("/run/isle-oci")
}

/// See `--rootless`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    True,
    False,
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a container that waits to be started
    Create(Create),
    /// Start a container that was created
    Start { id: String },
    /// Make a container, start it and wait for its end
    Run(Run),
    /// Show the state of a container
    State { id: String },
    /// Send a signal to a container's first process
    Kill(Kill),
    /// Remove a container that has ended
    Delete(Delete),
    /// Run a further process in a container
    Exec(Exec),
    /// Show the processes of a container
    Ps(Ps),
    /// List containers
    List(List),
    /// Freeze all processes of a container
    Pause { id: String },
    /// Thaw them
    Resume { id: String },
    /// Change limits of a container
    Update(Update),
    /// Show what a container uses
    Events(Events),
    /// Write a specification to start from
    Spec(SpecVerb),
    /// Show what this runtime can do
    Features,
    /// Save a running container (not supported)
    Checkpoint(Unsupported),
    /// Go on from a checkpoint (not supported)
    Restore(Unsupported),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Name of the specification in the bundle
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    pub(crate) config: PathBuf,
    /// Unix socket that receives the master of the terminal
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that receives the process id
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Do not use pivot_root(2), for a root file system in memory
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Leave so many descriptors after standard error open
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Do not reap processes that the container leaves (they are its own pid namespace's)
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete the container when it ends
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// To all processes
    #[arg(short, long)]
    pub(crate) all: bool,
    pub(crate) id: String,
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Kill it if it runs
    #[arg(short, long)]
    pub(crate) force: bool,
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Unix socket that receives the master of the terminal
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// With a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User and group as numbers
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// File with the process of the runtime specification
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// File that receives the process id
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Set no_new_privs
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Leave so many descriptors after standard error open
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Group below that of the container
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
    /// Even in a paused container
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    pub(crate) id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    pub(crate) id: String,
    /// Arguments of ps(1), whose table is shown then
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Ids alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// File with limits as the runtime specification has them; `-`: standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// CPU quota in microseconds
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPU period in microseconds
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// CPU time beyond the quota, in microseconds
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// CPU shares
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    /// Scheduled when nothing else is, 0 or 1
    #[arg(long)]
    pub(crate) cpu_idle: Option<i64>,
    /// Period of realtime scheduling in microseconds
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Realtime scheduling in each period, in microseconds
    #[arg(long)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// CPUs to use
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory in bytes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Soft limit of memory in bytes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory and swap in bytes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Memory of the kernel in bytes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) kernel_memory: Option<String>,
    /// Memory of TCP buffers in bytes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// Number of processes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Weight of block I/O
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Share of the level 3 cache (not supported)
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) l3_cache_schema: Option<String>,
    /// Share of the memory bandwidth (not supported)
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) mem_bw_schema: Option<String>,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Show the figures once
    #[arg(long)]
    pub(crate) stats: bool,
    /// Time between two readings
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) interval: String,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct SpecVerb {
    /// Directory to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// File to write instead
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// For a container of a user without privileges
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Unsupported {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<String>,
}
