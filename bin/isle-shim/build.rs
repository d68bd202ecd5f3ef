//! Links the supervisor at a fixed address.
//!
//! A static program that can be loaded anywhere relocates itself at each start: some 5,800 pointers,
//! which makes 96 KiB of memory its own that all supervisors could share. There is one supervisor
//! an instance, so that is a third of what each may cost. Stack, heap and libraries' mappings stay
//! randomized; see docs/decisions/0005-supervisor.md.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let has = |name: &str, wanted: &str| {
        std::env::var(name).is_ok_and(|value| value.split(',').any(|one| one == wanted))
    };
    // Only the static build, as it is shipped.
    if has("CARGO_CFG_TARGET_FEATURE", "crt-static") && has("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
        println!("cargo:rustc-link-arg-bins=-static");
    }
}
