//! The first process of an instance with `--init`, see the library.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    isle_init::main()
}
