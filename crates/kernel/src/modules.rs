//! The modules of a distribution's kernel that a guest loads before it has a root file system.
//!
//! A kernel package has no `modules.dep` (its installation makes it), so dependencies are read from the
//! modules themselves: the section `.modinfo` has `depends=`, `softdep=` and `alias=`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use crate::cpio;
use crate::error::KernelError;
use crate::program::{command, require};

/// What a guest cannot do without.
const REQUIRED: [&str; 6] = [
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "erofs",
    "ext4",
    "overlay",
];

/// What a guest does more with, by the name of the feature.
const OPTIONAL: [(&str, &[&str]); 9] = [
    ("balloon", &["virtio_balloon"]),
    ("virtio-net", &["virtio_net"]),
    ("virtio-rng", &["virtio_rng"]),
    ("virtio-scsi", &["virtio_scsi", "sd_mod"]),
    ("virtiofs", &["virtiofs"]),
    ("9p", &["9p", "9pnet_virtio"]),
    ("9p-fd", &["9p", "9pnet_fd"]),
    ("fuse", &["fuse"]),
    ("tun", &["tun"]),
];

/// Modules of one kernel.
#[derive(Debug)]
struct Tree {
    files: HashMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    /// From what other modules call a service to those that provide it: `crc32c`.
    aliases: BTreeMap<String, BTreeSet<String>>,
    needs: HashMap<String, Vec<String>>,
}

/// What to load, and what can be done then.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Names and files, in the order in which they are loaded.
    pub(crate) modules: Vec<(String, PathBuf)>,
    /// Names of features, sorted.
    pub(crate) features: Vec<String>,
}

/// Chooses from the folder `lib/modules/<release>`. Fails with the name of what is not there.
pub(crate) fn choose(folder: &Path) -> Result<Result<Chosen, String>, KernelError> {
    let tree = Tree::read(folder).map_err(KernelError::io("read the modules in", folder))?;
    Ok(tree.choose())
}

impl Tree {
    fn read(folder: &Path) -> io::Result<Tree> {
        let mut files = HashMap::new();
        walk(folder, 0, &mut files)?;
        let builtin = fs::read_to_string(folder.join("modules.builtin"))?;
        let mut tree = Tree {
            builtin: builtin
                .lines()
                .filter_map(|line| module_name(Path::new(line)))
                .collect(),
            files,
            aliases: BTreeMap::new(),
            needs: HashMap::new(),
        };
        // `crc32c_generic.alias=crc32c`: a service that is built in, under another name than its own.
        let builtin = fs::read(folder.join("modules.builtin.modinfo")).unwrap_or_default();
        for field in builtin.split(|byte| *byte == 0) {
            let field = String::from_utf8_lossy(field);
            if let Some((_, alias)) = field.split_once(".alias=")
                && is_service(alias)
            {
                tree.builtin.insert(normal(alias));
            }
        }
        // Who provides what is known only when all have been read.
        let names: Vec<String> = tree.files.keys().cloned().collect();
        for name in names {
            let info = ModuleInfo::of(&contents(&tree.files[&name])?)?;
            for alias in info.aliases {
                tree.aliases.entry(alias).or_default().insert(name.clone());
            }
            tree.needs.insert(name, info.needs);
        }
        Ok(tree)
    }

    fn choose(&self) -> Result<Chosen, String> {
        let mut order = Vec::new();
        for name in REQUIRED {
            self.add(name, &mut order)
                .map_err(|missing| format!("it has no {missing}, which {name} needs"))?;
        }
        let mut features = Vec::new();
        for (feature, names) in OPTIONAL {
            let mut with_it = order.clone();
            let all = names
                .iter()
                .try_for_each(|name| self.add(name, &mut with_it));
            if all.is_ok() {
                order = with_it;
                features.push(feature.to_owned());
            }
        }
        features.sort();
        let modules = order
            .into_iter()
            .map(|name| {
                let file = self.files[&name].clone();
                (name, file)
            })
            .collect();
        Ok(Chosen { modules, features })
    }

    /// Adds a module after everything that it needs. Fails with the name of what is missing.
    fn add(&self, name: &str, order: &mut Vec<String>) -> Result<(), String> {
        self.add_below(name, order, &mut Vec::new())
    }

    fn add_below(
        &self,
        name: &str,
        order: &mut Vec<String>,
        above: &mut Vec<String>,
    ) -> Result<(), String> {
        let name = name.replace('-', "_");
        let is_done = self.builtin.contains(&name) || order.contains(&name);
        if is_done || above.contains(&name) {
            return Ok(());
        }
        if !self.files.contains_key(&name) {
            let provider = self.provider(&name).ok_or(name)?;
            return self.add_below(&provider, order, above);
        }
        above.push(name.clone());
        for need in &self.needs[&name] {
            self.add_below(need, order, above)?;
        }
        above.pop();
        order.push(name);
        Ok(())
    }

    /// Of several, the one that runs on every processor.
    fn provider(&self, alias: &str) -> Option<String> {
        let providers = self.aliases.get(alias)?;
        let is_generic = |name: &&String| name.ends_with("_generic");
        let provider = providers.iter().find(is_generic);
        provider.or_else(|| providers.first()).cloned()
    }
}

/// What a module says of itself.
struct ModuleInfo {
    needs: Vec<String>,
    aliases: Vec<String>,
}

