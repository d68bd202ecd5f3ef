//! How a stream is compressed, told by its first bytes as Docker does: media types lie.

use std::io::{self, BufRead, Read};

use isle_archive::Limits;

/// A compression that layers come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// None at all.
    None,
    /// RFC 1952, also of several members.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// A compression that is recognised, but not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data is compressed with {name}, which is not supported")]
pub struct UnsupportedCompression {
    name: &'static str,
}

impl UnsupportedCompression {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "decompress it first, or compress it with gzip or zstd"
    }
}

/// How many first bytes [`Compression::detect`] wants to see.
pub(crate) const MAGIC_LEN: usize = 6;

impl Compression {
    /// Looks at the first bytes of a stream.
    ///
    /// # Errors
    /// [`UnsupportedCompression`] for bzip2, xz, lz4 and lzip.
    pub fn detect(start: &[u8]) -> Result<Compression, UnsupportedCompression> {
        let unsupported = |name| Err(UnsupportedCompression { name });
        match start {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Ok(Compression::Zstd)
            }
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => unsupported("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            [b'L', b'Z', b'I', b'P', ..] => unsupported("lzip"),
            _ => Ok(Compression::None),
        }
    }

    /// The media type of a layer so compressed.
    #[must_use]
    pub const fn layer_media_type(self) -> oci_spec::image::MediaType {
        match self {
            Compression::None => oci_spec::image::MediaType::ImageLayer,
            Compression::Gzip => oci_spec::image::MediaType::ImageLayerGzip,
            Compression::Zstd => oci_spec::image::MediaType::ImageLayerZstd,
        }
    }
}

/// Decompresses what it reads, and refuses bombs.
pub(crate) struct Decoder<R: BufRead> {
    inner: Inner<R>,
    limits: Limits,
    produced: u64,
}

enum Inner<R: BufRead> {
    None(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Counting<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Counting<R>>>),
}

/// Why a decoder gave up; inside the `io::Error` that it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bomb {
    #[error("the data grows more than {0} times when it is decompressed")]
    Ratio(u64),
    #[error("the data is larger than {0} bytes when it is decompressed")]
    Bytes(u64),
}

impl<R: BufRead> Decoder<R> {
    pub(crate) fn new(compression: Compression, input: R, limits: Limits) -> io::Result<Self> {
        let inner = match compression {
            Compression::None => Inner::None(input),
            Compression::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(
                Counting::new(input),
            ))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(Counting::new(input))?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Decoder {
            inner,
            limits,
            produced: 0,
        })
    }
}

/// Ratios mean nothing on little data.
const RATIO_FROM_BYTES: u64 = 1 << 30;

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, consumed) = match &mut self.inner {
            Inner::None(input) => (input.read(buffer)?, None),
            Inner::Gzip(decoder) => (decoder.read(buffer)?, Some(decoder.get_ref().count)),
            Inner::Zstd(decoder) => (decoder.read(buffer)?, Some(decoder.get_ref().count)),
        };
        self.produced += count as u64;
        // Entry headers come on top of the files' bytes, hence the factor.
        let cap = self.limits.layer_bytes.saturating_mul(2);
        if self.produced > cap {
            return Err(io::Error::other(Bomb::Bytes(cap)));
        }
        if let Some(consumed) = consumed
            && self.produced > RATIO_FROM_BYTES
            && self.produced / consumed.max(1) > self.limits.ratio
        {
            return Err(io::Error::other(Bomb::Ratio(self.limits.ratio)));
        }
        Ok(count)
    }
}

struct Counting<R> {
    inner: R,
    count: u64,
}

impl<R> Counting<R> {
    const fn new(inner: R) -> Self {
        Counting { inner, count: 0 }
    }
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counting<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.count += count as u64;
        self.inner.consume(count);
    }
}
