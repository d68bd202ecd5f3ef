//! Makes the images of `examples/` from Debian packages, without a registry.
//!
//! A recipe is `examples/<name>/recipe.toml`, with files for the image in `examples/<name>/files/`.
//! What comes out is a root file system tar and, beside it, a JSON file that says how to import it:
//! `{"rootfs": "/…/nginx-<key>.tar", "changes": ["CMD [\"nginx\"]", …]}`. Each `changes` line is a
//! Dockerfile instruction for `isle import --change`.
//!
//! An image is made once per text of its recipe and files; a later change makes it anew.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{command, place};

/// `recipe.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    /// What the root file system is made from.
    base: Base,
    /// Debian packages, beside those of the base.
    #[serde(default)]
    packages: Vec<String>,
    /// Shell commands run inside once the base is there, before the packages are installed.
    #[serde(default)]
    before: Vec<String>,
    /// Shell commands run inside once the packages are installed.
    #[serde(default)]
    run: Vec<String>,
    /// Dockerfile instructions that make the image config.
    #[serde(default)]
    changes: Vec<String>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Base {
    /// Debian's essential packages and apt.
    Debian,
    /// Debian's essential packages without apt.
    DebianEssential,
    /// The static busybox of Debian, and links for all its applets.
    Busybox,
}

/// What `isle import` needs to know.
#[derive(Serialize, Deserialize)]
pub struct Image {
    /// The root file system.
    pub rootfs: PathBuf,
    /// Values of `--change`.
    pub changes: Vec<String>,
}

impl Image {
    pub fn read(file: &Path) -> Result<Image> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// The names of all recipes.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(place::checkout().join("examples"))? {
        let entry = entry?;
        if entry.path().join("recipe.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Makes the images with these names (all when empty) and returns their JSON files.
pub fn make(wanted: &[String]) -> Result<Vec<PathBuf>> {
    let names = names()?;
    let wanted = if wanted.is_empty() { &names } else { wanted };
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        bail!(
            "no recipe named {unknown:?} in examples/; there are: {}",
            names.join(", ")
        );
    }
    let cache = place::examples_cache();
    fs::create_dir_all(&cache)?;
    // Two test runs at once make an image once.
    let lock = File::create(cache.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    wanted.iter().map(|name| make_one(name, &cache)).collect()
}

fn make_one(name: &str, cache: &Path) -> Result<PathBuf> {
    let folder = place::checkout().join("examples").join(name);
    let text = fs::read_to_string(folder.join("recipe.toml"))?;
    let recipe: Recipe =
        toml::from_str(&text).with_context(|| format!("in examples/{name}/recipe.toml"))?;
    let rootfs = cache.join(format!("{name}-{}.tar", key(&text, &folder.join("files"))?));
    if !rootfs.is_file() {
        let duration = match recipe.base {
            Base::Busybox => "",
            _ => " from Debian packages (about 30 s)",
        };
        println!("making the image {name}{duration}");
        let partial = rootfs.with_extension("tar.partial");
        match recipe.base {
            Base::Busybox => busybox(&partial)?,
            _ => debian(&recipe, &folder, &partial)?,
        }
        fs::rename(&partial, &rootfs)?;
    }
    let description = cache.join(format!("{name}.json"));
    let image = Image {
        rootfs,
        changes: recipe.changes,
    };
    let partial = description.with_extension("json.partial");
    fs::write(&partial, serde_json::to_vec_pretty(&image)?)?;
    fs::rename(&partial, &description)?;
    Ok(description)
}

/// Changes when the recipe or one of its files changes.
fn key(recipe: &str, files: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(recipe);
    let mut folders = vec![files.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                digest.update(path.strip_prefix(files)?.as_os_str().as_encoded_bytes());
                digest.update([0]);
                digest.update(fs::read(&path)?);
            }
        }
    }
    let digest = digest.finalize();
    Ok(digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Folders that only people read.
const DOCUMENTATION: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/lintian/*",
];

fn debian(recipe: &Recipe, folder: &Path, rootfs: &Path) -> Result<()> {
    let mut mmdebstrap = command::as_root("mmdebstrap");
    mmdebstrap.args(["--quiet", "--mode=root", "--format=tar"]);
    mmdebstrap.arg(match recipe.base {
        Base::Debian => "--variant=minbase",
        _ => "--variant=essential",
    });
    for path in DOCUMENTATION {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    mmdebstrap.arg("--dpkgopt=path-include=/usr/share/doc/*/copyright");
    mmdebstrap.args([
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=APT::Install-Recommends \"0\"",
    ]);
    if !recipe.packages.is_empty() {
        mmdebstrap.arg(format!("--include={}", recipe.packages.join(",")));
    }
    let inside = |hook: &str, line: &str| {
        format!(
            "--{hook}-hook=chroot \"$1\" sh -c '{}'",
            line.replace('\'', r"'\''")
        )
    };
    mmdebstrap.args(recipe.before.iter().map(|line| inside("essential", line)));
    let files = folder.join("files");
    if files.is_dir() {
        mmdebstrap.arg(format!(
            "--customize-hook=cp -rT --preserve=mode '{}' \"$1\"",
            files.display()
        ));
    }
    mmdebstrap.args(recipe.run.iter().map(|line| inside("customize", line)));
    // What is only known on the machine that made it, and what no program needs.
    mmdebstrap.arg(
        "--customize-hook=cd \"$1\" && rm -rf var/lib/apt/lists/* etc/hostname etc/resolv.conf run/* tmp/* && \
         find var/cache var/log -type f -delete && : > etc/machine-id",
    );
    mmdebstrap.args(["bookworm"]).arg(rootfs);
    command::run(&mut mmdebstrap)
}

fn busybox(rootfs: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    for folder in [
        "bin", "etc", "home", "proc", "root", "sys", "dev", "tmp", "usr/bin", "var",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    let program = root.join("bin/busybox");
    fs::copy("/bin/busybox", &program)
        .context("cannot copy /bin/busybox (package busybox-static)")?;
    for applet in command::output(Command::new(&program).arg("--list"))?.lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\n\
         daemon:x:1:1:daemon:/:/bin/false\n\
         user:x:1000:1000:a user:/home:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(
        root.join("etc/group"),
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwheel:x:10:user\nuser:x:1000:\nnogroup:x:65534:\n",
    )?;
    command::run(Command::new("chmod").arg("1777").arg(root.join("tmp")))?;
    command::run(
        Command::new("tar")
            .args([
                "--sort=name",
                "--mtime=@0",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
            ])
            .args(["--exclude=./tar-root", "-C"])
            .arg(root)
            .arg("-cf")
            .arg(rootfs)
            .arg("."),
    )
}
