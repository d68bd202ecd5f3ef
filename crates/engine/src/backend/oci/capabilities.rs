//! Which capabilities a container has, see capabilities(7).

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability};

use crate::config::Security;

/// Docker's default set.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// A capability by name, with or without `CAP_`, in any case; `None` for one that is none.
pub(crate) fn by_name(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)).ok()
}

/// Those whose bit is set in a mask as the kernel has it: what this process may give away.
pub(crate) fn of_mask(mask: u64) -> Capabilities {
    let bits = isle_runtime::capabilities::all().enumerate();
    bits.filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, capability)| capability)
        .collect()
}

/// The set that a configuration asks for. `available` is what this process may give away: `ALL`
/// and `--privileged` mean all of that. As Docker's `TweakCapabilities`: an added capability wins
/// over `--cap-drop ALL`, a dropped one over `--cap-add ALL`.
pub(crate) fn granted(security: &Security, available: &Capabilities) -> Capabilities {
    if security.privileged {
        return available.clone();
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let named = |names: &[String]| -> Capabilities {
        names.iter().filter_map(|name| by_name(name)).collect()
    };
    let (add, drop) = (named(&security.cap_add), named(&security.cap_drop));
    let adds_all = security.cap_add.iter().any(is_all);
    let drops_all = security.cap_drop.iter().any(is_all);
    let base: Capabilities = match (adds_all, drops_all) {
        (true, _) => available.difference(&drop).copied().collect(),
        (false, true) => Capabilities::new(),
        (false, false) => DEFAULT
            .into_iter()
            .filter(|default| available.contains(default) && !drop.contains(default))
            .collect(),
    };
    base.union(&add).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted_names(add: &[&str], drop: &[&str]) -> Vec<String> {
        let security = Security {
            cap_add: add.iter().map(|s| (*s).to_owned()).collect(),
            cap_drop: drop.iter().map(|s| (*s).to_owned()).collect(),
            ..Security::default()
        };
        let mut names: Vec<String> = granted(&security, &of_mask(u64::MAX))
            .iter()
            .map(ToString::to_string)
            .collect();
        names.sort();
        names
    }

    #[test]
    fn add_and_drop_work_as_docker_has_them() {
        assert_eq!(granted_names(&[], &[]).len(), 14);
        assert_eq!(granted_names(&[], &["ALL"]), [""; 0]);
        assert_eq!(granted_names(&["NET_ADMIN"], &["ALL"]), ["NET_ADMIN"]);
        assert_eq!(granted_names(&["ALL"], &[]).len(), 41);
        assert_eq!(granted_names(&["all"], &["cap_sys_admin"]).len(), 40);
        assert_eq!(granted_names(&["SYS_TIME"], &["MKNOD", "KILL"]).len(), 13);
    }

    #[test]
    fn every_capability_has_its_number_in_the_kernel() {
        let bit = |name| isle_runtime::capabilities::all().position(|c| Some(c) == by_name(name));
        assert_eq!(bit("CAP_CHOWN"), Some(0));
        assert_eq!(bit("SYS_ADMIN"), Some(21));
        assert_eq!(bit("syslog"), Some(34));
        assert_eq!(bit("CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(by_name("CAP_NONSENSE"), None);
    }
}
