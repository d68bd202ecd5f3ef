//! Writes the log: lines out of a stream of bytes, JSON out of lines, files out of JSON.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;

use super::{LONGEST_ENTRY, Stream, rotated};
use crate::config::LogConfig;

/// What is collected before it goes to the file in one write(2).
const BATCH: usize = 64 << 10;

/// The one writer of an instance's log.
///
/// The file is made by the first entry. What cannot be written (disk full) is lost, and the error
/// says so; the next entry is tried again.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    file: Option<File>,
    /// Bytes in the file.
    size: u64,
    /// What has not ended with a line end yet, of each stream.
    partial: [Vec<u8>; 2],
    /// Entries on their way to the file.
    batch: Vec<u8>,
    newest: Option<Timestamp>,
}

impl Writer {
    /// A writer to the file at `path`, which goes on where an earlier one has stopped.
    #[must_use]
    pub fn new(path: PathBuf, config: &LogConfig) -> Writer {
        Writer {
            path,
            max_size: config.max_size.bytes().max(1),
            max_files: config.max_files.max(1),
            file: None,
            size: 0,
            partial: [Vec::new(), Vec::new()],
            batch: Vec::new(),
            newest: None,
        }
    }

    /// When the newest entry was written.
    #[must_use]
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Takes output. Whole lines go to the file at once, the rest waits for its line end.
    ///
    /// # Errors
    /// When the file cannot be written; this output is not in the log then.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let tail = Tail::new(stream, now);
        let mut rest = bytes;
        let mut result = Ok(());
        while !rest.is_empty() {
            let partial = &mut self.partial[stream as usize];
            let room = LONGEST_ENTRY - partial.len();
            let window = &rest[..rest.len().min(room)];
            let (taken, is_complete) = match window.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            let (piece, after) = rest.split_at(taken);
            rest = after;
            if !is_complete {
                partial.extend_from_slice(piece);
                break;
            }
            if partial.is_empty() && piece.ends_with(b"\n") {
                result = self.entry(piece, &tail).and(result);
                continue;
            }
            let mut line = std::mem::take(partial);
            line.extend_from_slice(piece);
            // A character that would be cut in two goes to the next entry as a whole.
            let whole = match line.ends_with(b"\n") {
                true => line.len(),
                false => line.len() - unfinished_character(&line),
            };
            result = self.entry(&line[..whole], &tail).and(result);
            self.partial[stream as usize].extend_from_slice(&line[whole..]);
        }
        self.flush().and(result)
    }

    /// Writes what still waits for a line end: the stream has ended, or somebody wants to see it.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn end_lines(&mut self, now: Timestamp) -> io::Result<()> {
        let mut result = Ok(());
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(&mut self.partial[stream as usize]);
            if !line.is_empty() {
                result = self.entry(&line, &Tail::new(stream, now)).and(result);
            }
        }
        self.flush().and(result)
    }

    /// Gives back the memory that a burst has left behind.
    pub fn shrink(&mut self) {
        self.batch = Vec::new();
        self.partial.iter_mut().for_each(Vec::shrink_to_fit);
    }

    fn entry(&mut self, line: &[u8], tail: &Tail) -> io::Result<()> {
        let mut result = Ok(());
        if self.size + self.batch.len() as u64 >= self.max_size {
            result = self.flush().and_then(|()| self.rotate());
        }
        self.newest = Some(tail.time);
        self.batch.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.batch, line);
        self.batch.extend_from_slice(tail.text.as_bytes());
        if self.batch.len() >= BATCH {
            result = self.flush().and(result);
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let result = self.open().and_then(|()| {
            let file = self.file.as_mut().expect("opened above");
            file.write_all(&self.batch)
        });
        match &result {
            Ok(()) => self.size += self.batch.len() as u64,
            // How much of it arrived is not known: open again, which looks.
            Err(_) => self.file = None,
        }
        self.batch.clear();
        result
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let mut file = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o640)
            .open(&self.path)?;
        self.size = file.seek(SeekFrom::End(0))?;
        if self.size > 0 {
            // A writer that was killed may have left half an entry; it must not spoil the next.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                self.size += 1;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open()?;
        if self.size < self.max_size {
            // Somebody has emptied it meanwhile.
            return Ok(());
        }
        if self.max_files == 1 {
            self.size = 0;
            return self.file.as_ref().expect("opened above").set_len(0);
        }
        for age in (0..self.max_files - 1).rev() {
            match fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = None;
        self.size = 0;
        Ok(())
    }
}

/// What follows the text of an entry; the same for all that is written at one moment.
struct Tail {
    text: String,
    time: Timestamp,
}

impl Tail {
    fn new(stream: Stream, time: Timestamp) -> Tail {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        Tail {
            text: format!("\",\"stream\":\"{stream}\",\"time\":\"{time}\"}}\n"),
            time,
        }
    }
}

/// How many bytes at the end are the beginning of a character that is cut off.
fn unfinished_character(bytes: &[u8]) -> usize {
    let back = bytes
        .iter()
        .rev()
        .take(3)
        .position(|byte| byte & 0b1100_0000 == 0b1100_0000);
    match back {
        Some(back) => {
            let lead = bytes[bytes.len() - 1 - back];
            let length = match lead {
                0b1100_0000..=0b1101_1111 => 2,
                0b1110_0000..=0b1110_1111 => 3,
                _ => 4,
            };
            match back + 1 < length {
                true => back + 1,
                false => 0,
            }
        }
        None => 0,
    }
}

