//! The configuration of the tuned kernel, and whether a source has taken it.

use crate::digest;
use crate::error::KernelError;

const GUEST: &str = include_str!("../../../kernel/guest.config");
/// By the name that `uname -m` has.
const ARCHITECTURES: [(&str, &str); 1] =
    [("x86_64", include_str!("../../../kernel/x86_64.config"))];

/// The fragment for the kernel's build system on this host's architecture: `KEY=value`, and `# KEY is not set`.
/// Everything that it does not name is left out.
///
/// # Errors
/// When there is none for this architecture.
pub fn configuration() -> Result<String, KernelError> {
    let architecture = std::env::consts::ARCH;
    ARCHITECTURES
        .iter()
        .find(|(name, _)| *name == architecture)
        .map(|(_, own)| format!("{GUEST}\n{own}"))
        .ok_or(KernelError::NoConfiguration { architecture })
}

/// `sha256:…` of [`configuration`]: a tuned kernel with another one is out of date.
///
/// # Errors
/// As [`configuration`].
pub fn configuration_digest() -> Result<String, KernelError> {
    Ok(digest::of_bytes(configuration()?.as_bytes()))
}

/// The lines of `asked` that `actual`, a complete `.config`, does not have.
pub(crate) fn lost(asked: &str, actual: &str) -> Vec<String> {
    let actual: std::collections::HashSet<&str> = actual.lines().collect();
    asked
        .lines()
        .filter(|line| match line.strip_prefix("# ") {
            Some(comment) => comment
                .strip_suffix(" is not set")
                .filter(|key| key.starts_with("CONFIG_"))
                .is_some_and(|key| {
                    let set = format!("{key}=");
                    actual.iter().any(|line| line.starts_with(&set))
                }),
            None => line.starts_with("CONFIG_") && !actual.contains(line),
        })
        .map(str::to_owned)
        .collect()
}

/// Whether a `.config` has a feature built in.
pub(crate) fn is_set(config: &str, key: &str) -> bool {
    let line = format!("{key}=y");
    config.lines().any(|found| found == line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_build_system_dropped_in_silence_is_found() {
        let asked =
            "# --- a comment ---\nCONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_C is not set\nCONFIG_D=y\n";
        let actual = "CONFIG_A=y\nCONFIG_B=\"y\"\nCONFIG_C=y\n# CONFIG_D is not set\n";
        assert_eq!(
            lost(asked, actual),
            ["CONFIG_B=\"x\"", "# CONFIG_C is not set", "CONFIG_D=y"]
        );
        assert_eq!(lost("CONFIG_A=y\n# CONFIG_X is not set\n", actual), [""; 0]);
    }

    #[test]
    fn no_line_is_asked_for_twice() {
        let configuration = configuration().unwrap();
        let mut keys: Vec<&str> = configuration
            .lines()
            .filter_map(|line| {
                line.strip_prefix("# ")
                    .unwrap_or(line)
                    .split(['=', ' '])
                    .next()
            })
            .filter(|key| key.starts_with("CONFIG_"))
            .collect();
        let count = keys.len();
        assert!(count > 100);
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
