//! Runs the benchmark program of `benches/` beside the rivals.

use anyhow::Result;

use crate::programs::{self, Profile};
use crate::{command, guest_kernel, images, place, setup};

pub fn run(arguments: &[String]) -> Result<()> {
    setup::install(&["build", "demo", "bench"])?;
    let programs = programs::build(Profile::Release)?;
    command::run(programs::cargo("build", Profile::Release)?.args(["--package", "isle-benches"]))?;
    images::make(&["busybox".to_owned()])?;
    let kernel = guest_kernel::make(&programs)?;
    let program = place::target()
        .join(programs::host_target()?)
        .join("release/isle-benches");
    command::run(
        command::as_root("env")
            .arg(format!("ISLE_BIN={}", programs.path("isle").display()))
            .arg(format!(
                "ISLE_OCI_BIN={}",
                programs.path("isle-oci").display()
            ))
            .arg(format!(
                "ISLE_EXAMPLES_CACHE={}",
                place::examples_cache().display()
            ))
            .arg(format!("ISLE_TEST_KERNELS={}", kernel.kernels.display()))
            .arg(format!(
                "ISLE_BENCH_OUTPUT={}",
                place::target().join("bench").display()
            ))
            .arg(format!(
                "PATH={}",
                setup::path_with_tools()?.to_string_lossy()
            ))
            .arg(program)
            .args(arguments),
    )
}
