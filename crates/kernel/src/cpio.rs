//! Writes initramfs archives: cpio in the "new ASCII" form, the only one that Linux reads.
//!
//! <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>. Deterministic: the same files give
//! the same bytes. The crates that there are read all forms of cpio and write from a file system; this is a
//! header of fourteen numbers.

use std::io::{self, Write};

/// Archives that follow each other in one file begin at a multiple of this.
const ALIGNMENT: u64 = 512;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// Writes one archive.
#[derive(Debug)]
pub(crate) struct Writer<W: Write> {
    output: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> Writer<W> {
        Writer {
            output,
            written: 0,
            inode: 0,
        }
    }

    /// A directory of root's, mode 0755.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, 2, &[])
    }

    /// A file of root's.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | mode, 1, content)
    }

    /// Ends the archive; another one may follow.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, 1, 0)?;
        self.pad(ALIGNMENT)?;
        Ok(self.output)
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.header(name, mode, links, size)?;
        self.put(content)?;
        self.pad(4)
    }

    fn header(&mut self, name: &str, mode: u32, links: u32, size: u32) -> io::Result<()> {
        let name_size = u32::try_from(name.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (inode, zero) = (self.inode, 0);
        let header = format!(
            "070701{inode:08x}{mode:08x}{zero:08x}{zero:08x}{links:08x}{zero:08x}{size:08x}\
             {zero:08x}{zero:08x}{zero:08x}{zero:08x}{name_size:08x}{zero:08x}"
        );
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let zeros = self.written.next_multiple_of(to) - self.written;
        let zeros = usize::try_from(zeros).expect("less than the alignment");
        self.put(&[0; ALIGNMENT as usize][..zeros])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_program_cpio_reads_what_we_write() {
        let mut writer = Writer::new(Vec::new());
        writer.directory("modules").unwrap();
        writer.file("modules/order", 0o644, b"a\nb\n").unwrap();
        writer.file("init", 0o755, &[7; 1001]).unwrap();
        let archive = writer.finish().unwrap();
        assert_eq!(archive.len() % 512, 0);
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("cpio")
            .args(["-i", "--quiet", "-H", "newc"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("SKIPPED: needs cpio");
            return;
        };
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(child.wait().unwrap().success());
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("modules/order"), b"a\nb\n");
        assert_eq!(read("init"), [7; 1001]);
    }
}
