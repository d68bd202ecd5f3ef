//! An ordinary user with subordinate ids, for tests of what works without root. Nothing of the machine is touched: accounts and
//! ranges are files of the world, bound over those of the host in a mount namespace of each command.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user's id, and the first of 65536 that are subordinate to it: nobody's on any host.
pub(crate) const ID: u32 = 61_234;
const FIRST: u32 = 1_500_000_000;

/// Binds the files in `$0` in place and becomes the user; the words behind are executed.
const BECOME: &str = r#"for name in passwd group subuid subgid; do mount --bind "$0/$name" "/etc/$name"; done
[ ! -e "$0/tun" ] || mount --bind "$0/tun" /dev/net/tun
exec setpriv --reuid 61234 --regid 61234 --clear-groups --inh-caps=-all -- "$@""#;

/// The user of one world.
#[derive(Debug)]
pub(crate) struct OrdinaryUser {
    files: PathBuf,
}

/// Whether every test is told as an ordinary user: `ISLE_TEST_USER=rootless`.
pub(crate) fn is_wanted() -> bool {
    std::env::var_os("ISLE_TEST_USER").is_some_and(|word| word == "rootless")
}

impl OrdinaryUser {
    /// Makes the user's files below the folder of a world, and the folder the user's.
    pub(crate) fn new(world: &Path) -> OrdinaryUser {
        let files = world.join("user");
        fs::create_dir(&files).expect("a new folder");
        let write = |name: &str, line: String| {
            let host = match name {
                "passwd" | "group" => fs::read_to_string(Path::new("/etc").join(name)),
                _ => Ok(String::new()),
            };
            let text = host.unwrap_or_default() + &line;
            fs::write(files.join(name), text).expect("the world's folder can be written");
        };
        write("passwd", format!("isle-user:x:{ID}:{ID}::/:/bin/sh\n"));
        write("group", format!("isle-user:x:{ID}:\n"));
        for name in ["subuid", "subgid"] {
            write(name, format!("isle-user:{FIRST}:65536\n"));
        }
        // Distributions let everybody open it.
        let tun = files.join("tun");
        let made = Command::new("mknod")
            .args(["-m", "666"])
            .arg(&tun)
            .args(["c", "10", "200"])
            .status();
        assert!(
            made.is_ok_and(|status| status.success()),
            "mknod works for root"
        );
        let user = OrdinaryUser { files };
        for name in [".", "root", "run", "files", "user/runtime"] {
            let path = world.join(name);
            fs::create_dir_all(&path).expect("the world's folder can be written");
            user.give(&path);
        }
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(user.runtime(), private).expect("our own folder");
        user
    }

    /// `XDG_RUNTIME_DIR`
    pub(crate) fn runtime(&self) -> PathBuf {
        self.files.join("runtime")
    }

    /// Makes a file the user's.
    pub(crate) fn give(&self, path: &Path) {
        std::os::unix::fs::chown(path, Some(ID), Some(ID)).expect("root gives files away");
    }

    /// A copy of the guest kernels of all tests that is the user's, made once and kept beside them.
    pub(crate) fn kernels(&self, shared: &Path) -> PathBuf {
        let own = shared.with_file_name("kernels-of-a-user");
        if own.join("current").is_file() {
            return own;
        }
        let parent = shared.parent().expect("the folder is in one");
        let new =
            tempfile::tempdir_in(parent).expect("the folder beside the kernels can be written");
        let copy = new.path().join("kernels");
        for (program, words) in [
            ("cp", ["-rL"].as_slice()),
            ("chown", &["-R", "61234:61234"]),
        ] {
            let mut command = Command::new(program);
            command.args(words);
            if program == "cp" {
                command.arg(shared);
            }
            let status = command.arg(&copy).status();
            assert!(
                status.is_ok_and(|status| status.success()),
                "{program} works"
            );
        }
        // Another test may have been faster.
        let _ = fs::rename(&copy, &own);
        own
    }

    /// A program, called by the user. `command` makes the words that come before those of the user's.
    pub(crate) fn command(
        &self,
        command: impl FnOnce(&OsStr) -> Command,
        program: impl AsRef<OsStr>,
    ) -> Command {
        let mut command = command(OsStr::new("unshare"));
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec", BECOME])
            .arg(&self.files)
            .arg(program)
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("USER", "isle-user");
        command
    }
}
