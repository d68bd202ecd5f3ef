//! Where the programs are that come with this one.

use std::path::{Path, PathBuf};

/// A program by its name: beside the supervisor that the environment names (which does not know where it lies itself:
/// it was executed through a descriptor), beside this program, else where packages put it.
pub fn find(name: &str) -> Option<PathBuf> {
    let supervisor = std::env::var_os("ISLE_SHIM").filter(|path| !path.is_empty());
    let this = std::env::current_exe().ok();
    let beside = [supervisor.map(PathBuf::from), this]
        .into_iter()
        .flatten()
        .filter_map(|program| Some(program.parent()?.to_owned()))
        // Tests lie one folder deeper.
        .flat_map(|folder| {
            [
                folder.clone(),
                folder.join(".."),
                folder.join("../libexec/isle"),
            ]
        });
    beside
        .chain([Path::new("/usr/libexec/isle").to_owned()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
