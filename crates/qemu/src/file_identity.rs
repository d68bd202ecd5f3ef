//! Which file a file is, and what it holds.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use sha2::{Digest, Sha256};

/// Device, inode, size, and the times of the last change of content and of the inode: a file that was
/// replaced or written to since has another. It says nothing about what a disk forgets.
pub(crate) fn identity(about: &Metadata) -> String {
    format!(
        "{}-{}-{}-{}.{:09}-{}.{:09}",
        about.dev(),
        about.ino(),
        about.size(),
        about.mtime(),
        about.mtime_nsec(),
        about.ctime(),
        about.ctime_nsec()
    )
}

/// The SHA-256 of a file as hexadecimal digits. `cache` is a folder (made when it is missing) that keeps
/// the answer for as long as the file stays as it is; it must not outlive a boot.
pub(crate) fn digest(path: &Path, cache: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let known = cache.join(format!("sha256-{}", identity(&file.metadata()?)));
    match fs::read_to_string(&known) {
        Ok(digest) if digest.len() == 64 => return Ok(digest),
        _ => {}
    }
    let digest = digest_of(&file)?;
    replace(&known, digest.as_bytes());
    Ok(digest)
}

/// The SHA-256 of a file with holes: of each run of data, where it is, how long it is, and it.
pub(crate) fn digest_of(file: &File) -> io::Result<String> {
    let size = file.metadata()?.size();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut place = 0;
    while place < size {
        let Some((start, end)) = data(file, place, size)? else {
            break;
        };
        hash.update(start.to_le_bytes());
        hash.update((end - start).to_le_bytes());
        let mut at = start;
        while at < end {
            let room = usize::try_from(end - at)
                .unwrap_or(buffer.len())
                .min(buffer.len());
            let count = file.read_at(buffer.get_mut(..room).unwrap_or(&mut []), at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hash.update(buffer.get(..count).unwrap_or(&[]));
            at += count as u64;
        }
        place = end;
    }
    hash.update(size.to_le_bytes());
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Copies what a file holds into an empty one, but for pages that are all zero: they become holes.
pub(crate) fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    const PAGE: usize = 4096;
    static ZEROES: [u8; PAGE] = [0; PAGE];
    let size = from.metadata()?.size();
    let mut buffer = vec![0; 1 << 20];
    let mut place = 0;
    while let Some((start, end)) = data(from, place, size)? {
        let mut at = start;
        while at < end {
            let room = usize::try_from(end - at)
                .unwrap_or(buffer.len())
                .min(buffer.len());
            let count = from.read_at(buffer.get_mut(..room).unwrap_or(&mut []), at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let read = buffer.get(..count).unwrap_or(&[]);
            // Runs of pages that are not zero, each written at once.
            let mut run = 0..0;
            for (index, page) in read.chunks(PAGE).enumerate() {
                let offset = index * PAGE;
                if ZEROES.get(..page.len()) != Some(page) {
                    if run.end != offset {
                        to.write_all_at(
                            read.get(run.clone()).unwrap_or(&[]),
                            at + run.start as u64,
                        )?;
                        run.start = offset;
                    }
                    run.end = offset + page.len();
                }
            }
            to.write_all_at(read.get(run.clone()).unwrap_or(&[]), at + run.start as u64)?;
            at += count as u64;
        }
        place = end;
        if place >= size {
            break;
        }
    }
    to.set_len(size)
}

/// The next run of data from `place` on. Where a file system knows no holes, all is data.
fn data(file: &File, place: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(place)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))))
}

/// Writes a small file so that it is there as a whole or not at all. Best effort, for what can be found
/// out again.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    if let Some(folder) = path.parent() {
        let _ = fs::create_dir_all(folder);
    }
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_counts_and_a_changed_byte_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, place: u64, size: u64| {
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(folder.path().join(name))
                .unwrap();
            file.set_len(size).unwrap();
            file.write_all_at(b"x", place).unwrap();
            digest_of(&file).unwrap()
        };
        let base = file("a", 1 << 20, 4 << 20);
        assert_eq!(base, file("b", 1 << 20, 4 << 20));
        assert_ne!(base, file("c", 2 << 20, 4 << 20));
        assert_ne!(base, file("d", 1 << 20, 5 << 20));
        assert_eq!(base.len(), 64);
    }

    #[test]
    fn a_sparse_copy_is_the_same_and_has_no_pages_of_zero() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let mut options = File::options();
            options.create_new(true).read(true).write(true);
            options.open(folder.path().join(name)).unwrap()
        };
        let (from, to) = (file("from"), file("to"));
        from.set_len(8 << 20).unwrap();
        from.write_all_at(&vec![0; 3 << 20], 1 << 20).unwrap();
        for place in [0, 5000, 2 << 20, (3 << 20) - 1, 6 << 20, (8 << 20) - 1] {
            from.write_all_at(b"x", place).unwrap();
        }
        copy_sparse(&from, &to).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert!(read("from") == read("to"));
        assert!(to.metadata().unwrap().blocks() * 512 < 64 << 10);
    }

    #[test]
    fn a_digest_is_computed_again_when_the_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("kernel"), folder.path().join("cache"));
        fs::write(&path, "one").unwrap();
        let first = digest(&path, &cache).unwrap();
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
        assert_eq!(digest(&path, &cache).unwrap(), first);
        fs::write(&path, "second").unwrap();
        assert_ne!(digest(&path, &cache).unwrap(), first);
    }
}
