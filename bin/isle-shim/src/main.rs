//! The supervisor of one instance.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    let code = isle_engine::supervisor::main();
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(125))
}
