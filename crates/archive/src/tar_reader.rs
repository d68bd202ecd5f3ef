//! Reads tar archives: POSIX ustar and PAX, GNU, and the old format, as tar(5) of libarchive and
//! the GNU tar manual describe them.
//!
//! Written by hand because layers come from strangers: the reader of the `tar` crate takes long
//! names and PAX records of any size into memory (a layer of a few kilobytes can ask for
//! gigabytes). Here every header has a cap, what is ambiguous (two sizes for one entry, data in an
//! entry that can have none) is refused instead of guessed, and nothing is allocated an entry.

use std::io::{self, BufRead, Read};

use crate::limits::Limits;

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A further name of a file that came before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// The metadata of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// As it is written in the archive: any bytes but NUL, may be absolute or hold `..`.
    pub path: Vec<u8>,
    /// Target of a link, as written.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Option<EntryKind>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data in the archive.
    pub size: u64,
    /// Bytes of the file: differs from `size` for sparse files.
    pub real_size: u64,
    /// Seconds since the epoch, and nanoseconds.
    pub mtime: (i64, u32),
    /// Of a device.
    pub device: (u32, u32),
    /// `SCHILY.xattr.` records.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data belongs in a sparse file: offset, length. Ascending, without overlap.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// Why a stream is not an archive that can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The stream itself failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The stream ends within an entry.
    #[error("the archive is cut off")]
    CutOff,
    /// Not a tar header, or one that was damaged.
    #[error("entry {0} of the archive has a damaged header: {1}")]
    Header(u64, &'static str),
    /// A header that two readers could understand differently.
    #[error("entry {0} of the archive is ambiguous: {1}")]
    Ambiguous(u64, &'static str),
    /// A kind of entry that has no meaning here.
    #[error("entry {0} of the archive has type {1:?}, which is not supported")]
    Type(u64, char),
    /// Larger than [`Limits::header_bytes`].
    #[error("entry {0} of the archive has an extended header of {1} bytes, more than {2}")]
    HeaderTooLarge(u64, u64, u64),
    /// More than [`Limits::entries`].
    #[error("the archive has more than {0} entries")]
    TooManyEntries(u64),
}

/// The reader. [`TarReader::next`] goes to the next entry, [`TarReader::data`] reads its content.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    limits: Limits,
    entry: Entry,
    index: u64,
    /// Content of the current entry not read yet.
    remaining: u64,
    /// Fill bytes after it.
    padding: u64,
    /// Bytes taken from the input so far.
    position: u64,
}

/// What extended headers said about the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_map: Vec<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    has_pax: bool,
}

impl<R: BufRead> TarReader<R> {
    /// Reads `input` from its start.
    pub fn new(input: R, limits: Limits) -> Self {
        TarReader {
            input,
            limits,
            entry: Entry::default(),
            index: 0,
            remaining: 0,
            padding: 0,
            position: 0,
        }
    }

    /// Bytes of the archive before the current place: right after [`TarReader::next`], where the
    /// entry's data starts.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Gives up the current entry's content: returns how many bytes the caller must skip in the
    /// underlying stream before [`TarReader::next`].
    pub fn forget_data(&mut self) -> u64 {
        let rest = self.remaining + self.padding;
        self.remaining = 0;
        self.padding = 0;
        self.position += rest;
        rest
    }

