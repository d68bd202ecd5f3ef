//! What a path inside is.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstat, readlinkat, statat};

use crate::writer::{beneath, open_parent};

/// What a path is, links in its last element not followed, and where it leads when it is a link: a path inside,
/// without `.` and `..`.
///
/// # Errors
/// When there is none.
pub fn stat(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<(Stat, Option<PathBuf>)> {
    let inside = Path::new("/").join(path);
    let (folder, name) = open_parent(root, &inside)?;
    let mut stat = statat(&folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok((stat, None));
    }
    let target = readlinkat(&folder, name.as_c_str(), Vec::new())?;
    let target = Path::new(OsStr::from_bytes(target.to_bytes()));
    let above = inside.parent().unwrap_or(Path::new("/"));
    let bytes = path.as_os_str().as_bytes();
    if bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
        // `link/` means what it leads to.
        stat = fstat(beneath(root, &inside, OFlags::PATH)?)?;
    }
    Ok((stat, Some(lexical(&above.join(target)))))
}

/// A path with `.` and `..` taken out of its text.
#[must_use]
pub fn lexical(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            _ => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_does_not_lead_above_its_root() {
        assert_eq!(lexical(Path::new("/a/../../etc/./x")), Path::new("/etc/x"));
    }
}