impl ModuleInfo {
    fn of(bytes: &[u8]) -> io::Result<ModuleInfo> {
        let invalid = |error: object::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let file = object::File::parse(bytes).map_err(invalid)?;
        let mut info = ModuleInfo {
            needs: Vec::new(),
            aliases: Vec::new(),
        };
        let Some(section) = file.section_by_name(".modinfo") else {
            return Ok(info);
        };
        for field in section.data().map_err(invalid)?.split(|byte| *byte == 0) {
            let field = String::from_utf8_lossy(field);
            match field.split_once('=') {
                Some(("depends", names)) => {
                    info.needs.extend(names.split(',').map(normal));
                }
                Some(("softdep", text)) => info.needs.extend(before(text).map(normal)),
                Some(("alias", alias)) if is_service(alias) => {
                    info.aliases.push(normal(alias));
                }
                _ => {}
            }
        }
        info.needs.retain(|name| !name.is_empty());
        Ok(info)
    }
}

/// Aliases of devices have a colon, those of services have none.
fn is_service(alias: &str) -> bool {
    !alias.contains([':', '*'])
}

/// The names behind `pre:` in `pre: a b post: c`.
fn before(text: &str) -> impl Iterator<Item = &str> {
    let (_, pre) = text.split_once("pre:").unwrap_or_default();
    let pre = pre.split_once("post:").map_or(pre, |(pre, _)| pre);
    pre.split_whitespace()
}

fn normal(name: &str) -> String {
    name.trim().replace('-', "_")
}

fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let end = name.find(".ko")?;
    let rest = &name[end..];
    matches!(rest, ".ko" | ".ko.xz" | ".ko.zst" | ".ko.gz").then(|| normal(&name[..end]))
}

fn walk(folder: &Path, depth: u32, files: &mut HashMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < 32 {
            walk(&entry.path(), depth + 1, files)?;
        } else if kind.is_file()
            && let Some(name) = module_name(&entry.path())
        {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// A module as the kernel takes it: distributions compress them.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let program = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => return fs::read(path),
    };
    require("unpack kernel modules", &[program]).map_err(io::Error::other)?;
    let output = command(program.0).arg("-dc").arg(path).output()?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(io::Error::other(format!(
            "{} ended with {} on {}",
            program.0,
            output.status,
            path.display()
        ))),
    }
}

/// The archive of the modules.
pub(crate) fn archive(chosen: &Chosen) -> io::Result<Vec<u8>> {
    let mut writer = cpio::Writer::new(Vec::new());
    writer.directory("modules")?;
    let mut order = String::new();
    for (place, (name, path)) in chosen.modules.iter().enumerate() {
        let file = format!("{place:02}-{name}.ko");
        writer.file(&format!("modules/{file}"), 0o644, &contents(path)?)?;
        order.push_str(&file);
        order.push('\n');
    }
    writer.file("modules/order", 0o644, order.as_bytes())?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &[&str])], aliases: &[(&str, &str)]) -> Tree {
        let mut tree = Tree {
            files: HashMap::new(),
            builtin: BTreeSet::from(["ext4".to_owned()]),
            aliases: BTreeMap::new(),
            needs: HashMap::new(),
        };
        for (name, needs) in modules {
            tree.files.insert((*name).to_owned(), PathBuf::from(name));
            let needs = needs.iter().map(|need| (*need).to_owned()).collect();
            tree.needs.insert((*name).to_owned(), needs);
        }
        for (alias, name) in aliases {
            let providers = tree.aliases.entry((*alias).to_owned()).or_default();
            providers.insert((*name).to_owned());
        }
        tree
    }

    const ALL: [(&str, &[&str]); 8] = [
        ("virtio_mmio", &["virtio", "virtio_ring"]),
        ("virtio_console", &["virtio"]),
        ("virtio_blk", &["virtio"]),
        ("virtio", &[]),
        ("virtio_ring", &["virtio"]),
        ("erofs", &["libcrc32c"]),
        ("libcrc32c", &["crc32c"]),
        ("overlay", &[]),
    ];

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let mut modules = ALL.to_vec();
        modules.push(("crc32c_intel", &[]));
        modules.push(("crc32c_generic", &[]));
        modules.push(("sd_mod", &[]));
        let aliases = [("crc32c", "crc32c_generic"), ("crc32c", "crc32c_intel")];
        let chosen = tree(&modules, &aliases).choose().unwrap();
        let names: Vec<&str> = chosen.modules.iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            names,
            [
                "virtio",
                "virtio_ring",
                "virtio_mmio",
                "virtio_console",
                "virtio_blk",
                "crc32c_generic",
                "libcrc32c",
                "erofs",
                "overlay"
            ]
        );
        // sd_mod alone is no feature.
        assert_eq!(chosen.features, [""; 0]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = tree(&ALL, &[]).choose().unwrap_err();
        assert_eq!(error, "it has no crc32c, which erofs needs");
    }

    #[test]
    fn modules_that_need_each_other_do_not_hang() {
        let tree = tree(&[("a", &["b"]), ("b", &["a"])], &[]);
        let mut order = Vec::new();
        tree.add("a", &mut order).unwrap();
        assert_eq!(order, ["b", "a"]);
    }

    #[test]
    fn names_are_read_as_modprobe_reads_them() {
        for (path, expected) in [
            ("kernel/drivers/virtio-rng.ko", Some("virtio_rng")),
            ("a.ko.xz", Some("a")),
            ("a.ko.bak", None),
            ("modules.order", None),
        ] {
            assert_eq!(module_name(Path::new(path)).as_deref(), expected, "{path}");
        }
        assert_eq!(before("pre: a b post: c").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(before("post: c").count(), 0);
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        assert!(ModuleInfo::of(b"\x7fELF").is_err());
        assert!(ModuleInfo::of(b"").is_err());
    }
}
