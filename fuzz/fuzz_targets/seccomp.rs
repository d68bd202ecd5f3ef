//! Seccomp profiles of users.
#![no_main]

use isle_seccomp::{Machine, Profile, compile_for};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let profile = match Profile::parse(text) {
        Ok(profile) => profile,
        Err(error) => return drop(error.to_string()),
    };
    let policy = profile.resolve(&Default::default());
    for machine in [Machine::X86_64, Machine::Aarch64] {
        if let Ok(program) = compile_for(&policy, machine) {
            assert!((1..=4096).contains(&program.len()));
            for (at, instruction) in program.iter().enumerate() {
                // A jump goes forward, and ends within the program.
                if instruction.code & 7 == 5 {
                    let offsets = match instruction.code {
                        0x05 => [instruction.k, instruction.k],
                        _ => [instruction.jt.into(), instruction.jf.into()],
                    };
                    for offset in offsets {
                        assert!(at + 1 + (offset as usize) < program.len());
                    }
                }
            }
            // BPF_RET: no way leads out of its end.
            assert_eq!(program.last().map(|last| last.code & 7), Some(6));
        }
    }
});
