//! Volumes as tar archives: out of Isle, and into it.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use isle_archive::{Archive, LIMITS, Style, TarReader, UnpackOptions};

use super::volume_copies::sync;
use super::{Engine, EngineError, VolumeRequest, VolumeSource};
use crate::backend::chain;
use crate::volume::{self, Volume};

impl Engine {
    /// Writes the files of a volume, or of a snapshot, as a tar archive: owners, modes, times, links,
    /// holes and extended attributes. With `pause`, of one that running instances mount a copy is
    /// made while they stand still, and that is written.
    ///
    /// # Errors
    /// When it cannot be read, or the writer fails.
    pub fn export_volume(
        &self,
        source: &VolumeSource,
        pause: bool,
        writer: &mut dyn Write,
    ) -> Result<(), EngineError> {
        let of = self.find_volume(&source.volume)?;
        let lock = self.lock_volume(&of.name)?;
        if let Some(snapshot) = &source.snapshot {
            // Held to the end: nobody removes it meanwhile.
            let files = self.find_snapshot_files(&of.name, snapshot)?;
            return write_archive(&files, writer, source);
        }
        let files = self.files_of(&of)?;
        if !pause || self.running_users(&of.name)?.is_empty() {
            return write_archive(&files, writer, source);
        }
        let workspace = self.images.workspace()?;
        let staged = self.stage_data(&workspace.path(), &of)?;
        self.copy_paused(&of.name, &files, &staged, true)?;
        // A slow reader keeps nobody from starting.
        drop(lock);
        write_archive(&staged, writer, source)
    }

    /// Unpacks a tar archive, perhaps compressed with gzip or Zstandard, into a new volume, or into one
    /// that is empty. All of it is there at the end, or nothing.
    ///
    /// # Errors
    /// When the volume holds something or an instance runs on it; when the archive is damaged.
    pub fn import_volume(&self, name: &str, reader: &mut dyn Read) -> Result<Volume, EngineError> {
        let connection = self.images.database().connection();
        let Some(known) = volume::get(connection, name)? else {
            let new = self.new_volume(&VolumeRequest {
                name: Some(name.to_owned()),
                ..VolumeRequest::default()
            })?;
            self.make_filled(&new, |staged| read_archive(name, staged, reader))?;
            return Ok(new);
        };
        let _lock = self.lock_volume(name)?;
        self.refuse_running("import into", name)?;
        let files = self.files_of(&known)?;
        let is_empty = File::open(&files).and_then(|folder| volume::is_empty(&folder));
        if !is_empty.map_err(EngineError::io("read", &files))? {
            return Err(EngineError::Volume {
                name: name.to_owned(),
                reason: "there are files in it: import into a new volume, or an empty one"
                    .to_owned(),
            });
        }
        let workspace = self.images.workspace()?;
        let staged = self.stage_data(&workspace.path(), &known)?;
        read_archive(name, &staged, reader)?;
        self.exchange(&known, &staged)?;
        Ok(known)
    }
}

fn write_archive(
    files: &Path,
    writer: &mut dyn Write,
    source: &VolumeSource,
) -> Result<(), EngineError> {
    let style = Style {
        is_exact: true,
        ..Style::default()
    };
    let write = || {
        let folder = File::open(files)?;
        let mut archive = Archive::new(writer, style);
        archive.folder(folder.as_fd())?;
        archive.finish()
    };
    write().map_err(EngineError::io(
        "write an archive of volume",
        source.to_string(),
    ))
}

fn read_archive(name: &str, staged: &Path, reader: &mut dyn Read) -> Result<(), EngineError> {
    let failed = |reason: String| EngineError::Volume {
        name: name.to_owned(),
        reason,
    };
    let plain = isle_image::decompressed(reader, LIMITS).map_err(|error| failed(chain(&error)))?;
    let options = UnpackOptions {
        whiteouts: false,
        ..UnpackOptions::default()
    };
    let mut archive = TarReader::new(BufReader::new(plain), options.limits);
    let folder = File::open(staged).map_err(EngineError::io("open", staged))?;
    isle_archive::unpack(folder.as_fd(), &mut archive, &options)
        .map_err(|error| failed(chain(&error)))?;
    sync(staged).map_err(EngineError::io("write", staged))
}
