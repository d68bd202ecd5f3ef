//! Where the programs are that come with this one.

use std::path::{Path, PathBuf};

/// A program by its name: beside the supervisor or the OCI runtime that the environment names (which do not know where they lie
/// themselves: they were executed through a descriptor), beside this program, else where packages put it.
pub fn find(name: &str) -> Option<PathBuf> {
    let named = ["ISLE_SHIM", isle_runtime::own_binary::PLACE]
        .map(|name| std::env::var_os(name).filter(|path| !path.is_empty()));
    let this = std::env::current_exe().ok().map(PathBuf::into_os_string);
    let [supervisor, runtime] = named;
    let beside = [supervisor, runtime, this]
        .into_iter()
        .flatten()
        .filter_map(|program| Some(Path::new(&program).parent()?.to_owned()))
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
