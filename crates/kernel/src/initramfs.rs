//! What a guest finds when its kernel has started: the agent, and the modules of the kernel.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::cpio;
use crate::digest;
use crate::error::KernelError;
use crate::kernels::{Kernel, Kernels, stamp};

const PREFIX: &str = "initramfs-";
/// So many of one kernel are kept: as many versions of the agent may take turns.
const KEPT: usize = 4;

/// An initramfs: `/init` is the guest's agent, `/modules` has what it loads first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initramfs {
    /// What QEMU's `-initrd` takes.
    pub path: PathBuf,
    /// `sha256:…` of it: part of the key of templates, since it says which agent runs.
    pub digest: String,
}

impl Initramfs {
    /// Reads the file and compares its digest.
    ///
    /// # Errors
    /// When it is damaged: it is removed, so that the next call of [`Kernels::initramfs`] makes it again.
    pub fn verify(&self) -> io::Result<()> {
        let found = digest::of_file(&self.path)?;
        if found == self.digest {
            return Ok(());
        }
        fs::remove_file(&self.path)?;
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} was damaged", self.path.display()),
        ))
    }
}

impl Kernels {
    /// The initramfs of a kernel with this agent, a static program. Made once for the two, and remade when the
    /// agent's file is another one; looking it up opens no file.
    ///
    /// # Errors
    /// When the agent cannot be read, or the disk refuses.
    pub fn initramfs(&self, kernel: &Kernel, agent: &Path) -> Result<Initramfs, KernelError> {
        let unreadable = |source| KernelError::Agent {
            path: agent.to_owned(),
            source,
        };
        let prefix = format!("{PREFIX}{}-", stamp(agent).map_err(unreadable)?);
        let failed = |source| KernelError::io("make an initramfs in", &kernel.folder)(source);
        if let Some(found) = find(&kernel.folder, &prefix).map_err(failed)? {
            return Ok(found);
        }
        let agent = fs::read(agent).map_err(unreadable)?;
        let made = make(kernel, &agent, &prefix).map_err(failed)?;
        forget_old(&kernel.folder, &made.path).map_err(failed)?;
        Ok(made)
    }
}

/// By its name: `initramfs-<stamp>-<bytes>-<digest>`.
fn find(folder: &Path, prefix: &str) -> io::Result<Option<Initramfs>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else {
            continue;
        };
        let Some((bytes, hex)) = rest.split_once('-') else {
            continue;
        };
        // One that was cut short by a loss of power is not taken.
        if bytes.parse() == Ok(entry.metadata()?.len()) {
            return Ok(Some(Initramfs {
                path: entry.path(),
                digest: format!("sha256:{hex}"),
            }));
        }
    }
    Ok(None)
}

fn make(kernel: &Kernel, agent: &[u8], prefix: &str) -> io::Result<Initramfs> {
    let file = tempfile::Builder::new()
        .prefix(".initramfs-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(&kernel.folder)?;
    let mut output = BufWriter::new(file.as_file());
    if let Some(modules) = &kernel.description.modules {
        io::copy(
            &mut File::open(kernel.folder.join(&modules.file))?,
            &mut output,
        )?;
    }
    let mut writer = cpio::Writer::new(&mut output);
    writer.file("init", 0o755, agent)?;
    writer.finish()?;
    output.flush()?;
    drop(output);
    file.as_file().sync_all()?;
    let digest = digest::of_file(file.path())?;
    let bytes = file.as_file().metadata()?.len();
    let name = format!("{prefix}{bytes}-{}", &digest["sha256:".len()..]);
    let path = kernel.folder.join(name);
    file.persist(&path).map_err(|error| error.error)?;
    Ok(Initramfs { path, digest })
}

fn forget_old(folder: &Path, new: &Path) -> io::Result<()> {
    let mut others: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_one = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_one && entry.path() != new {
            others.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    others.sort();
    let spare = others.len().saturating_sub(KEPT - 1);
    for (_, path) in others.drain(..spare) {
        match fs::remove_file(path) {
            // Another process had the same thought.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
