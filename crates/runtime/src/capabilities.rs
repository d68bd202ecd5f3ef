//! Capabilities as bits, see capabilities(7).

use oci_spec::runtime::{Capabilities, Capability};

/// By number: the position in this list, from linux/capability.h.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// `CAP_SYS_ADMIN` as a set.
pub(crate) const SYS_ADMIN: u64 = 1 << 21;

/// A set as the kernel takes it.
pub(crate) fn bits(set: Option<&Capabilities>) -> u64 {
    let Some(set) = set else { return 0 };
    BY_NUMBER
        .iter()
        .enumerate()
        .filter(|(_, capability)| set.contains(capability))
        .fold(0, |bits, (number, _)| bits | 1 << number)
}

/// The names in a set, for messages.
pub(crate) fn names(bits: u64) -> String {
    let names: Vec<String> = BY_NUMBER
        .iter()
        .enumerate()
        .filter(|(number, _)| bits & (1 << number) != 0)
        .map(|(_, capability)| format!("CAP_{capability}"))
        .collect();
    names.join(", ")
}

/// Every capability that this runtime knows, by the names of the runtime specification and in the
/// order of their numbers.
pub fn all() -> impl Iterator<Item = Capability> {
    BY_NUMBER.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_header() {
        let one = |capability| bits(Some(&Capabilities::from([capability])));
        assert_eq!(one(Capability::Chown), 1);
        assert_eq!(one(Capability::SysAdmin), 1 << 21);
        assert_eq!(one(Capability::CheckpointRestore), 1 << 40);
        assert_eq!(names(1 << 21 | 1), "CAP_CHOWN, CAP_SYS_ADMIN");
    }
}
