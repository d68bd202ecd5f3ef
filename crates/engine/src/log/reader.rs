//! Reads the log, oldest entry first, across rotated files, and follows what is written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use serde::Deserialize;

use super::rotated;
use crate::{LogEntry, LogRequest};

/// No entry is longer; what is longer is not ours.
const LONGEST_LINE: u64 = 1 << 20;
/// The most files that are looked for.
const MOST_FILES: u32 = 1000;

/// One reading of a log: an iterator over its entries.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    request: LogRequest,
    /// Opened already, oldest first; the front one is being read.
    files: VecDeque<BufReader<File>>,
    line: Vec<u8>,
    follow: Option<Follow>,
    is_over: bool,
}

/// What a follower waits for.
#[derive(Debug)]
struct Follow {
    watch: OwnedFd,
    /// Readable when the instance has ended.
    ended: OwnedFd,
    has_ended: bool,
}

#[derive(Deserialize)]
struct Line {
    log: String,
    stream: String,
    time: Timestamp,
}

impl Reader {
    /// Opens the log whose current file is at `path`. A log that nothing was written to is empty.
    ///
    /// With `ended`, the reader waits for more at the end of the log until that descriptor is
    /// readable (or hung up); without it, it stops there, whatever [`LogRequest::follow`] says.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(path: PathBuf, request: &LogRequest, ended: Option<OwnedFd>) -> io::Result<Reader> {
        let follow = match ended {
            Some(ended) => Some(Follow {
                // Before the first look, so that nothing is missed.
                watch: watch(path.parent().unwrap_or(Path::new("/")))?,
                ended,
                has_ended: false,
            }),
            None => None,
        };
        let mut files = open_all(&path)?;
        if let Some(count) = request.tail {
            skip_to_tail(&mut files, count)?;
        }
        Ok(Reader {
            path,
            request: request.clone(),
            files: files.into_iter().map(BufReader::new).collect(),
            line: Vec::new(),
            follow,
            is_over: false,
        })
    }

    /// The next whole line, `None` at the end of what there is.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(file) = self.files.front_mut() else {
                return Ok(None);
            };
            let limit = LONGEST_LINE.saturating_sub(self.line.len() as u64);
            let count = file
                .by_ref()
                .take(limit)
                .read_until(b'\n', &mut self.line)?;
            if self.line.ends_with(b"\n") || self.line.len() as u64 >= LONGEST_LINE {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
            if count > 0 {
                continue;
            }
            if self.files.len() == 1 {
                return Ok(None);
            }
            // A rotated file gets no more: what is left is half an entry.
            self.files.pop_front();
            self.line.clear();
        }
    }

    /// Looks whether the file that is being read was rotated or emptied; true if there is more.
    fn catch_up(&mut self) -> io::Result<bool> {
        let Some(file) = self.files.front_mut() else {
            self.files = open_all(&self.path)?
                .into_iter()
                .map(BufReader::new)
                .collect();
            return Ok(!self.files.is_empty());
        };
        let metadata = file.get_ref().metadata()?;
        if metadata.size() < file.stream_position()? {
            file.seek(SeekFrom::Start(0))?;
            self.line.clear();
            return Ok(true);
        }
        let is_current = std::fs::metadata(&self.path).is_ok_and(|current| {
            (current.dev(), current.ino()) == (metadata.dev(), metadata.ino())
        });
        if is_current {
            return Ok(metadata.size() > file.stream_position()?);
        }
        // Everything newer than the one at hand; all, if that one was deleted meanwhile.
        let all = open_all(&self.path)?;
        let mut newer = VecDeque::new();
        for other in all {
            let its = other.metadata()?;
            match (its.dev(), its.ino()) == (metadata.dev(), metadata.ino()) {
                true => newer.clear(),
                false => newer.push_back(BufReader::new(other)),
            }
        }
        let has_newer = !newer.is_empty();
        // The one at hand stays in front: it may have grown before it was rotated.
        self.files.extend(newer);
        Ok(has_newer)
    }

    /// Blocks until the log may have grown; false when it will not any more.
    fn wait(&mut self) -> io::Result<bool> {
        let Some(follow) = &mut self.follow else {
            return Ok(false);
        };
        if follow.has_ended {
            return Ok(false);
        }
        let mut fds = [
            PollFd::new(&follow.watch, PollFlags::IN),
            PollFd::new(&follow.ended, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Once more through the log after the end, then stop.
        follow.has_ended = !fds[1].revents().is_empty();
        let mut events = [0; 4096];
        while rustix::io::read(&follow.watch, &mut events).is_ok_and(|count| count > 0) {}
        Ok(true)
    }

    fn next_entry(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            let Some(line) = self.next_line()? else {
                if self.follow.is_none() || !(self.catch_up()? || self.wait()?) {
                    return Ok(None);
                }
                continue;
            };
            // Half an entry of a killed writer, or somebody else's line: not an entry.
            let Ok(line) = serde_json::from_slice::<Line>(&line) else {
                continue;
            };
            if self.request.until.is_some_and(|until| line.time > until) {
                return Ok(None);
            }
            let is_stderr = line.stream == "stderr";
            let is_wanted = match is_stderr {
                true => self.request.stderr,
                false => self.request.stdout,
            };
            if !is_wanted || self.request.since.is_some_and(|since| line.time < since) {
                continue;
            }
            return Ok(Some(LogEntry {
                time: line.time,
                is_stderr,
                bytes: line.log.into_bytes(),
            }));
        }
    }
}

