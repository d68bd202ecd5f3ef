//! How much an archive may ask for.
//!
//! An image comes from a stranger. Every count and size in it has a cap, far above what any known
//! real image needs, and every cap answers with an error that names it.

/// The caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer, uncompressed, holes of sparse files included.
    pub layer_bytes: u64,
    /// Uncompressed bytes for each compressed byte, looked at after the first gigabyte. Only
    /// streams of zeros get there: gzip ends at 1032, Zstandard reaches 100,000.
    pub ratio: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// Directories of one path.
    pub path_depth: usize,
    /// Bytes of one extended header: long names, PAX records, extended attributes.
    pub header_bytes: u64,
    /// Bytes of a manifest, index, configuration or other JSON document.
    pub json_bytes: u64,
    /// Layers of an image.
    pub layers: usize,
    /// Images of one archive.
    pub images: usize,
    /// Files of one image archive or directory.
    pub archive_entries: usize,
    /// An index in an index in an index…
    pub index_depth: usize,
}

/// The caps in force.
pub const LIMITS: Limits = Limits {
    layer_bytes: 1 << 40,
    ratio: 1000,
    entries: 10_000_000,
    path_bytes: 4096,
    path_depth: 256,
    header_bytes: 1 << 20,
    json_bytes: 8 << 20,
    // overlayfs takes 500 lower layers.
    layers: 500,
    images: 1000,
    archive_entries: 200_000,
    index_depth: 4,
};

impl Default for Limits {
    fn default() -> Self {
        LIMITS
    }
}
