//! P9: how fast an image comes into the store.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use isle_tests::peers::Registry;
use serde_json::json;

use crate::engines::{Engine, Engines};
use crate::harness::{self, Benchmark, Column, Settings, measure};

/// Loading a large image takes seconds: fewer runs than elsewhere.
const MOST_RUNS: usize = 8;

pub fn load(engines: &Engines, settings: &Settings, mib: u64) -> Result<()> {
    let archive = engines.folder().join("large.tar");
    write_archive(&archive, mib, &engines.folder().join("large"))?;
    let archive = archive.to_string_lossy().into_owned();
    let archive = archive.as_str();
    let columns = engines.list(settings).into_iter().map(|engine| {
        Column::new(engine.name(), move || {
            engines.quietly(engine, &["load", "-i", archive])
        })
        .after(move || engines.quietly(engine, &["rmi", "-f", "bench/large:latest"]))
        .daemons(engines.daemons(engine))
    });
    measure(
        settings,
        Benchmark {
            id: "P9",
            title: "load and unpack of an uncompressed image archive, two layers",
            span: &format!(
                "`load -i` of a docker-archive of {mib} MiB (files of 4 KiB to 1 MiB, a third of them compressible), from before \
                 the command's process is made to its end; the archive is in the page cache. The image is removed between \
                 runs, untimed. Fewer runs than elsewhere, because each takes seconds."
            ),
            warm_up: 1,
            runs: settings.runs.min(MOST_RUNS),
            columns: columns.collect(),
        },
    )
}

/// The same image from a registry, its layers compressed with gzip as they usually are.
pub fn pull(engines: &Engines, settings: &Settings, mib: u64) -> Result<()> {
    let archive = engines.folder().join("large.tar");
    if !archive.exists() {
        write_archive(&archive, mib, &engines.folder().join("large"))?;
    }
    let registry = Registry::start(&engines.folder().join("registry"));
    let name = format!("{}/bench/large:latest", registry.address());
    harness::quietly(
        Command::new("skopeo")
            .args(["copy", "--dest-tls-verify=false"])
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{name}")),
    )
    .context("skopeo copies the image to the registry")?;
    let name = name.as_str();
    let columns = engines.list(settings).into_iter().map(|engine| {
        let arguments: &[&str] = match engine {
            Engine::Podman => &["pull", "-q", "--tls-verify=false", name],
            Engine::Isle | Engine::Docker => &["pull", "-q", name],
        };
        let arguments = arguments.to_vec();
        Column::new(engine.name(), move || engines.quietly(engine, &arguments))
            .after(move || engines.quietly(engine, &["rmi", "-f", name]))
            .daemons(engines.daemons(engine))
    });
    measure(
        settings,
        Benchmark {
            id: "P9-pull",
            title: "pull of an image from a registry on loopback, two layers, gzip",
            span: &format!(
                "`pull` of {mib} MiB (uncompressed; the files of P9's archive) from Debian's docker-registry on this host, from \
                 before the command's process is made to its end. The registry's own CPU time is not counted, but \
                 takes part in the wall time of all. The image is removed between runs, untimed."
            ),
            warm_up: 1,
            runs: settings.runs.min(MOST_RUNS),
            columns: columns.collect(),
        },
    )
}

/// A docker-archive as `docker save` writes it, with names but without digests to be checked, so
/// that every engine does the same work.
fn write_archive(archive: &Path, mib: u64, folder: &Path) -> Result<()> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut diff_ids = Vec::new();
    fs::create_dir_all(folder)?;
    for layer in 0..2 {
        let root = folder.join(format!("root{layer}"));
        let mut left = mib * 1024 * 1024 / 2;
        let mut number = 0;
        while left > 0 {
            let size = (4096 << (random.next() % 9)).min(left);
            let place = root.join(format!("usr/share/{layer}/{:02}", number % 64));
            fs::create_dir_all(&place)?;
            write_file(&place.join(format!("file{number}")), size, &mut random)?;
            left -= size;
            number += 1;
        }
        let tar = folder.join(format!("layer{layer}.tar"));
        harness::quietly(
            Command::new("tar")
                .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-C"])
                .arg(&root)
                .arg("-cf")
                .arg(&tar)
                .arg("."),
        )?;
        fs::remove_dir_all(&root)?;
        let output = Command::new("sha256sum").arg(&tar).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let digest = text
            .split(' ')
            .next()
            .context("sha256sum printed nothing")?;
        diff_ids.push(format!("sha256:{digest}"));
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    fs::write(folder.join("config.json"), serde_json::to_vec(&config)?)?;
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": ["bench/large:latest"],
        "Layers": ["layer0.tar", "layer1.tar"],
    }]);
    fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    harness::quietly(
        Command::new("tar")
            .arg("-C")
            .arg(folder)
            .arg("-cf")
            .arg(archive)
            .args(["manifest.json", "config.json", "layer0.tar", "layer1.tar"]),
    )?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// Two thirds of the files are noise, as compressed files and programs nearly are; the others text.
fn write_file(path: &Path, size: u64, random: &mut Random) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let is_text = random.next().is_multiple_of(3);
    let mut left = size;
    while left > 0 {
        let word = if is_text {
            u64::from_le_bytes(*b"abcdefg\n")
        } else {
            random.next()
        };
        let count = left.min(8);
        file.write_all(&word.to_le_bytes()[..count as usize])?;
        left -= count;
    }
    file.flush()?;
    Ok(())
}

/// xorshift64: the same archive in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
