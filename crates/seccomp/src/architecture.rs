//! Architectures as a machine meets them, and their system call numbers.

use oci_spec::runtime::Arch;

/// Set in the numbers of x32 calls, which share x86_64's audit architecture.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// A calling convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Architecture {
    /// `AUDIT_ARCH_…` of linux/audit.h: what the kernel tells a program.
    pub fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 | Architecture::X32 => 0xc000_003e,
            Architecture::X86 => 0x4000_0003,
            Architecture::Aarch64 => 0xc000_00b7,
            Architecture::Arm => 0x4000_0028,
        }
    }

    /// Has it arguments of 32 bits?
    pub fn is_32_bit(self) -> bool {
        matches!(self, Architecture::X86 | Architecture::Arm)
    }

    pub fn from_oci(architecture: Arch) -> Option<Architecture> {
        Some(match architecture {
            Arch::ScmpArchX86_64 => Architecture::X86_64,
            Arch::ScmpArchX86 => Architecture::X86,
            Arch::ScmpArchX32 => Architecture::X32,
            Arch::ScmpArchAarch64 => Architecture::Aarch64,
            Arch::ScmpArchArm => Architecture::Arm,
            _ => return None,
        })
    }

    /// Every system call: number and name.
    pub fn calls(self) -> Vec<(u32, &'static str)> {
        match self {
            Architecture::X86_64 => numbered(syscalls::x86_64::Sysno::last().id(), |n| {
                Some(syscalls::x86_64::Sysno::new(n)?.name())
            }),
            Architecture::X86 => numbered(syscalls::x86::Sysno::last().id(), |n| {
                Some(syscalls::x86::Sysno::new(n)?.name())
            }),
            Architecture::Aarch64 => numbered(syscalls::aarch64::Sysno::last().id(), |n| {
                Some(syscalls::aarch64::Sysno::new(n)?.name())
            }),
            Architecture::Arm => {
                let mut calls = numbered(syscalls::arm::Sysno::last().id(), |n| {
                    Some(syscalls::arm::Sysno::new(n)?.name())
                });
                calls.extend(ARM_PRIVATE);
                // The same call under libseccomp's name.
                let alias = calls.iter().find(|(_, name)| *name == "sync_file_range2");
                if let Some(&(number, _)) = alias {
                    calls.push((number, "arm_sync_file_range"));
                }
                calls
            }
            Architecture::X32 => {
                let mut calls = Architecture::X86_64.calls();
                calls.retain(|(_, name)| !X32_OWN.iter().any(|(_, own)| own == name));
                calls.extend(X32_OWN);
                for (number, _) in &mut calls {
                    *number |= X32_BIT;
                }
                calls
            }
        }
    }

    /// Is this number outside the common sequence, so that it says nothing about how new a policy
    /// is?
    pub fn is_private(self, number: u32) -> bool {
        match self {
            Architecture::Arm => number >= 0x000f_0000,
            Architecture::X32 => number & !X32_BIT >= 512,
            _ => false,
        }
    }
}

fn numbered(last: i32, name: impl Fn(usize) -> Option<&'static str>) -> Vec<(u32, &'static str)> {
    (0..=usize::try_from(last).unwrap_or(0))
        .filter_map(|number| Some((u32::try_from(number).ok()?, name(number)?)))
        .collect()
}

/// arch/arm/include/uapi/asm/unistd.h
const ARM_PRIVATE: [(u32, &str); 6] = [
    (0x000f_0001, "breakpoint"),
    (0x000f_0002, "cacheflush"),
    (0x000f_0003, "usr26"),
    (0x000f_0004, "usr32"),
    (0x000f_0005, "set_tls"),
    (0x000f_0006, "get_tls"),
];

/// Calls that x32 has under numbers of its own, arch/x86/entry/syscalls/syscall_64.tbl.
const X32_OWN: [(u32, &str); 36] = [
    (512, "rt_sigaction"),
    (513, "rt_sigreturn"),
    (514, "ioctl"),
    (515, "readv"),
    (516, "writev"),
    (517, "recvfrom"),
    (518, "sendmsg"),
    (519, "recvmsg"),
    (520, "execve"),
    (521, "ptrace"),
    (522, "rt_sigpending"),
    (523, "rt_sigtimedwait"),
    (524, "rt_sigqueueinfo"),
    (525, "sigaltstack"),
    (526, "timer_create"),
    (527, "mq_notify"),
    (528, "kexec_load"),
    (529, "waitid"),
    (530, "set_robust_list"),
    (531, "get_robust_list"),
    (532, "vmsplice"),
    (533, "move_pages"),
    (534, "preadv"),
    (535, "pwritev"),
    (536, "rt_tgsigqueueinfo"),
    (537, "recvmmsg"),
    (538, "sendmmsg"),
    (539, "process_vm_readv"),
    (540, "process_vm_writev"),
    (541, "setsockopt"),
    (542, "getsockopt"),
    (543, "io_setup"),
    (544, "io_submit"),
    (545, "execveat"),
    (546, "preadv2"),
    (547, "pwritev2"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn number(architecture: Architecture, name: &str) -> Option<u32> {
        let calls = architecture.calls();
        calls.iter().find(|call| call.1 == name).map(|call| call.0)
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(number(Architecture::X86_64, "io_uring_setup"), Some(425));
        assert_eq!(number(Architecture::X86_64, "socketcall"), None);
        assert_eq!(number(Architecture::X86, "socketcall"), Some(102));
        assert_eq!(number(Architecture::X32, "ioctl"), Some(X32_BIT | 514));
        assert_eq!(number(Architecture::X32, "openat"), Some(X32_BIT | 257));
        assert_eq!(number(Architecture::Aarch64, "openat"), Some(56));
        assert_eq!(number(Architecture::Arm, "cacheflush"), Some(0xf_0002));
        assert_eq!(number(Architecture::Arm, "arm_sync_file_range"), Some(341));
        // The last of each table, which an iterator could forget.
        for architecture in [
            Architecture::X86_64,
            Architecture::X86,
            Architecture::Aarch64,
        ] {
            assert!(number(architecture, "file_setattr").is_some());
        }
    }
}
