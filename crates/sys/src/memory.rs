//! Giving memory back: what the allocator holds, code that has run, stack that was used.

use std::fs;
use std::io;
use std::ops::Range;

/// Gives the memory that the allocator holds in reserve back to the kernel, see malloc_trim(3).
/// Does nothing where the C library has no such call.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions, and touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes pages of the program's file out of the process's memory: code and constants that were
/// needed once, for the start. What is needed again is read again, from the page cache. See
/// `MADV_DONTNEED` of madvise(2).
///
/// # Errors
/// When `/proc/self/smaps` cannot be read.
pub fn drop_code() -> io::Result<()> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    for range in unmodified_files(&smaps) {
        // SAFETY: these are private mappings of files, not writable, with no page that differs
        // from the file (no anonymous memory; relocated data has some). Dropped pages come back
        // from the file with the same content. Nobody else changes the mappings: they come from
        // the kernel's and the linker's start of the program, which has one thread.
        unsafe {
            libc::madvise(
                range.start as *mut libc::c_void,
                range.len(),
                libc::MADV_DONTNEED,
            );
        }
    }
    Ok(())
}

/// The mappings of files that hold nothing but the file's content.
fn unmodified_files(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(range) = header(line) {
            candidate = range;
        } else if line.starts_with("Anonymous:") && line.ends_with(" 0 kB") {
            found.extend(candidate.take());
        }
    }
    found
}

/// `None` when the line is no header; `Some(None)` when it is that of a mapping to be left alone.
fn header(line: &str) -> Option<Option<Range<usize>>> {
    let mut fields = line.split_ascii_whitespace();
    let (addresses, permissions) = (fields.next()?, fields.next()?);
    let (start, end) = addresses.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let inode = fields.nth(2)?;
    let is_file = inode != "0" && matches!(permissions, "r-xp" | "r--p");
    Some(is_file.then_some(start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_that_equal_their_file_are_dropped() {
        let smaps = "\
00400000-00401000 r-xp 00000000 fe:00 77                                 /bin/x
Size:                  4 kB
Anonymous:             0 kB
00401000-00403000 r--p 00001000 fe:00 77                                 /bin/x
Anonymous:             8 kB
00403000-00404000 rw-p 00003000 fe:00 77                                 /bin/x
Anonymous:             0 kB
00500000-00600000 rw-p 00000000 00:00 0                                  [heap]
Anonymous:             0 kB
7f0000000000-7f0000002000 r--p 00000000 fe:00 78                         /a file
Anonymous:             0 kB
7fff00000000-7fff00001000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
";
        let expected = [0x40_0000..0x40_1000, 0x7f00_0000_0000..0x7f00_0000_2000];
        assert_eq!(unmodified_files(smaps), expected);
    }

    #[test]
    fn a_program_goes_on_without_its_code_in_memory() {
        drop_code().unwrap();
        trim();
        assert_eq!(format!("{:?}", vec![1, 2, 3]), "[1, 2, 3]");
    }
}
