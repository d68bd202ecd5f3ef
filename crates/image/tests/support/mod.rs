//! What the tests of the image store share: archives made byte by byte, and trees to compare.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "every test program uses a part of it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use isle_database::Database;
use isle_image::{Digest, LoadInput, Loaded, Progress, SCHEMA, Silent, Store};

pub fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

pub fn open_store(root: &Path) -> Store {
    fs::create_dir_all(root).unwrap();
    let database = Database::open(&root.join("isle.db"), &[SCHEMA]).unwrap();
    Store::open(root, database).unwrap()
}

pub fn load(store: &Store, archive: &[u8]) -> Vec<Loaded> {
    let mut archive = archive;
    store
        .load(LoadInput::Stream(&mut archive), None, &silent())
        .unwrap()
}

/// Says why and returns `true` when the test cannot be done here.
pub fn skipped(needs: &str, is_there: bool) -> bool {
    if !is_there {
        eprintln!("SKIPPED: needs {needs}");
    }
    !is_there
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn has_program(name: &str) -> bool {
    Command::new(name)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Like [`has_program`], for programs that know no `--version`.
pub fn can_run(name: &str) -> bool {
    Command::new(name).arg("--help").output().is_ok()
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A tar archive, written without any help, so that it may be as wrong as it likes.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

#[derive(Clone)]
pub struct Header {
    pub name: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: u64,
    pub link: Vec<u8>,
    pub device: (u32, u32),
}

impl Header {
    pub fn new(name: impl AsRef<[u8]>, kind: u8) -> Header {
        Header {
            name: name.as_ref().to_vec(),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_000_000_000,
            link: Vec::new(),
            device: (0, 0),
        }
    }

    pub fn bytes(&self) -> [u8; 512] {
        let mut block = [0; 512];
        block[..self.name.len()].copy_from_slice(&self.name);
        let mut octal = |at: usize, length: usize, value: u64| {
            let text = format!("{value:0width$o}\0", width = length - 1);
            block[at..at + length].copy_from_slice(&text.as_bytes()[..length]);
        };
        octal(100, 8, self.mode.into());
        octal(108, 8, self.uid.into());
        octal(116, 8, self.gid.into());
        octal(124, 12, self.size);
        octal(136, 12, self.mtime);
        octal(329, 8, self.device.0.into());
        octal(337, 8, self.device.1.into());
        block[156] = self.kind;
        block[157..157 + self.link.len()].copy_from_slice(&self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let text = format!("{sum:06o}\0 ");
        block[148..156].copy_from_slice(text.as_bytes());
        block
    }
}

impl Tar {
    pub fn raw(mut self, bytes: &[u8]) -> Tar {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn entry(self, header: &Header) -> Tar {
        self.raw(&header.bytes())
    }

    pub fn padded(mut self, content: &[u8]) -> Tar {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn with(self, change: impl FnOnce(&mut Header), name: &str, kind: u8) -> Tar {
        let mut header = Header::new(name, kind);
        change(&mut header);
        self.entry(&header)
    }

    pub fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Tar {
        let mut header = Header::new(name, b'0');
        header.size = content.len() as u64;
        header.mode = 0o644;
        self.entry(&header).padded(content)
    }

    pub fn directory(self, name: &str) -> Tar {
        self.entry(&Header::new(name, b'5'))
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.with(|header| header.link = target.into(), name, b'2')
    }

    pub fn hard_link(self, name: &str, target: &str) -> Tar {
        self.with(|header| header.link = target.into(), name, b'1')
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let content = pax_records(records);
        let mut header = Header::new("pax", b'x');
        header.size = content.len() as u64;
        self.entry(&header).padded(&content)
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    content
}

/// The configuration of an image of these layers (uncompressed archives).
pub fn config(layers: &[&[u8]], extra: serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    let mut config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::to_vec(&config).unwrap()
}

/// A docker-archive of one image.
pub fn docker_archive(layers: &[&[u8]], names: &[&str]) -> Vec<u8> {
    let config = config(layers, serde_json::json!({}));
    docker_archive_of(&config, layers, names)
}

pub fn docker_archive_of(config: &[u8], layers: &[&[u8]], names: &[&str]) -> Vec<u8> {
    let mut tar = Tar::default();
    let mut files = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number}/layer.tar");
        tar = tar.file(&name, layer);
        files.push(name);
    }
    let config_name = format!("{}.json", Digest::of(config).hex());
    let manifest = serde_json::json!([{"Config": config_name, "RepoTags": names, "Layers": files}]);
    tar.file(&config_name, config)
        .file("manifest.json", manifest.to_string().as_bytes())
        .end()
}

/// Everything that there is to know of a tree, by path.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    walk(root, root, &mut tree, &mut inodes);
    tree
}

fn walk(
    root: &Path,
    path: &Path,
    tree: &mut BTreeMap<String, String>,
    inodes: &mut BTreeMap<u64, String>,
) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().display().to_string();
    let kind = metadata.file_type();
    let content = if kind.is_symlink() {
        format!("link to {}", fs::read_link(path).unwrap().display())
    } else if kind.is_file() {
        let bytes = fs::read(path).unwrap();
        format!("file of {} {}", bytes.len(), Digest::of(&bytes))
    } else if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_fifo() {
        "pipe".to_owned()
    } else {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        format!("device {letter} {:x}", metadata.rdev())
    };
    let same = match metadata.nlink() {
        2.. if !kind.is_dir() => inodes.entry(metadata.ino()).or_insert(name.clone()).clone(),
        _ => String::new(),
    };
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut attributes = Vec::new();
    for attribute in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 4096];
        let size = rustix::fs::lgetxattr(path, attribute, &mut value).unwrap_or(0);
        let text = String::from_utf8_lossy(attribute).into_owned();
        attributes.push(format!("{text}={:?}", &value[..size]));
    }
    attributes.sort();
    // A symbolic link's own time and mode are not what archives are about, but must agree too.
    let line = format!(
        "{content} {:o} {}:{} {}.{:09} same={same} {attributes:?}",
        metadata.mode() & 0o7777,
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    );
    tree.insert(name, line);
    if kind.is_dir() {
        let mut children: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        children.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        for child in children {
            walk(root, &child, tree, inodes);
        }
    }
}