    /// The underlying stream, at the current place.
    pub const fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The underlying stream.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Goes on to the next entry; `None` at the end of the archive.
    ///
    /// # Errors
    /// [`TarError`] when what follows is not one.
    #[expect(
        clippy::should_implement_trait,
        reason = "lends, which Iterator cannot"
    )]
    pub fn next(&mut self) -> Result<Option<&Entry>, TarError> {
        self.skip(self.remaining + self.padding)?;
        self.remaining = 0;
        self.padding = 0;
        let mut extended = Extended::default();
        let mut header = [0_u8; BLOCK];
        loop {
            if !self.block(&mut header)? {
                return self.end(&extended);
            }
            if header.iter().all(|byte| *byte == 0) {
                // The end is two blocks of zeros; a single one at the end of the stream passes.
                if self.block(&mut header)? && header.iter().any(|byte| *byte != 0) {
                    return Err(self.damaged("a lone block of zeros"));
                }
                return self.end(&extended);
            }
            self.index += 1;
            if self.index > self.limits.entries {
                return Err(TarError::TooManyEntries(self.limits.entries));
            }
            if !checksum_is_right(&header) {
                return Err(self.damaged("wrong checksum"));
            }
            let size = self.number(&header[124..136], "size")?;
            let size = u64::try_from(size).map_err(|_| self.damaged("a negative size"))?;
            match header[156] {
                b'x' => {
                    if extended.has_pax {
                        return Err(self.ambiguous("two PAX headers for one entry"));
                    }
                    extended.has_pax = true;
                    let bytes = self.extension(size)?;
                    self.pax(&bytes, &mut extended)?;
                }
                // Global headers hold comments in practice (git archive); Docker ignores them too.
                b'g' => {
                    self.extension(size)?;
                }
                b'L' => extended.path = Some(until_nul(self.extension(size)?)),
                b'K' => extended.link = Some(until_nul(self.extension(size)?)),
                kind => {
                    self.fill_entry(&header, kind, size, extended)?;
                    return Ok(Some(&self.entry));
                }
            }
        }
    }

    /// The content of the current entry, for reading in place.
    pub fn data(&mut self) -> Data<'_, R> {
        Data { archive: self }
    }

    fn end(&self, extended: &Extended) -> Result<Option<&Entry>, TarError> {
        match extended.has_pax || extended.path.is_some() || extended.link.is_some() {
            true => Err(TarError::CutOff),
            false => Ok(None),
        }
    }

    fn fill_entry(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        header_size: u64,
        extended: Extended,
    ) -> Result<(), TarError> {
        let is_posix = &header[257..263] == b"ustar\0";
        let is_gnu = &header[257..265] == b"ustar  \0";
        let mut size = header_size;
        if let Some(pax_size) = extended.size {
            // The size field may be too small for the size (then writers leave 0 or the low bits
            // there); a PAX record wins over it, see pax(1). The two readers of CVE-2025-62518
            // disagreed on this.
            size = pax_size;
        }
        let old_directory = matches!(kind, 0 | b'0')
            && extended
                .path
                .as_deref()
                .unwrap_or(trim_nul(&header[..100]))
                .ends_with(b"/");
        let kind = match kind {
            0 | b'0' | b'7' if old_directory => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(TarError::Type(self.index, char::from(other))),
        };
        if kind != EntryKind::File && size != 0 {
            return Err(self.ambiguous("it has a size, but its type has no content"));
        }
        let path = match extended.sparse_name.or(extended.path) {
            Some(path) => path,
            None => {
                let name = trim_nul(&header[..100]);
                let prefix = match is_posix {
                    true => trim_nul(&header[345..500]),
                    false => b"",
                };
                match prefix.is_empty() {
                    true => name.to_vec(),
                    false => [prefix, b"/", name].concat(),
                }
            }
        };
        let link = extended
            .link
            .unwrap_or_else(|| trim_nul(&header[157..257]).to_vec());
        if path.contains(&0) || link.contains(&0) {
            return Err(self.ambiguous("its path has a NUL in it"));
        }
        let id = |pax: Option<u64>, field: &[u8], what| -> Result<u32, TarError> {
            let value = match pax {
                Some(value) => value,
                None => u64::try_from(self.number(field, what)?)
                    .map_err(|_| self.damaged("a negative owner"))?,
            };
            // -1 means "leave as it is" to chown(2).
            match u32::try_from(value) {
                Ok(u32::MAX) | Err(_) => Err(self.damaged("an owner above 4294967294")),
                Ok(id) => Ok(id),
            }
        };
        let uid = id(extended.uid, &header[108..116], "uid")?;
        let gid = id(extended.gid, &header[116..124], "gid")?;
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => (self.number(&header[136..148], "mtime")?, 0),
        };
        let mode = self.number(&header[100..108], "mode")?;
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice if is_posix || is_gnu => {
                let half = |field, what| {
                    u32::try_from(self.number(field, what)?)
                        .map_err(|_| self.damaged("a device number out of range"))
                };
                (
                    half(&header[329..337], "devmajor")?,
                    half(&header[337..345], "devminor")?,
                )
            }
            _ => (0, 0),
        };
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64).saturating_sub(size);
        if size > u64::MAX / 2 {
            return Err(self.damaged("a size that no file can have"));
        }
        let mut real_size = size;
        let mut sparse = None;
        if header[156] == b'S' {
            if !is_gnu {
                return Err(self.damaged("a sparse entry that is not of GNU tar"));
            }
            let map = self.old_sparse_map(header)?;
            let real = self.number(&header[483..495], "real size")?;
            real_size = u64::try_from(real).map_err(|_| self.damaged("a negative size"))?;
            sparse = Some(map);
        } else if extended.sparse_major == Some(1) {
            sparse = Some(self.new_sparse_map()?);
            real_size = extended
                .sparse_size
                .ok_or_else(|| self.damaged("a sparse entry without its size"))?;
        } else if let (Some(real), false) = (extended.sparse_size, extended.sparse_map.is_empty()) {
            if !extended.sparse_map.len().is_multiple_of(2) {
                return Err(self.damaged("a sparse map with an odd number of fields"));
            }
            let pairs = extended.sparse_map.chunks_exact(2);
            sparse = Some(pairs.map(|pair| (pair[0], pair[1])).collect());
            real_size = real;
        } else if extended.sparse_major.is_some() || extended.sparse_size.is_some() {
            return Err(self.damaged("a sparse entry without a map"));
        }
        if let Some(map) = &sparse {
            if kind != EntryKind::File {
                return Err(self.ambiguous("a sparse map on what is not a file"));
            }
            self.check_sparse(map, real_size)?;
        }
        self.entry = Entry {
            path,
            link,
            kind: Some(kind),
            mode: (mode & 0o7777) as u32,
            uid,
            gid,
            size: self.remaining,
            real_size,
            mtime,
            device,
            xattrs: extended.xattrs,
            sparse,
        };
        Ok(())
    }

    fn check_sparse(&self, map: &[(u64, u64)], real_size: u64) -> Result<(), TarError> {
        let mut end = 0;
        let mut data = 0_u64;
        for (offset, length) in map {
            let next = offset
                .checked_add(*length)
                .ok_or_else(|| self.damaged("a sparse map that overflows"))?;
            if *offset < end || next > real_size {
                return Err(self.damaged("a sparse map that overlaps or exceeds the file"));
            }
            end = next;
            data += length;
        }
        match data == self.remaining {
            true => Ok(()),
            false => Err(self.damaged("a sparse map that does not fit the data")),
        }
    }

    /// GNU tar's own format: four places in the header, then blocks of 21.
    fn old_sparse_map(&mut self, header: &[u8; BLOCK]) -> Result<Vec<(u64, u64)>, TarError> {
        let mut map = Vec::new();
        let mut take = |this: &Self, places: &[u8]| -> Result<(), TarError> {
            for place in places.chunks_exact(24) {
                if place[0] == 0 {
                    break;
                }
                let pair = (
                    this.number(&place[..12], "sparse offset")?,
                    this.number(&place[12..], "sparse length")?,
                );
                match (u64::try_from(pair.0), u64::try_from(pair.1)) {
                    (Ok(offset), Ok(length)) => map.push((offset, length)),
                    _ => return Err(this.damaged("a negative place in a sparse map")),
                }
            }
            match map.len() as u64 * 24 > this.limits.header_bytes {
                true => Err(TarError::HeaderTooLarge(
                    this.index,
                    map.len() as u64 * 24,
                    this.limits.header_bytes,
                )),
                false => Ok(()),
            }
        };
        take(self, &header[386..482])?;
        let mut is_extended = header[482] != 0;
        while is_extended {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Err(TarError::CutOff);
            }
            take(self, &block[..504])?;
            is_extended = block[504] != 0;
        }
        Ok(map)
    }

    /// PAX 1.0: decimal numbers a line, at the start of the data, padded to a block.
    fn new_sparse_map(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut text: Vec<u8> = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        loop {
            let wanted = numbers.first().map(|count| count.saturating_mul(2));
            if wanted.is_some_and(|wanted| numbers.len() as u64 > wanted) {
                break;
            }
            if text.len() as u64 + numbers.len() as u64 * 8 > self.limits.header_bytes {
                return Err(TarError::HeaderTooLarge(
                    self.index,
                    self.limits.header_bytes + 1,
                    self.limits.header_bytes,
                ));
            }
            if self.remaining < BLOCK as u64 {
                return Err(self.damaged("a sparse map that does not end"));
            }
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Err(TarError::CutOff);
            }
            self.remaining -= BLOCK as u64;
            text.extend_from_slice(&block);
            let mut start = 0;
            while let Some(length) = text[start..].iter().position(|byte| *byte == b'\n') {
                let wanted = numbers.first().map(|count| count.saturating_mul(2));
                if wanted.is_some_and(|wanted| numbers.len() as u64 > wanted) {
                    break;
                }
                let line = &text[start..start + length];
                numbers.push(
                    decimal(line)
                        .ok_or_else(|| self.damaged("a sparse map of other than digits"))?,
                );
                start += length + 1;
            }
            text.drain(..start);
            // What follows the last number is fill.
            let wanted = numbers.first().map(|count| count.saturating_mul(2));
            if wanted.is_some_and(|wanted| numbers.len() as u64 > wanted) {
                break;
            }
        }
        Ok(numbers[1..]
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect())
    }

    fn pax(&self, mut bytes: &[u8], extended: &mut Extended) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let bad = || self.damaged("a malformed PAX record");
            let space = bytes
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or_else(bad)?;
            let length = decimal(&bytes[..space])
                .and_then(|length| usize::try_from(length).ok())
                .filter(|length| (space + 2..=bytes.len()).contains(length))
                .ok_or_else(bad)?;
            let (record, rest) = bytes.split_at(length);
            bytes = rest;
            let (end, record) = record[space + 1..].split_last().ok_or_else(bad)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(bad)?;
            if *end != b'\n' || equals == 0 {
                return Err(bad());
            }
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let number = || decimal(value).ok_or_else(bad);
            match key {
                // An empty value takes an earlier one back, see pax(1).
                b"path" => extended.path = (!value.is_empty()).then(|| value.to_vec()),
                b"linkpath" => extended.link = (!value.is_empty()).then(|| value.to_vec()),
                b"size" if value.is_empty() => extended.size = None,
                b"size" => extended.size = Some(number()?),
                b"uid" if value.is_empty() => extended.uid = None,
                b"uid" => extended.uid = Some(number()?),
                b"gid" if value.is_empty() => extended.gid = None,
                b"gid" => extended.gid = Some(number()?),
                b"mtime" if value.is_empty() => extended.mtime = None,
                b"mtime" => extended.mtime = Some(time(value).ok_or_else(bad)?),
                b"GNU.sparse.major" => extended.sparse_major = Some(number()?),
                b"GNU.sparse.name" => extended.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                    extended.sparse_size = Some(number()?);
                }
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    extended.sparse_map.push(number()?);
                }
                b"GNU.sparse.map" => {
                    extended.sparse_map = value
                        .split(|byte| *byte == b',')
                        .map(|field| decimal(field).ok_or_else(bad))
                        .collect::<Result<_, _>>()?;
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        if name.is_empty() || name.contains(&0) {
                            return Err(bad());
                        }
                        extended.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                    // Times other than mtime, names of owners, comments: not kept, as by Docker.
                }
            }
        }
        Ok(())
    }

    /// The content of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > self.limits.header_bytes {
            return Err(TarError::HeaderTooLarge(
                self.index,
                size,
                self.limits.header_bytes,
            ));
        }
        let mut bytes = vec![0; size.next_multiple_of(BLOCK as u64) as usize];
        self.exact(&mut bytes)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        self.input.read_exact(buffer).map_err(cut_off)?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    /// Reads one block; `false` at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        if self.input.fill_buf().map_err(TarError::Read)?.is_empty() {
            return Ok(false);
        }
        self.exact(block)?;
        Ok(true)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            let available = self.input.fill_buf().map_err(TarError::Read)?.len();
            if available == 0 {
                return Err(TarError::CutOff);
            }
            let step = count.min(available as u64) as usize;
            self.input.consume(step);
            self.position += step as u64;
            count -= step as u64;
        }
        Ok(())
    }

    /// A numeric field: octal digits, or base 256 when the first bit is set.
    fn number(&self, field: &[u8], what: &'static str) -> Result<i64, TarError> {
        let bad = || self.damaged(what);
        if field[0] & 0x80 != 0 {
            let is_negative = field[0] & 0x40 != 0;
            let first = match is_negative {
                true => i128::from(field[0]) - 256,
                false => i128::from(field[0] & 0x7f),
            };
            let value = field[1..].iter().try_fold(first, |value, byte| {
                value
                    .checked_mul(256)?
                    .checked_add(i128::from(*byte))
                    .filter(|value| i64::try_from(*value).is_ok())
            });
            return value
                .and_then(|value| i64::try_from(value).ok())
                .ok_or_else(bad);
        }
        let text = field.trim_ascii_start();
        let end = text
            .iter()
            .position(|byte| matches!(byte, 0 | b' '))
            .unwrap_or(text.len());
        if text[end..].iter().any(|byte| !matches!(byte, 0 | b' ')) {
            return Err(bad());
        }
        text[..end]
            .iter()
            .try_fold(0_i64, |value, byte| match byte {
                b'0'..=b'7' => Ok(value * 8 + i64::from(byte - b'0')),
                _ => Err(bad()),
            })
    }

    const fn damaged(&self, what: &'static str) -> TarError {
        TarError::Header(self.index, what)
    }

    const fn ambiguous(&self, what: &'static str) -> TarError {
        TarError::Ambiguous(self.index, what)
    }
}