impl Iterator for Reader {
    type Item = io::Result<LogEntry>;

    fn next(&mut self) -> Option<io::Result<LogEntry>> {
        if self.is_over {
            return None;
        }
        let next = self.next_entry().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

fn watch(directory: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let what = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, directory, what)?;
    Ok(watch)
}

/// Opens all files of the log, oldest first.
///
/// It goes from the newest to the oldest, so that a rotation in the middle shows a file twice
/// rather than not at all.
fn open_all(path: &Path) -> io::Result<VecDeque<File>> {
    let mut files: VecDeque<File> = VecDeque::new();
    let mut seen = Vec::new();
    let mut missing = 0;
    for age in 0..MOST_FILES {
        match File::open(rotated(path, age)) {
            Ok(file) => {
                missing = 0;
                let metadata = file.metadata()?;
                let identity = (metadata.dev(), metadata.ino());
                if !seen.contains(&identity) {
                    seen.push(identity);
                    files.push_front(file);
                }
            }
            // Between two steps of a rotation there is one file less, and older ones behind the gap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing += 1,
            Err(error) => return Err(error),
        }
        if missing == 2 {
            break;
        }
    }
    Ok(files)
}

/// Leaves the last `count` lines to be read.
fn skip_to_tail(files: &mut VecDeque<File>, count: usize) -> io::Result<()> {
    let mut wanted = count;
    for at in (0..files.len()).rev() {
        let (lines, offset) = last_lines(&mut files[at], wanted)?;
        files[at].seek(SeekFrom::Start(offset))?;
        wanted -= lines;
        if wanted == 0 {
            files.drain(..at);
            return Ok(());
        }
    }
    Ok(())
}

/// How many of the last `wanted` lines a file has, and where they begin.
fn last_lines(file: &mut File, wanted: usize) -> io::Result<(usize, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    if wanted == 0 || size == 0 {
        return Ok((0, size));
    }
    let mut block = vec![0; 64 << 10];
    let mut end = size;
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        for at in (0..part.len()).rev() {
            // The line end of the last line begins nothing.
            if part[at] == b'\n' && start + at as u64 + 1 < size {
                found += 1;
                if found == wanted {
                    return Ok((found, start + at as u64 + 1));
                }
            }
        }
        end = start;
    }
    Ok((found + 1, 0))
}

#[cfg(test)]
mod tests {
    use isle_types::ByteSize;

    use super::*;
    use crate::config::{LogConfig, LogDriver};
    use crate::log::{Stream, Writer};

    fn writer(path: &Path, max_size: u64, max_files: u32) -> Writer {
        let config = LogConfig {
            driver: LogDriver::JsonFile,
            max_size: ByteSize(max_size),
            max_files,
        };
        Writer::new(path.to_owned(), &config)
    }

    fn moment(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_262_422 + second).unwrap()
    }

    fn everything() -> LogRequest {
        LogRequest {
            stdout: true,
            stderr: true,
            ..LogRequest::default()
        }
    }

    fn texts(path: &Path, request: &LogRequest) -> Vec<String> {
        Reader::open(path.to_owned(), request, None)
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().bytes).unwrap())
            .collect()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        assert!(texts(&path, &everything()).is_empty());
        let mut writer = writer(&path, 1000, 5);
        for number in 0..30 {
            let stream = match number % 2 {
                0 => Stream::Stdout,
                _ => Stream::Stderr,
            };
            let line = format!("<{number}> \"\u{fc}\"\n");
            writer
                .write(stream, line.as_bytes(), moment(number))
                .unwrap();
        }
        let expected: Vec<_> = (0..30).map(|n| format!("<{n}> \"\u{fc}\"\n")).collect();
        assert_eq!(texts(&path, &everything()), expected);
        for tail in [0, 1, 7, 29, 30, 31] {
            let request = LogRequest {
                tail: Some(tail),
                ..everything()
            };
            assert_eq!(
                texts(&path, &request),
                expected[30 - tail.min(30)..],
                "{tail}"
            );
        }
        let request = LogRequest {
            since: Some(moment(5)),
            until: Some(moment(8)),
            stderr: false,
            ..everything()
        };
        assert_eq!(texts(&path, &request), [&expected[6][..], &expected[8][..]]);
    }

    #[test]
    fn a_line_that_is_no_entry_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        std::fs::write(&path, "{\"log\":\"ha\nnot json\n").unwrap();
        let mut writer = writer(&path, 10_000, 2);
        writer.write(Stream::Stdout, b"good\n", moment(0)).unwrap();
        assert_eq!(texts(&path, &everything()), ["good\n"]);
    }

    #[test]
    fn a_follower_sees_every_entry_through_all_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        let (ended, end) = rustix::pipe::pipe().unwrap();
        // Enough files that none is deleted before it is read.
        let mut writer = writer(&path, 2000, 900);
        writer.write(Stream::Stdout, b"0\n", moment(0)).unwrap();
        let reader = Reader::open(path.clone(), &everything(), Some(ended)).unwrap();
        let follower = std::thread::spawn(move || {
            reader
                .map(|entry| String::from_utf8(entry.unwrap().bytes).unwrap())
                .collect::<Vec<_>>()
        });
        for number in 1..3000 {
            let line = format!("{number}\n");
            writer
                .write(Stream::Stdout, line.as_bytes(), moment(0))
                .unwrap();
        }
        drop(end);
        let expected: Vec<_> = (0..3000).map(|number| format!("{number}\n")).collect();
        assert_eq!(follower.join().unwrap(), expected);
    }
}
