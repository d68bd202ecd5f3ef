//! A virtual machine, booted for the test: QEMU without a template.
//!
//! `ISLE_TEST_KERNEL` names a kernel (an ELF file that QEMU boots by PVH), `ISLE_TEST_GUEST` the program isle-guest.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use isle_guest::{Clock, Disk, File, Prepare, Root, Writable};
use tempfile::TempDir;

/// A running virtual machine.
pub struct Machine {
    pub folder: TempDir,
    pub process: Child,
}

/// What a machine is made of; `None` says why there can be none.
pub fn parts() -> Option<(PathBuf, PathBuf)> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let parts = of("ISLE_TEST_KERNEL").zip(of("ISLE_TEST_GUEST"));
    if parts.is_none() {
        eprintln!("skipped: ISLE_TEST_KERNEL and ISLE_TEST_GUEST name no kernel and no isle-guest");
    }
    parts
}

/// A root file system: busybox with its names, and two users.
pub fn fill_root(root: &Path) {
    for folder in [
        "bin", "etc", "tmp", "dev", "proc", "sys", "home/ann", "root",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "id", "ls", "sleep", "true", "false", "head", "yes", "dd", "wc",
        "kill", "stty", "hostname", "env", "mount", "touch", "rm", "date", "ps", "tail", "md5sum",
        "od", "tr", "uname", "free", "ip", "mkdir", "ln",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nusers:x:100:\nwheel:x:10:ann\n",
    )
    .unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
}

/// One member of an archive in the format that the kernel reads, see initramfs-buffer-format.rst.
fn cpio(into: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let header = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        1,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0
    );
    into.extend_from_slice(header.as_bytes());
    into.extend_from_slice(name.as_bytes());
    into.push(0);
    into.resize(into.len().next_multiple_of(4), 0);
    into.extend_from_slice(content);
    into.resize(into.len().next_multiple_of(4), 0);
}

/// What the kernel unpacks: the program alone.
pub fn initramfs(program: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    cpio(&mut archive, "init", 0o100755, &fs::read(program).unwrap());
    cpio(&mut archive, "TRAILER!!!", 0, b"");
    archive
}

pub fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The rate of this processor's counter, which the guest then need not find out.
pub fn counter_khz() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("cpu MHz"));
    let megahertz = line.and_then(|line| line.split(':').nth(1)?.trim().parse::<f64>().ok());
    format!("{:.0}", megahertz.unwrap_or(2000.0) * 1000.0)
}

impl Machine {
    /// Boots one with an image and a writable disk.
    pub fn boot(parts: &(PathBuf, PathBuf)) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("initramfs"), initramfs(&parts.1)).unwrap();
        fill_root(&path("root"));
        run(
            "mkfs.erofs",
            &[path("image").as_os_str(), path("root").as_os_str()],
        );
        let disk = fs::File::create(path("disk")).unwrap();
        disk.set_len(256 << 20).unwrap();
        run(
            "mkfs.ext4",
            &["-q".as_ref(), "-F".as_ref(), path("disk").as_os_str()],
        );
        let drive = |name: &str, more: &str| {
            format!(
                "driver=raw,node-name={name},{more}file.driver=file,file.filename={}",
                path(name).display()
            )
        };
        let khz = counter_khz();
        let process = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-M", "microvm,acpi=off,accel=tcg", "-cpu", "max", "-m", "256"])
            .arg("-kernel")
            .arg(&parts.0)
            .arg("-initrd")
            .arg(path("initramfs"))
            .arg("-append")
            .arg(format!(
                "tsc_early_khz={khz} tsc=reliable random.trust_cpu=on mitigations=off nokaslr quiet panic=-1 reboot=t console=ttyS0"
            ))
            .args(["-serial", &format!("file:{}", path("console").display())])
            .args(["-chardev", &format!("socket,id=ag,path={},server=on,wait=off", path("agent").display())])
            .args(["-device", "virtio-serial-device,id=vs0"])
            .args(["-device", "virtserialport,bus=vs0.0,chardev=ag,name=isle,nr=1"])
            .args(["-blockdev", &drive("image", "read-only=on,")])
            .args(["-blockdev", &drive("disk", "discard=unmap,")])
            .args(["-device", "virtio-blk-device,drive=image"])
            .args(["-device", "virtio-blk-device,drive=disk"])
            .args(["-netdev", "hubport,id=n0,hubid=7"])
            .args(["-device", "virtio-net-device,netdev=n0"])
            .args(["-netdev", "hubport,id=n1,hubid=8"])
            .args(["-device", "virtio-net-device,netdev=n1"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Machine { folder, process }
    }

    /// A host end. QEMU takes one at a time.
    pub fn connect(&self) -> OwnedFd {
        let path = self.folder.path().join("agent");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match UnixStream::connect(&path) {
                Ok(socket) => return socket.into(),
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What its console said.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("console:\n{}", self.console());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What makes a machine of [`Machine::boot`] an instance.
pub fn prepare() -> Prepare {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let disk = |device: &str, filesystem: &str| Disk {
        device: device.to_owned(),
        filesystem: filesystem.to_owned(),
        options: String::new(),
    };
    let files = ["hostname", "hosts", "resolv.conf"].map(|name| File {
        name: name.to_owned(),
        mode: 0o644,
        content: format!("{name} of the host\n").into_bytes().into(),
    });
    Prepare {
        seed: [7; 32],
        clock: Clock {
            seconds: now.as_secs(),
            nanoseconds: now.subsec_nanos(),
        },
        hostname: "guest".to_owned(),
        files: files.to_vec(),
        root: Some(Root {
            image: disk("vda", "erofs"),
            writable: Writable::Disk(disk("vdb", "ext4")),
            is_volatile: false,
        }),
        ..Prepare::default()
    }
}
