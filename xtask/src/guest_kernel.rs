//! The guest kernel that tests and demonstration boot: the tuned one, built once for each text of its
//! configuration, by the program that is tested.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::programs::Programs;
use crate::{command, place, setup};

/// A kernel below a state root of its own.
pub struct GuestKernel {
    /// What `<root>/kernels` of another state root can be a link to.
    pub kernels: PathBuf,
    /// The kernel's own file.
    pub image: PathBuf,
}

/// Makes it when it is not there, which takes some four minutes on two processors.
pub fn make(programs: &Programs) -> Result<GuestKernel> {
    setup::install(&["guest"])?;
    let root = place::guest_root();
    fs::create_dir_all(&root)?;
    let lock = File::create(root.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock the guest kernel")?;
    let isle = || {
        let mut isle = Command::new(programs.path("isle"));
        isle.env("ISLE_ROOT", &root);
        isle
    };
    let name = match usable(&mut isle())? {
        Some(name) => name,
        None => {
            println!("building the guest kernel (some four minutes, once)");
            command::output(isle().args(["kernel", "build"]))?;
            usable(&mut isle())?.context("the guest kernel that was built is not listed")?
        }
    };
    let kernels = root.join("kernels");
    let image = kernels.join(name).join("vmlinux");
    Ok(GuestKernel { kernels, image })
}

/// The tuned kernel in use, when it is whole and has today's configuration.
fn usable(isle: &mut Command) -> Result<Option<String>> {
    let format = "{{.Name}} {{.Kind}} {{.Status}}";
    let list = command::output(isle.args(["kernel", "ls", "--format", format]))?;
    Ok(list.lines().find_map(name_of_usable))
}

fn name_of_usable(line: &str) -> Option<String> {
    let (name, rest) = line.split_once(' ')?;
    (rest.trim() == "tuned in use").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_out_of_date_is_not_usable() {
        for (line, expected) in [
            ("isle-6.1.192 tuned in use", Some("isle-6.1.192")),
            ("isle-6.1.192 tuned ", None),
            ("isle-6.1.192 tuned in use, configuration out of date", None),
            ("isle-6.1.192  in use, damaged: vmlinux is missing", None),
            ("debian-6.1.0 distribution in use", None),
        ] {
            assert_eq!(name_of_usable(line).as_deref(), expected, "{line}");
        }
    }
}
