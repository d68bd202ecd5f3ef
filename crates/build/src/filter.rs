//! What a `RUN` has changed, on its way to be a layer: times that are not later than asked for, and without the empty
//! files and folders that are there only because something was mounted over them.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::PathBuf;

const BLOCK: usize = 512;

/// Reads a tar archive and yields it changed.
pub(crate) struct LayerFilter<R> {
    input: R,
    latest: Option<i64>,
    /// Mount points that the image below does not have, relative, and the folders above them that it does not have.
    stubs: BTreeSet<PathBuf>,
    /// Folders among the stubs, not written until something below them is.
    held: Vec<(PathBuf, Vec<u8>)>,
    /// To be yielded, from `at` on.
    ready: Vec<u8>,
    at: usize,
    /// Bytes of data, with padding, that pass unchanged.
    data: u64,
    is_over: bool,
}

impl<R: Read> LayerFilter<R> {
    pub(crate) fn new(input: R, latest: Option<i64>, stubs: BTreeSet<PathBuf>) -> LayerFilter<R> {
        LayerFilter {
            input,
            latest,
            stubs,
            held: Vec::new(),
            ready: Vec::new(),
            at: 0,
            data: 0,
            is_over: false,
        }
    }

    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(block))
    }

    /// Reads one entry's headers.
    fn advance(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.at = 0;
        let mut headers: Vec<u8> = Vec::new();
        let mut name: Option<Vec<u8>> = None;
        loop {
            let Some(block) = self.block()? else {
                self.is_over = true;
                return Ok(());
            };
            if block.iter().all(|byte| *byte == 0) {
                self.ready.extend(block);
                return Ok(());
            }
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&block);
            let size = header.entry_size()?;
            let padded = size.next_multiple_of(BLOCK as u64);
            let kind = header.entry_type();
            if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
                headers.extend(block);
                let begin = headers.len();
                self.input.by_ref().take(padded).read_to_end(&mut headers)?;
                let data = &headers[begin..][..usize::try_from(size)
                    .unwrap_or(0)
                    .min(headers.len() - begin)];
                if kind.is_gnu_longname() {
                    let end = data
                        .iter()
                        .position(|byte| *byte == 0)
                        .unwrap_or(data.len());
                    name = Some(data[..end].to_vec());
                }
                continue;
            }
            if let Some(latest) = self.latest
                && header.mtime()? > u64::try_from(latest).unwrap_or(0)
            {
                header.set_mtime(u64::try_from(latest).unwrap_or(0));
                header.set_cksum();
            }
            headers.extend(header.as_bytes());
            let bytes = name.unwrap_or_else(|| header.path_bytes().into_owned());
            let path = PathBuf::from(
                <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&bytes),
            );
            let path: PathBuf = path
                .components()
                .filter(|c| !matches!(c, std::path::Component::CurDir))
                .collect();
            self.data = match kind {
                tar::EntryType::Regular
                | tar::EntryType::Continuous
                | tar::EntryType::GNUSparse => padded,
                _ => 0,
            };
            let is_stub = self.stubs.contains(&path);
            self.held.retain(|(held, _)| path.starts_with(held));
            if is_stub && kind.is_dir() {
                self.held.push((path, headers));
                return Ok(());
            }
            if is_stub && size == 0 && kind.is_file() {
                return Ok(());
            }
            for (_, held) in self.held.drain(..) {
                self.ready.extend(held);
            }
            self.ready.extend(headers);
            return Ok(());
        }
    }
}

impl<R: Read> Read for LayerFilter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at < self.ready.len() {
                let count = buffer.len().min(self.ready.len() - self.at);
                buffer[..count].copy_from_slice(&self.ready[self.at..self.at + count]);
                self.at += count;
                return Ok(count);
            }
            if self.data > 0 {
                let most = buffer
                    .len()
                    .min(usize::try_from(self.data).unwrap_or(usize::MAX));
                let count = self.input.read(&mut buffer[..most])?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.data -= count as u64;
                return Ok(count);
            }
            if self.is_over {
                return Ok(0);
            }
            self.advance()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(2000);
            header.set_mode(0o755);
            header.set_size(text.len() as u64);
            header.set_entry_type(match path.ends_with('/') {
                true => tar::EntryType::Directory,
                false => tar::EntryType::Regular,
            });
            builder
                .append_data(&mut header, path, text.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names(filtered: impl Read) -> Vec<(String, u64)> {
        let mut archive = tar::Archive::new(filtered);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (
                entry.path().unwrap().display().to_string(),
                entry.header().mtime().unwrap(),
            )
        });
        entries.collect()
    }

    #[test]
    fn mount_points_go_and_times_are_kept_down() {
        let long = format!("{}/f", "n".repeat(150));
        let bytes = archive(&[
            ("a/", ""),
            ("a/b/", ""),
            ("a/b/c/", ""),
            ("d/", ""),
            ("d/e/", ""),
            ("d/kept", "text"),
            ("g", ""),
            (&long, "x"),
        ]);
        let stubs = ["a", "a/b", "a/b/c", "d", "d/e", "g"]
            .map(PathBuf::from)
            .into();
        let found = names(LayerFilter::new(&bytes[..], Some(1000), stubs));
        let found: Vec<_> = found
            .iter()
            .map(|(name, time)| (name.as_str(), *time))
            .collect();
        assert_eq!(
            found,
            [("d/", 1000), ("d/kept", 1000), (long.as_str(), 1000)]
        );
        let found = names(LayerFilter::new(&bytes[..], None, BTreeSet::new()));
        assert_eq!(found.len(), 8);
    }
}
