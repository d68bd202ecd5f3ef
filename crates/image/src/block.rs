//! An image's whole root as one read-only block image, for virtual machines.
//!
//! EROFS, uncompressed, made by `mkfs.erofs` from the merged layers. Made once an image, when it is first
//! asked for, and shared by every instance of it.
//!
//! **What is checked when.** The digest of the file is recorded when it was made. The first use in each
//! boot of the host reads the file and compares; later uses compare its size. So no sync stands between
//! making and use: a file that the last loss of power has damaged does not have its digest, and is made
//! again from the layers, which are themselves made from verified blobs.
//! <https://docs.kernel.org/filesystems/erofs.html>

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::blob::open_blob;
use crate::confined::{self, Ended, Work};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::failpoint;
use crate::folders::{Workspace, random_name};
use crate::image::Image;
use crate::merged;
use crate::progress::{Event, Progress};
use crate::store::{Store, StoreError, digest_column, io_hint};

/// Grows when block images are made in another way: older ones are then made again.
const RECIPE: i64 = 1;
const PROGRAM: &str = "mkfs.erofs";

/// An image's root as a file that a virtual machine reads as a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockImage {
    /// Where it is. Only root may read it: it holds what the image's own modes protect.
    pub path: PathBuf,
    /// Its size, a multiple of 4096.
    pub bytes: u64,
    /// The digest of its content.
    pub digest: Digest,
}

/// Why an image has no block image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockImageError {
    /// The program that makes it is not installed.
    #[error("cannot make the block image of {image}: {PROGRAM} is not installed")]
    NoProgram {
        /// The image's short id.
        image: String,
    },
    /// The program cannot be run.
    #[error("cannot make the block image of {image}: {PROGRAM} cannot be started")]
    Start {
        /// The image's short id.
        image: String,
        /// Why.
        source: io::Error,
    },
    /// The program ended badly.
    #[error("cannot make the block image of {image}: {PROGRAM} {how}: {said}")]
    Program {
        /// The image's short id.
        image: String,
        /// With a code, or by a signal.
        how: String,
        /// The last lines that it printed.
        said: String,
    },
    /// The image was removed while it was made.
    #[error("the image {image} was removed while its block image was made")]
    Removed {
        /// The image's short id.
        image: String,
    },
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for BlockImageError {
    fn from(error: rusqlite::Error) -> Self {
        BlockImageError::Store(error.into())
    }
}

impl BlockImageError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            BlockImageError::NoProgram { .. } => {
                Some("install it: apt install erofs-utils".to_owned())
            }
            BlockImageError::Start { source, .. } => io_hint(source).map(str::to_owned),
            BlockImageError::Program { said, .. } if said.contains("No space left") => {
                io_hint(&io::ErrorKind::StorageFull.into()).map(str::to_owned)
            }
            BlockImageError::Program { .. } => Some(
                "if the layers are damaged, `isle rmi -f` the image and pull or load it again"
                    .to_owned(),
            ),
            BlockImageError::Removed { .. } => None,
            BlockImageError::Store(error) => error.hint(),
        }
    }
}

/// What the row says.
struct Recorded {
    file: String,
    bytes: u64,
    digest: Digest,
    boot: String,
    recipe: i64,
}

impl Store {
    /// The block image of an image: made when it is not there, checked at its first use in each boot.
    ///
    /// Several processes may ask at the same time: one makes it, the others wait. The caller holds the
    /// image ([`Store::hold`]), so that nobody removes it meanwhile. Making it takes about a second for
    /// 250 MB, and says so to `progress`.
    ///
    /// # Errors
    /// [`BlockImageError`]: without `mkfs.erofs`, without root, on a full disk.
    pub fn block_image(
        &self,
        image: &Image,
        progress: &dyn Progress,
    ) -> Result<BlockImage, BlockImageError> {
        let boot = self.boot()?;
        if let Some(recorded) = self.recorded(image)?
            && recorded.boot == boot
            && let Some(found) = self.in_place(&recorded)
        {
            return Ok(found);
        }
        // One at a time for one image. The image's own configuration is a file that only it has.
        let gate = open_blob(&self.folders, &image.id)?;
        rustix::fs::flock(&gate, FlockOperation::LockExclusive)
            .map_err(|errno| self.io("lock the configuration in", "blobs")(errno.into()))?;
        if let Some(recorded) = self.recorded(image)?
            && let Some(found) = self.in_place(&recorded)
        {
            if recorded.boot == boot {
                return Ok(found);
            }
            if self.is_whole(&found)? {
                self.database.write(|transaction| {
                    transaction.execute(
                        "UPDATE block_image SET boot = ?2 WHERE image = ?1",
                        [image.id.as_str(), boot],
                    )
                })?;
                return Ok(found);
            }
            progress.event(&Event::Message(&format!(
                "the block image of {} is damaged and is made again",
                image.short_id()
            )));
        }
        self.make_block_image(image, boot, progress)
    }

