//! A bounded pipe of large buffers between two threads: one receives and hashes, the other
//! decompresses and unpacks. Buffers go back and are used again.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes of one buffer.
pub(crate) const BUFFER: usize = 256 << 10;
/// Buffers under way at most.
const DEPTH: usize = 8;

enum Message {
    Bytes(Vec<u8>),
    End,
}

/// The end that bytes go into. Dropped without [`PipeWriter::end`], the other end gets an error.
pub(crate) struct PipeWriter {
    data: SyncSender<Message>,
    empty: Receiver<Vec<u8>>,
}

/// The end that bytes come out of.
pub(crate) struct PipeReader {
    data: Receiver<Message>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    is_ended: bool,
}

/// The other end is gone.
#[derive(Debug)]
pub(crate) struct Closed;

pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (data, data_out) = sync_channel(DEPTH);
    let (empty, empty_out) = channel();
    let writer = PipeWriter {
        data,
        empty: empty_out,
    };
    let reader = PipeReader {
        data: data_out,
        empty,
        current: Vec::new(),
        at: 0,
        is_ended: false,
    };
    (writer, reader)
}

impl PipeWriter {
    /// An empty buffer, used before where there is one.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        match self.empty.try_recv() {
            Ok(mut buffer) => {
                buffer.clear();
                buffer
            }
            Err(_) => Vec::with_capacity(BUFFER),
        }
    }

    pub(crate) fn send(&self, bytes: Vec<u8>) -> Result<(), Closed> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.data.send(Message::Bytes(bytes)).map_err(|_| Closed)
    }

    pub(crate) fn end(self) {
        // When the reader is gone, its own result says why.
        let _ = self.data.send(Message::End);
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() && !self.is_ended {
            let used = std::mem::take(&mut self.current);
            self.at = 0;
            if used.capacity() > 0 {
                let _ = self.empty.send(used);
            }
            match self.data.recv() {
                Ok(Message::Bytes(bytes)) => self.current = bytes,
                Ok(Message::End) => self.is_ended = true,
                Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
