//! `--pause`, of verbs that copy what running instances write.

use super::switch;

/// The flag.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct PauseFlag {
    /// Freeze the instances that mount it meanwhile (=false to let them run: files may be caught half written)
    #[arg(short, long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = switch)]
    pub pause: bool,
}
