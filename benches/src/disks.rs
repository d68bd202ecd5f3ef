//! P12: the disks of a virtual machine, beside what QEMU does with the same kernel and a raw file.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::engines::{Engine, Engines};
use crate::harness::{self, Settings};

const MIB: usize = 192;
/// Rounds; each boots or starts a machine.
const ROUNDS: usize = 5;

/// What `dd` in a guest is told, with `$FILE` to read and `$PLACE` to write at; memory holds nothing of either before.
/// It prints `read SECONDS` and `write SECONDS`; the write ends when it is on the disk.
fn script(read: Option<&str>, write: Option<&str>) -> String {
    let mut text = "now() { cut -d' ' -f1 /proc/uptime; }\n\
                    time_of() { a=$(now); \"$@\" 2> /dev/null || exit 1; echo $a $(now) | awk '{print $2 - $1}'; }\n\
                    sync; echo 3 > /proc/sys/vm/drop_caches\n"
        .to_owned();
    if let Some(file) = read {
        text += &format!("echo read $(time_of dd if={file} of=/dev/null bs=1M count={MIB})\n");
    }
    if let Some(place) = write {
        text += &format!(
            "echo write $(time_of dd if=/dev/zero of={place} bs=1M count={MIB} conv=fsync)\n"
        );
    }
    text
}

/// MiB a second.
fn rate(text: &str, what: &str) -> Result<f64> {
    let seconds = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(what)?.trim().parse::<f64>().ok());
    let seconds = seconds.with_context(|| format!("no {what} in {text:?}"))?;
    Ok(MIB as f64 / seconds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// P12.
pub fn rates(engines: &Engines, settings: &Settings) -> Result<()> {
    let Some(kernel) = crate::machines::kernel(engines)? else {
        return Ok(());
    };
    let folder = engines.folder().join("p12");
    fs::create_dir_all(folder.join("volume"))?;
    let root = import(engines, &folder)?;
    let initramfs = initramfs(&root, &folder)?;
    let raw = folder.join("raw");
    let volume = format!("{}:/data", folder.join("volume").display());
    let inside = |text: &str| -> Result<String> {
        let flags = [
            "run",
            "--rm",
            "--network",
            "none",
            "--isolation",
            "vm",
            "-m",
            "512m",
        ];
        let rest = ["--privileged", "-v", &volume, "p12", "sh", "-c", text];
        let output = engines
            .command(Engine::Isle, flags.into_iter().chain(rest))
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "a machine failed: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut found: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let limit = without_isle(&kernel, &initramfs, &raw, &folder)?;
        found[0].push(rate(&limit, "read")?);
        found[1].push(rate(&limit, "write")?);
        found[2].push(rate(&inside(&script(Some("/large"), None))?, "read")?);
        found[3].push(rate(&inside(&script(None, Some("/new")))?, "write")?);
        found[5].push(rate(&inside(&script(None, Some("/data/file")))?, "write")?);
        found[4].push(rate(&inside(&script(Some("/data/file"), None))?, "read")?);
    }
    println!(
        "\n### P12: disks of a virtual machine\n\n\
         `dd bs=1M` of {MIB} MiB through the guest's cache, which is empty before; writes end with fsync(2). The limit: the same \
         QEMU, kernel and size of memory without Isle, a raw file with a cache of the host's as its disk, read and written as a \
         block device. The host has the files in memory. Medians of {ROUNDS}, interleaved.\n\n\
         | column | MiB/s | beside the limit |\n|---|---|---|"
    );
    let names = [
        "virtio-blk, raw: read",
        "virtio-blk, raw: write",
        "isle vm, image: read",
        "isle vm, writable layer: write",
        "isle vm, folder of the host: read",
        "isle vm, folder of the host: write",
    ];
    let medians: Vec<f64> = found.iter().cloned().map(median).collect();
    let mut csv = String::from("column,run,mib_per_second\n");
    for (index, name) in names.iter().enumerate() {
        let limit = medians[usize::from(name.ends_with("write"))];
        println!(
            "| {name} | {:.0} | {:.0} % |",
            medians[index],
            100.0 * medians[index] / limit
        );
        for (run, value) in found[index].iter().enumerate() {
            csv += &format!("{name},{run},{value:.1}\n");
        }
    }
    fs::write(settings.output.join("P12.csv"), csv)?;
    Ok(())
}

/// Imports busybox with a large file beside it; where its tree is.
fn import(engines: &Engines, folder: &Path) -> Result<PathBuf> {
    let cache = std::env::var("ISLE_EXAMPLES_CACHE").unwrap_or("target/examples-cache".into());
    let description: Value = serde_json::from_slice(&fs::read(format!("{cache}/busybox.json"))?)?;
    let rootfs = description["rootfs"].as_str().context("no rootfs")?;
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    harness::quietly(
        Command::new("tar")
            .arg("-xf")
            .arg(rootfs)
            .arg("-C")
            .arg(&root),
    )?;
    let mut random = File::open("/dev/urandom")?.take((MIB as u64) << 20);
    std::io::copy(&mut random, &mut File::create(root.join("large"))?)?;
    let archive = folder.join("p12.tar");
    harness::quietly(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&root)
            .arg("."),
    )?;
    fs::remove_file(root.join("large"))?;
    let archive = archive.display().to_string();
    engines.quietly(
        Engine::Isle,
        &["import", "--change", "ENV PATH=/bin", &archive, "p12"],
    )?;
    Ok(root)
}

/// A first file system that does the same with `/dev/vda` and switches the machine off.
fn initramfs(root: &Path, folder: &Path) -> Result<PathBuf> {
    let init = format!(
        "#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\nexec > /dev/ttyS0\n{}reboot -f\n",
        script(Some("/dev/vda"), Some("/dev/vda"))
    );
    fs::write(root.join("init"), init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    for name in ["proc", "dev"] {
        fs::create_dir_all(root.join(name))?;
    }
    let path = folder.join("initramfs");
    let mut cpio = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(&path)?)
        .spawn()
        .context("cannot run busybox")?;
    let list = Command::new("find").arg(".").current_dir(root).output()?;
    let mut stdin = cpio.stdin.take().context("it has a standard input")?;
    stdin.write_all(&list.stdout)?;
    drop(stdin);
    ensure!(cpio.wait()?.success(), "cpio failed");
    Ok(path)
}

/// QEMU as Isle starts it, as far as speed goes.
fn without_isle(kernel: &Path, initramfs: &Path, raw: &Path, folder: &Path) -> Result<String> {
    let random = File::open("/dev/urandom")?;
    std::io::copy(
        &mut random.take((MIB as u64) << 20),
        &mut File::create(raw)?,
    )?;
    let console = folder.join("console");
    let drive = format!(
        "driver=raw,node-name=disk,discard=unmap,file.driver=file,file.filename={}",
        raw.display()
    );
    let model = isle_qemu::Architecture::X86_64.default_cpu_model(isle_qemu::Accelerator::Tcg);
    harness::quietly(
        Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args([
                "-machine",
                "microvm,acpi=off",
                "-accel",
                "tcg",
                "-cpu",
                model,
            ])
            .args(["-m", "768M", "-kernel"])
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            .arg(format!(
                "tsc_early_khz={} tsc=reliable quiet panic=-1 reboot=t random.trust_cpu=on mitigations=off",
                isle_sys::time::counter_khz()
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args([
                "-blockdev",
                &drive,
                "-device",
                "virtio-blk-device,drive=disk",
            ]),
    )?;
    Ok(fs::read_to_string(console)?)
}
