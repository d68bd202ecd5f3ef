//! Guest kernels: installing, building, choosing, and what a guest boots from.
//!
//! A kernel is a folder below `<root>/kernels`: the kernel's own file, the modules that a guest needs
//! before its root file system (where the kernel does not have them built in), and a [`Description`].
//! One kernel serves all virtual machines: [`Kernels::current`].
//!
//! ```text
//! <root>/kernels/isle-6.1.192/kernel.json    what it is, and the digest of each file
//!                            /vmlinux        or vmlinuz
//!                            /modules.cpio   where it needs modules
//!                            /initramfs-…    with the guest's agent; made when it is first needed
//! <root>/kernels/current                     the name of the one in use
//! <root>/kernels/.new-…                      what is not complete yet
//! ```
//!
//! There are two sources: the distribution's kernel for clouds ([`Kernels::install`]), which is there in
//! seconds, and the tuned one ([`Kernels::build`]), which starts in half the time and is built from the
//! distribution's source package with the configuration in `kernel/`.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use isle_kernel::Kernels;
//! let kernels = Kernels::new("/var/lib/isle".as_ref());
//! let kernel = kernels.current()?;
//! let initramfs = kernels.initramfs(&kernel, "/usr/libexec/isle/isle-guest".as_ref())?;
//! kernel.verify()?;
//! println!("-kernel {} -initrd {}", kernel.image().display(), initramfs.path.display());
//! println!("-append '{}'", kernel.description.command_line);
//! # Ok(())
//! # }
//! ```
//!
//! Read `kernels.rs` next, then `build.rs`.

#![forbid(unsafe_code)]

mod build;
mod configuration;
mod cpio;
mod description;
mod digest;
mod error;
mod initramfs;
mod install;
mod kernels;
mod modules;
mod package;
mod program;
mod progress;
mod staging;

pub use build::BuildOptions;
pub use configuration::{configuration, configuration_digest};
pub use description::{Description, FileRecord, Machine, Origin};
pub use error::KernelError;
pub use initramfs::Initramfs;
pub use install::InstallOptions;
pub use kernels::{Entry, Hold, Kernel, Kernels};
pub use progress::{Event, Progress, Silent};
