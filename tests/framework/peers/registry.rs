//! Debian's `docker-registry` on a port of the loopback address.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::wait_for;

/// A running registry; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts one that keeps everything below `folder`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Registry {
        Registry::with_configuration(folder, "")
    }

    /// Starts one that wants this user's name and password. `htpasswd` is a line of that format,
    /// with a bcrypt digest.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_password(folder: &Path, htpasswd: &str) -> Registry {
        std::fs::create_dir_all(folder).expect("the test's own folder");
        let file = folder.join("htpasswd");
        std::fs::write(&file, htpasswd).expect("the test's own folder");
        let section = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        );
        Registry::with_configuration(folder, &section)
    }

    fn with_configuration(folder: &Path, section: &str) -> Registry {
        let data = folder.join("data");
        std::fs::create_dir_all(&data).expect("the test's own folder");
        let port = super::free_port();
        let configuration = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{section}",
            data.display()
        );
        std::fs::write(&configuration, text).expect("the test's own folder");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the test needs docker-registry");
        wait_for("the registry listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Registry { child, port }
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
