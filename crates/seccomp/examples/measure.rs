//! Measures the default policy: `cargo run --release -p isle-seccomp --example measure`.

use std::time::Instant;

fn main() {
    let mut times = [const { Vec::new() }; 2];
    let mut length = 0;
    for _ in 0..200 {
        let start = Instant::now();
        let policy = isle_seccomp::Profile::docker_default().resolve(&Default::default());
        times[0].push(start.elapsed());
        let start = Instant::now();
        let program = isle_seccomp::compile(&policy).expect("the default policy is valid");
        times[1].push(start.elapsed());
        length = program.len();
    }
    for (name, times) in ["resolve", "compile"].iter().zip(&mut times) {
        let first = times[0];
        times.sort();
        println!("{name}: first {first:?} p50 {:?}", times[100]);
    }
    println!("{length} instructions");
}
