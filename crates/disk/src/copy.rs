//! Copies of sparse files that stay sparse.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Makes `to`, an empty file, equal to `from`. Shares the blocks where the file system can (ioctl_ficlone(2)),
/// else copies what holds data (lseek(2), `SEEK_DATA`) and leaves holes as holes. Returns how many bytes were
/// copied. Moves the offset of `from`.
///
/// # Errors
/// What the file systems say.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<u64> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(0);
    }
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut copied = 0;
    let mut offset = 0;
    while offset < length {
        let start = match seek(from, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // From here on there is a hole.
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(errno) => return Err(errno.into()),
        };
        let end = match seek(from, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => length,
            Err(errno) => return Err(errno.into()),
        };
        copy_range(from, to, start, end)?;
        copied += end - start;
        offset = end;
    }
    Ok(copied)
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let rest = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Between two file systems that have nothing in common.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(from, to, read_at, end);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; 1 << 20];
    while at < end {
        let rest = usize::try_from(end - at).unwrap_or(usize::MAX);
        let count = buffer.len().min(rest);
        let count = from.read_at(&mut buffer[..count], at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn sparse() -> File {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", (500 << 20) + 3).unwrap();
        file
    }

    fn check(copy: &File) {
        assert_eq!(copy.metadata().unwrap().len(), 1 << 30);
        let mut buffer = [0; 6];
        copy.read_exact_at(&mut buffer, (500 << 20) + 3).unwrap();
        assert_eq!(&buffer, b"middle");
        copy.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"begin\0");
        copy.read_exact_at(&mut buffer, (1 << 30) - 6).unwrap();
        assert_eq!(buffer, [0; 6]);
    }

    #[test]
    fn holes_stay_holes() {
        let copy = tempfile::tempfile_in("/var/tmp").unwrap();
        copy_sparse(&sparse(), &copy).unwrap();
        check(&copy);
        let bytes = copy.metadata().unwrap().blocks() * 512;
        assert!(bytes < 1 << 20, "{bytes} bytes are allocated");
    }

    #[test]
    fn between_file_systems_too() {
        let copy = tempfile::tempfile_in("/dev/shm").unwrap();
        copy_sparse(&sparse(), &copy).unwrap();
        check(&copy);
    }

    #[test]
    fn a_range_copied_by_hand_is_the_same() {
        let copy = tempfile::tempfile_in("/var/tmp").unwrap();
        copy.set_len(1 << 30).unwrap();
        let from = sparse();
        copy_by_hand(&from, &copy, 0, 4096).unwrap();
        copy_by_hand(&from, &copy, 500 << 20, (500 << 20) + 4096).unwrap();
        check(&copy);
        let end = (1 << 30) + 1;
        copy_by_hand(&from, &copy, (1 << 30) - 10, end).unwrap_err();
    }
}