/// The content of one entry.
#[derive(Debug)]
pub struct Data<'a, R> {
    archive: &'a mut TarReader<R>,
}

impl<R: BufRead> BufRead for Data<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let remaining = self.archive.remaining;
        if remaining == 0 {
            return Ok(&[]);
        }
        let buffer = self.archive.input.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = remaining.min(buffer.len() as u64) as usize;
        Ok(&buffer[..length])
    }

    fn consume(&mut self, count: usize) {
        self.archive.input.consume(count);
        self.archive.remaining -= count as u64;
        self.archive.position += count as u64;
    }
}

impl<R: BufRead> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

fn cut_off(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::CutOff,
        _ => TarError::Read(error),
    }
}

fn trim_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(trim_nul(&bytes).len());
    bytes
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// `-12.5` to seconds and nanoseconds, rounded towards the past.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanos = 0;
    for place in 0..9 {
        let digit = fraction.get(place).map_or(0, |byte| u32::from(byte - b'0'));
        nanos = nanos * 10 + digit;
    }
    match (is_negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

/// The sum of all bytes with the checksum's own field as spaces; old writers summed signed bytes.
fn checksum_is_right(header: &[u8; BLOCK]) -> bool {
    let text = header[148..156].trim_ascii_start();
    let end = text
        .iter()
        .position(|byte| !matches!(byte, b'0'..=b'7'))
        .unwrap_or(text.len());
    let stated = text[..end]
        .iter()
        .fold(0_i64, |value, byte| value * 8 + i64::from(byte - b'0'));
    let mut unsigned = 0;
    let mut signed = 0;
    for (place, byte) in header.iter().enumerate() {
        let byte = match (148..156).contains(&place) {
            true => b' ',
            false => *byte,
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    end > 0 && (stated == unsigned || stated == signed)
}
