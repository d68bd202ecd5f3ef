//! Files with holes: where their data is, and how an archive has it, see "Storing Sparse Files" in the
//! manual of GNU tar.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// More pieces than this are not worth a map: it would be larger than what a reader takes.
const MOST_PIECES: usize = 16_384;
const BLOCK: usize = 512;

/// Where the data of a file is: offset and length, ascending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    pieces: Vec<(u64, u64)>,
}

impl Sparse {
    /// The pieces of a file that has holes; `None` for one that has none, or too many.
    pub(crate) fn of(file: &File, length: u64) -> io::Result<Option<Sparse>> {
        let mut pieces = Vec::new();
        let mut offset = 0;
        while offset < length {
            let start = match seek(file, SeekFrom::Data(offset)) {
                Ok(start) => start,
                // From here on there is a hole.
                Err(Errno::NXIO) => break,
                // A file system that knows no holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            };
            let end = match seek(file, SeekFrom::Hole(start)) {
                Ok(end) => end.min(length),
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            if start >= length || pieces.len() == MOST_PIECES {
                break;
            }
            pieces.push((start, end - start));
            offset = end;
        }
        seek(file, SeekFrom::Start(0))?;
        let is_whole = length == 0 || pieces == [(0, length)];
        match is_whole || pieces.len() == MOST_PIECES {
            true => Ok(None),
            false => Ok(Some(Sparse { pieces })),
        }
    }

    /// The map, then the data.
    pub(crate) fn content(self, file: &File) -> Content<'_> {
        let mut map = format!("{}\n", self.pieces.len());
        for (offset, length) in &self.pieces {
            map.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let data: u64 = self.pieces.iter().map(|(_, length)| length).sum();
        Content {
            length: map.len() as u64 + data,
            map: Cursor::new(map),
            pieces: self.pieces.into_iter(),
            piece: (0, 0),
            file,
        }
    }
}

/// What stands in the archive for a file with holes.
#[derive(Debug)]
pub(crate) struct Content<'f> {
    length: u64,
    map: Cursor<Vec<u8>>,
    pieces: std::vec::IntoIter<(u64, u64)>,
    piece: (u64, u64),
    file: &'f File,
}

impl Content<'_> {
    /// How many bytes it is.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.map.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        while self.piece.1 == 0 {
            match self.pieces.next() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let (offset, left) = self.piece;
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut count = self.file.read_at(&mut buffer[..most], offset)?;
        if count == 0 {
            // It has become shorter meanwhile.
            buffer[..most].fill(0);
            count = most;
        }
        self.piece = (offset + count as u64, left - count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_holes_is_its_map_and_its_data() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"end", (1 << 20) - 3).unwrap();
        let sparse = Sparse::of(&file, 1 << 20).unwrap().expect("it has a hole");
        assert_eq!(sparse.pieces.len(), 2);
        let mut content = sparse.content(&file);
        let length = content.length();
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, length);
        assert!(bytes.starts_with(b"2\n0\n"));
        assert!(bytes.ends_with(b"end"));
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        assert_eq!(Sparse::of(&file, 1 << 20).unwrap(), None);
        let nothing = tempfile::tempfile_in("/var/tmp").unwrap();
        nothing.set_len(1 << 20).unwrap();
        let hole = Sparse::of(&nothing, 1 << 20).unwrap().expect("all of it");
        assert!(hole.pieces.is_empty());
    }
}
