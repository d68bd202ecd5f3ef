//! SHA-256 of files, in the form `sha256:<hex>`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    text(&Sha256::digest(bytes))
}

pub(crate) fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(text(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