/// Appends a line as the inside of a JSON string, escaped exactly as Docker's driver does it.
fn escape(out: &mut Vec<u8>, line: &[u8]) {
    for chunk in line.utf8_chunks() {
        let mut text = chunk.valid();
        while !text.is_empty() {
            let plain = text
                .bytes()
                .position(|byte| {
                    byte < 0x20 || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2)
                })
                .unwrap_or(text.len());
            out.extend_from_slice(&text.as_bytes()[..plain]);
            text = &text[plain..];
            let Some(special) = text.chars().next() else {
                break;
            };
            match special {
                '"' | '\\' => out.extend_from_slice(&[b'\\', special as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.extend_from_slice(format!("\\u{:04x}", special as u32).as_bytes());
                }
                other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            text = &text[special.len_utf8()..];
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use isle_types::ByteSize;

    use super::*;
    use crate::config::LogDriver;

    fn config(max_size: u64, max_files: u32) -> LogConfig {
        LogConfig {
            driver: LogDriver::JsonFile,
            max_size: ByteSize(max_size),
            max_files,
        }
    }

    fn moment(nanosecond: i128) -> Timestamp {
        Timestamp::from_nanosecond(1_795_262_422_000_000_000 + nanosecond).unwrap()
    }

    #[test]
    fn an_entry_is_what_docker_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        let mut writer = Writer::new(path.clone(), &config(1 << 20, 3));
        writer
            .write(
                Stream::Stdout,
                b"a \"b\" \\ <&>\t\x1b[0m\r\n",
                moment(120_000_000),
            )
            .unwrap();
        writer
            .write(Stream::Stderr, "gr\u{fc}n \u{2028}\n".as_bytes(), moment(1))
            .unwrap();
        writer.write(Stream::Stderr, b"\xff\n", moment(0)).unwrap();
        writer.write(Stream::Stdout, b"no end", moment(0)).unwrap();
        writer.end_lines(moment(0)).unwrap();
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            concat!(
                r#"{"log":"a \"b\" \\ \u003c\u0026\u003e\u0009\u001b[0m\r\n","stream":"stdout","time":"2026-11-21T12:00:22.12Z"}"#,
                "\n",
                "{\"log\":\"gr\u{fc}n \\u2028\\n\",\"stream\":\"stderr\",\"time\":\"2026-11-21T12:00:22.000000001Z\"}\n",
                r#"{"log":"\ufffd\n","stream":"stderr","time":"2026-11-21T12:00:22Z"}"#,
                "\n",
                r#"{"log":"no end","stream":"stdout","time":"2026-11-21T12:00:22Z"}"#,
                "\n",
            )
        );
    }

    #[test]
    fn a_log_without_line_ends_is_cut_between_characters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        let mut writer = Writer::new(path.clone(), &config(1 << 20, 3));
        // 16 KiB is no multiple of 3, so a cut would hit a character.
        let text = "\u{20ac}".repeat(12_000);
        for chunk in text.as_bytes().chunks(1000) {
            writer.write(Stream::Stdout, chunk, moment(0)).unwrap();
        }
        writer.end_lines(moment(0)).unwrap();
        let log = fs::read_to_string(path).unwrap();
        assert!(!log.contains("fffd"));
        assert_eq!(log.matches('\u{20ac}').count(), 12_000);
        assert_eq!(log.lines().count(), 3);
    }

    #[test]
    fn rotation_bounds_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        let mut writer = Writer::new(path.clone(), &config(1000, 3));
        for number in 0..200 {
            writer
                .write(Stream::Stdout, format!("{number}\n").as_bytes(), moment(0))
                .unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["x-json.log", "x-json.log.1", "x-json.log.2"]);
        for name in names {
            let size = fs::metadata(folder.path().join(name)).unwrap().len();
            assert!(size <= 1100, "{size}");
        }
    }

    #[test]
    fn one_file_starts_anew_when_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        let mut writer = Writer::new(path.clone(), &config(500, 1));
        for number in 0..100 {
            writer
                .write(Stream::Stdout, format!("{number}\n").as_bytes(), moment(0))
                .unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(fs::read_to_string(path).unwrap().contains("\"99\\n\""));
    }

    #[test]
    fn half_an_entry_of_a_killed_writer_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        fs::write(&path, r#"{"log":"half"#).unwrap();
        let mut writer = Writer::new(path.clone(), &config(1 << 20, 3));
        writer.write(Stream::Stdout, b"next\n", moment(0)).unwrap();
        let log = fs::read_to_string(path).unwrap();
        assert_eq!(log.lines().count(), 2);
        assert!(
            log.lines()
                .nth(1)
                .unwrap()
                .starts_with(r#"{"log":"next\n""#)
        );
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/x-json.log");
        let mut writer = Writer::new(path.clone(), &config(1 << 20, 3));
        writer
            .write(Stream::Stdout, b"lost\n", moment(0))
            .unwrap_err();
        fs::create_dir(folder.path().join("missing")).unwrap();
        writer.write(Stream::Stdout, b"kept\n", moment(0)).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 1);
    }
}