    fn recorded(&self, image: &Image) -> Result<Option<Recorded>, StoreError> {
        Ok(self
            .database
            .connection()
            .prepare_cached(
                "SELECT file, size, digest, boot, recipe FROM block_image WHERE image = ?1",
            )?
            .query_row([image.id.as_str()], |row| {
                Ok(Recorded {
                    file: row.get(0)?,
                    bytes: row.get(1)?,
                    digest: digest_column(row, 2)?,
                    boot: row.get(3)?,
                    recipe: row.get(4)?,
                })
            })
            .optional()?)
    }

    /// The file that a row names, when it is there in its full size and made as today.
    fn in_place(&self, recorded: &Recorded) -> Option<BlockImage> {
        let path = self.folders.block_image_path(&recorded.file);
        let metadata = std::fs::symlink_metadata(&path).ok()?;
        let fits = metadata.is_file() && metadata.len() == recorded.bytes;
        (fits && recorded.recipe == RECIPE).then(|| BlockImage {
            path,
            bytes: recorded.bytes,
            digest: recorded.digest.clone(),
        })
    }

    fn is_whole(&self, image: &BlockImage) -> Result<bool, StoreError> {
        match digest_of(&image.path) {
            Ok(digest) => Ok(digest == image.digest),
            // The disk cannot read it.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Ok(false)
            }
            Err(error) => Err(self.io("read", &image.path)(error)),
        }
    }

    fn make_block_image(
        &self,
        image: &Image,
        boot: &str,
        progress: &dyn Progress,
    ) -> Result<BlockImage, BlockImageError> {
        let short_id = || image.short_id().to_owned();
        let program = confined::find(PROGRAM)
            .ok_or_else(|| BlockImageError::NoProgram { image: short_id() })?;
        let layers = self.layers(image)?;
        let workspace = self
            .folders
            .workspace()
            .map_err(self.io("make a working folder in", "tmp"))?;
        progress.event(&Event::Message(&format!(
            "making the block image of {} for virtual machines",
            image
                .repo_tags
                .first()
                .map_or(image.short_id(), |name| name)
        )));
        let folder = self.folders.path.join("tmp").join(&workspace.name);
        let output = folder.join("block");
        create(&workspace, "block").map_err(self.io("make", &output))?;
        let tree = merged::mounted(&self.folders.path, &layers, &folder)
            .map_err(self.io("merge the layers below", &folder))?;
        let place = folder.join("root");
        std::fs::create_dir(&place).map_err(self.io("make", &place))?;
        let arguments = [
            "--quiet",
            "-d1",
            "--preserve-mtime",
            confined::OUTPUT,
            confined::TREE,
        ];
        let ended = Work {
            program: &program,
            arguments: &arguments,
            tree,
            output: &output,
            place: &place,
        }
        .run();
        match ended {
            Ok(Ended::Well) => {}
            Ok(Ended::Badly { how, said }) => {
                return Err(BlockImageError::Program {
                    image: short_id(),
                    how,
                    said,
                });
            }
            Err(source) => {
                return Err(BlockImageError::Start {
                    image: short_id(),
                    source,
                });
            }
        }
        let bytes = std::fs::metadata(&output)
            .map_err(self.io("look at", &output))?
            .len();
        let digest = digest_of(&output).map_err(self.io("read", &output))?;
        self.place_block_image(image, &workspace, bytes, digest, boot)
    }

    /// Moves the file to its place in the transaction that writes its row.
    fn place_block_image(
        &self,
        image: &Image,
        workspace: &Workspace,
        bytes: u64,
        digest: Digest,
        boot: &str,
    ) -> Result<BlockImage, BlockImageError> {
        let file = random_name();
        self.database.write(|transaction| {
            let is_there = transaction
                .prepare_cached("SELECT 1 FROM image WHERE id = ?1")?
                .exists([image.id.as_str()])?;
            if !is_there {
                return Err(BlockImageError::Removed {
                    image: image.short_id().to_owned(),
                });
            }
            failpoint::hit("rename-block")
                .and_then(|()| {
                    let folder = &self.folders.block_images;
                    Ok(rustix::fs::renameat(
                        &workspace.fd,
                        "block",
                        folder,
                        &*file,
                    )?)
                })
                .map_err(self.io("move a block image into", "block-images"))?;
            // A file whose row goes here is without one from now on: the next sweep takes it.
            transaction.execute(
                "INSERT OR REPLACE INTO block_image (image, file, size, digest, boot, recipe)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    image.id.as_str(),
                    &file,
                    bytes,
                    digest.as_str(),
                    boot,
                    RECIPE,
                ),
            )?;
            failpoint::hit("commit-block").map_err(self.io("commit in", "isle.db"))?;
            Ok(())
        })?;
        Ok(BlockImage {
            path: self.folders.block_image_path(&file),
            bytes,
            digest,
        })
    }
}

fn create(workspace: &Workspace, name: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(&workspace.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(())
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
