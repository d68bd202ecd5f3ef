//! What a supervisor that panics leaves for whoever waits for its answer: nobody reads its standard
//! error.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// In the run directory of the instance.
const FILE: &str = "panic";
/// Far more than a message has.
const LONGEST: usize = 4096;

/// From here on a panic of this program is written into an instance's run directory, and where
/// `complaints` go.
pub(super) fn keep(directory: PathBuf, complaints: PathBuf) {
    forget(&directory);
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string().replace('\n', " ");
        write(&directory, &text);
        super::owner::complain(&complaints, "go on", &text);
    }));
}

fn forget(directory: &Path) {
    // Almost never there.
    let _ = fs::remove_file(directory.join(FILE));
}

fn write(directory: &Path, text: &str) {
    // There is nobody to tell when this fails too.
    if let Ok(mut file) = fs::File::create(directory.join(FILE)) {
        let _ = file.write_all(text.as_bytes());
    }
}

/// What the last supervisor of the instance said when it panicked, if it did.
pub(crate) fn of(directory: &Path) -> Option<String> {
    let mut text = fs::read_to_string(directory.join(FILE)).ok()?;
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
    }
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_is_found_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of(folder.path()), None);
        write(folder.path(), "panicked at src/x.rs:1:2: no");
        assert_eq!(
            of(folder.path()).as_deref(),
            Some("panicked at src/x.rs:1:2: no")
        );
        forget(folder.path());
        assert_eq!(of(folder.path()), None);
    }
}
