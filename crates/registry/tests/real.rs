//! Against Debian's `docker-registry`, on loopback, and other tools beside us.
//!
//! Where a program is missing, the test says so and passes: see the output of `cargo test`.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod framework;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use framework::*;
use isle_registry::{
    Access, Client, Config, Keeper, Reference, RegistryError, Repository, Uploaded, registry_error,
};
use tempfile::TempDir;

fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        eprintln!("skipped: {program} is not installed");
    }
    found.is_ok()
}

struct RealRegistry {
    child: Child,
    folder: TempDir,
    host: String,
    log: std::path::PathBuf,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a registry; `extra` goes into its configuration below `http:`, `auth` at its end.
fn start(auth: &str, tls: Option<(&Path, &Path)>) -> RealRegistry {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let tls = tls.map_or(String::new(), |(certificate, key)| {
        format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            certificate.display(),
            key.display()
        )
    });
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\n  \
         delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{tls}{auth}",
        root = folder.path().display(),
    );
    let path = folder.path().join("config.yml");
    fs::write(&path, config).unwrap();
    let log = folder.path().join("log");
    let file = fs::File::create(&log).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "registry does not come up"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    RealRegistry {
        child,
        folder,
        host: format!("127.0.0.1:{port}"),
        log,
    }
}

/// What a stranger is told.
fn denied_without_a_login(config: &Config, registry: &RealRegistry) -> RegistryError {
    let error = repository(config, &registry.host, "app", Access::Pull)
        .document()
        .unwrap_err();
    let is_denied = matches!(
        error,
        RegistryError::Denied {
            is_anonymous: true,
            ..
        }
    );
    assert!(is_denied, "{error:?}");
    error
}

fn repository(config: &Config, host: &str, name: &str, access: Access) -> Repository {
    let reference = Reference::with_tag(host.into(), name.into(), "1".into());
    Client::new(config.clone())
        .repository(&reference, access)
        .unwrap()
}

/// A layer that is a real gzipped tar with one file in it.
fn layer(folder: &Path) -> Vec<u8> {
    let tree = folder.join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("hello"), "hello from isle\n").unwrap();
    let archive = folder.join("layer.tar.gz");
    let status = Command::new("tar")
        .arg("-czf")
        .arg(&archive)
        .arg("-C")
        .arg(&tree)
        .arg("hello")
        .status();
    assert!(status.unwrap().success());
    fs::read(archive).unwrap()
}

fn push_image(repository: &Repository, folder: &Path) -> String {
    let layer = layer(folder);
    let gunzip = Command::new("gzip")
        .arg("-dc")
        .arg(folder.join("layer.tar.gz"))
        .output()
        .unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&gunzip.stdout)]}
    })
    .to_string()
    .into_bytes();
    for blob in [&layer, &config] {
        repository
            .push_blob(&descriptor(blob), blob.as_slice(), None)
            .unwrap();
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": digest(&config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": layer.len(), "digest": digest(&layer)}]
    })
    .to_string();
    repository
        .push_document("1", OCI_MANIFEST, manifest.as_bytes())
        .unwrap()
        .to_string()
}

#[test]
fn what_is_pushed_can_be_pulled_mounted_and_listed() {
    if !is_installed("docker-registry") {
        return;
    }
    let registry = start("", None);
    let pushed = repository(&Config::bare(), &registry.host, "team/app", Access::Push);
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(
        pushed
            .push_blob(&descriptor(&big), big.as_slice(), None)
            .unwrap(),
        Uploaded::Sent
    );
    assert_eq!(
        pushed
            .push_blob(&descriptor(&big), big.as_slice(), None)
            .unwrap(),
        Uploaded::Existed
    );
    let sibling = repository(&Config::bare(), &registry.host, "team/other", Access::Push);
    let outcome = sibling
        .push_blob(&descriptor(&big), big.as_slice(), Some("team/app"))
        .unwrap();
    assert_eq!(outcome, Uploaded::Mounted);
    let named = push_image(&pushed, registry.folder.path());
    assert_eq!(
        pushed.digest_of_tag("1").unwrap().unwrap().to_string(),
        named
    );
    assert_eq!(pushed.digest_of_tag("2").unwrap(), None);

    let pulled = repository(&Config::bare(), &registry.host, "team/app", Access::Pull);
    let document = pulled.document().unwrap();
    assert_eq!(document.digest.to_string(), named);
    let mut got = Vec::new();
    pulled
        .blob(&descriptor(&big), 5_000_000)
        .unwrap()
        .read_to_end(&mut got)
        .unwrap();
    assert!(got == big[5_000_000..]);
    assert_eq!(pulled.tags().unwrap(), ["1"]);
    let absent = repository(&Config::bare(), &registry.host, "team/absent", Access::Pull);
    let error = absent.document().unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    assert!(matches!(
        absent.tags().unwrap_err(),
        RegistryError::NotFound { .. }
    ));
    let error = pulled.blob(&descriptor(b"absent"), 0).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[test]
fn a_blob_goes_up_in_pieces() {
    if !is_installed("docker-registry") {
        return;
    }
    let registry = start("", None);
    let mut config = Config::bare();
    let settings = isle_registry::RegistrySettings {
        upload_chunk: Some(isle_types::ByteSize(1_000_000)),
        ..Default::default()
    };
    config
        .registries
        .registry
        .insert(registry.host.clone(), settings);
    let pushed = repository(&config, &registry.host, "pieces", Access::Push);
    let big: Vec<u8> = (0..900_000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(
        pushed
            .push_blob(&descriptor(&big), big.as_slice(), None)
            .unwrap(),
        Uploaded::Sent
    );
    let mut got = Vec::new();
    pushed
        .blob(&descriptor(&big), 0)
        .unwrap()
        .read_to_end(&mut got)
        .unwrap();
    assert!(got == big);
}

/// Content whose first reading breaks off: the second has to go on.
struct Fickle<'a> {
    content: &'a [u8],
    breaks: std::sync::atomic::AtomicBool,
}

impl isle_registry::Source for Fickle<'_> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let rest = &self.content[usize::try_from(offset).unwrap()..];
        Ok(
            match self.breaks.swap(false, std::sync::atomic::Ordering::SeqCst) {
                false => Box::new(rest),
                true => Box::new(rest.take(rest.len() as u64 / 2).chain(Failing)),
            },
        )
    }
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[test]
fn content_that_cannot_be_read_leaves_nothing_at_the_registry() {
    if !is_installed("docker-registry") {
        return;
    }
    let registry = start("", None);
    let pushed = repository(&Config::bare(), &registry.host, "fickle", Access::Push);
    let big = vec![7_u8; 5_000_000];
    let source = Fickle {
        content: &big,
        breaks: true.into(),
    };
    let error = pushed
        .push_blob(&descriptor(&big), &source, None)
        .unwrap_err();
    assert!(matches!(error, RegistryError::Source { .. }), "{error:?}");
    assert!(!pushed.has_blob(descriptor(&big).digest()).unwrap());
    assert_eq!(
        pushed.push_blob(&descriptor(&big), &source, None).unwrap(),
        Uploaded::Sent
    );
}

/// A line of `htpasswd -B`: `user` with the password `secret`.
fn htpasswd(folder: &Path) -> Option<String> {
    let hash = "$2y$05$";
    let made = Command::new("htpasswd")
        .args(["-Bbn", "user", "secret"])
        .output();
    let line = match made {
        Ok(made) if made.status.success() => String::from_utf8(made.stdout).unwrap(),
        _ => {
            let script = "import crypt; print('user:' + crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=32)))";
            let made = Command::new("python3")
                .args(["-W", "ignore", "-c", script])
                .output()
                .ok()?;
            String::from_utf8(made.stdout).unwrap()
        }
    };
    if !line.starts_with("user:$2") {
        eprintln!("skipped: neither htpasswd nor python3 can make a bcrypt hash {hash}: {line:?}");
        return None;
    }
    let path = folder.join("htpasswd");
    fs::write(&path, line.trim_end().to_owned() + "\n").unwrap();
    Some(format!(
        "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
        path.display()
    ))
}

#[test]
fn a_login_opens_a_registry_with_passwords() {
    let folder = tempfile::tempdir().unwrap();
    let Some(auth) = htpasswd(folder.path()).filter(|_| is_installed("docker-registry")) else {
        return;
    };
    let registry = start(&auth, None);
    let store = isle_registry::CredentialStore::in_file(folder.path().join("config.json"));
    let config = Config {
        credentials: store.clone(),
        ..Config::bare()
    };
    let client = Client::new(config.clone());

    let error = denied_without_a_login(&config, &registry);
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&format!("isle login {}", registry.host))
    );
    let error = client
        .login(&registry.host, &password("user", "wrong"))
        .unwrap_err();
    assert!(matches!(error, RegistryError::Login { .. }), "{error:?}");
    let login = client
        .login(&registry.host, &password("user", "secret"))
        .unwrap();
    assert_eq!(
        login.keeper,
        Keeper::File(folder.path().join("config.json"))
    );
    let pushed = repository(&config, &registry.host, "app", Access::Push);
    let named = push_image(&pushed, folder.path());
    let pulled = repository(&config, &registry.host, "app", Access::Pull)
        .document()
        .unwrap();
    assert_eq!(pulled.digest.to_string(), named);

    // What we keep, skopeo can read, and what skopeo keeps, we can.
    if is_installed("skopeo") {
        let inspect = Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", "--authfile"])
            .arg(folder.path().join("config.json"))
            .arg(format!("docker://{}/app:1", registry.host))
            .output()
            .unwrap();
        assert!(
            inspect.status.success(),
            "{}",
            String::from_utf8_lossy(&inspect.stderr)
        );
        assert_eq!(digest(&inspect.stdout), named);
        let theirs = folder.path().join("theirs.json");
        let mut login = Command::new("skopeo")
            .args([
                "login",
                "--tls-verify=false",
                "-u",
                "user",
                "--password-stdin",
                "--authfile",
            ])
            .arg(&theirs)
            .arg(&registry.host)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        login.stdin.take().unwrap().write_all(b"secret").unwrap();
        assert!(login.wait().unwrap().success());
        let theirs = isle_registry::CredentialStore::in_file(theirs);
        assert_eq!(
            theirs.get(&registry.host).unwrap(),
            Some(password("user", "secret"))
        );
    }
    assert!(client.logout(&registry.host).unwrap());
    denied_without_a_login(&config, &registry);
    // The password is in no log.
    assert!(
        !fs::read_to_string(&registry.log)
            .unwrap()
            .contains("secret")
    );
}

#[test]
fn skopeo_and_podman_understand_what_we_push_and_we_what_they_push() {
    if !is_installed("docker-registry") || !is_installed("skopeo") {
        return;
    }
    let registry = start("", None);
    let folder = registry.folder.path().to_owned();
    let pushed = repository(&Config::bare(), &registry.host, "app", Access::Push);
    let named = push_image(&pushed, &folder);
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let layout = format!("oci:{}/layout:1", folder.display());
    let ours = format!("docker://{}/app:1", registry.host);
    let theirs = format!("docker://{}/theirs:1", registry.host);
    skopeo(&["copy", "--src-tls-verify=false", &ours, &layout]);
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--format",
        "v2s2",
        &layout,
        &theirs,
    ]);
    let pulled = repository(&Config::bare(), &registry.host, "theirs", Access::Pull);
    let document = pulled.document().unwrap();
    assert_eq!(
        document.media_type,
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    let manifest: oci_spec::image::ImageManifest = serde_json::from_slice(&document.bytes).unwrap();
    let config = pulled.small_blob(manifest.config()).unwrap();
    assert!(String::from_utf8(config).unwrap().contains("/hello"));
    for layer in manifest.layers() {
        let mut got = Vec::new();
        pulled
            .blob(layer, 0)
            .unwrap()
            .read_to_end(&mut got)
            .map_err(registry_error)
            .unwrap();
        assert_eq!(digest(&got), layer.digest().to_string());
    }
    if !is_installed("podman") {
        return;
    }
    let root = folder.join("podman");
    let podman = |arguments: &[&str]| {
        Command::new("podman")
            .arg("--root")
            .arg(root.join("root"))
            .arg("--runroot")
            .arg(root.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let name = format!("{}/app@{named}", registry.host);
    let pull = podman(&["pull", "--tls-verify=false", &name]);
    assert!(
        pull.status.success(),
        "{}",
        String::from_utf8_lossy(&pull.stderr)
    );
    podman(&["rmi", "-a", "-f"]);
}

/// An authority and a certificate for 127.0.0.1 made by openssl.
fn certificates(folder: &Path) -> bool {
    let script = "set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
          -keyout authority.key -out authority.crt
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=registry -keyout server.key -out server.csr
        printf 'subjectAltName=IP:127.0.0.1,DNS:registry.test' > extensions
        openssl x509 -req -in server.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2 \
          -extfile extensions -out server.crt";
    let made = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(folder)
        .output();
    made.is_ok_and(|made| made.status.success())
}

#[test]
fn an_authority_of_ones_own_is_believed_for_its_registry_alone() {
    let folder = tempfile::tempdir().unwrap();
    if !is_installed("docker-registry") || !certificates(folder.path()) {
        eprintln!("skipped: openssl cannot make certificates");
        return;
    }
    let at = |name: &str| folder.path().join(name);
    let registry = start("", Some((&at("server.crt"), &at("server.key"))));
    let port: u16 = registry.host.rsplit(':').next().unwrap().parse().unwrap();
    // Another name for it, that only a proxy knows: loopback itself needs no certificate.
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let proxy = Proxy::start(vec![("registry.test:443", address)]);
    let proxied = format!("http://{}", proxy.address);
    let mut config = Config {
        proxies: isle_registry::Proxies::from_variables(|name| {
            (name == "HTTPS_PROXY").then(|| proxied.clone())
        }),
        ..impatient()
    };
    let error = repository(&config, "registry.test", "app", Access::Pull)
        .document()
        .unwrap_err();
    let RegistryError::Transport {
        source: isle_registry::TransportError::Certificate(_),
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert!(
        error
            .hint()
            .unwrap()
            .contains("/etc/docker/certs.d/registry.test/ca.crt")
    );
    let own = at("certs.d/registry.test");
    fs::create_dir_all(&own).unwrap();
    fs::copy(at("authority.crt"), own.join("ca.crt")).unwrap();
    config.certificate_folders = vec![at("certs.d"), at("absent")];
    let named = push_image(
        &repository(&config, "registry.test", "app", Access::Push),
        folder.path(),
    );
    let pulled = repository(&config, "registry.test", "app", Access::Pull)
        .document()
        .unwrap();
    assert_eq!(pulled.digest.to_string(), named);
    // On loopback HTTPS is found by itself, and a certificate is not asked for, as with Docker.
    let pulled = repository(&Config::bare(), &registry.host, "app", Access::Pull)
        .document()
        .unwrap();
    assert_eq!(pulled.digest.to_string(), named);
    fs::write(own.join("client.cert"), "not a certificate").unwrap();
    let error = repository(&config, "registry.test", "app", Access::Pull)
        .document()
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Certificates { .. }),
        "{error:?}"
    );
}

#[test]
fn a_plain_server_at_a_remote_name_is_refused_with_the_remedy() {
    if !is_installed("docker-registry") {
        return;
    }
    let registry = start("", None);
    let proxy = Proxy::start(vec![("registry.test:443", registry.host.parse().unwrap())]);
    let proxied = format!("http://{}", proxy.address);
    let config = Config {
        proxies: isle_registry::Proxies::from_variables(|name| {
            (name == "HTTPS_PROXY").then(|| proxied.clone())
        }),
        ..impatient()
    };
    let error = repository(&config, "registry.test", "app", Access::Pull)
        .document()
        .unwrap_err();
    let RegistryError::Transport {
        source: isle_registry::TransportError::NotTls,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert!(
        error
            .hint()
            .unwrap()
            .contains("[registry.\"registry.test\"] insecure = true")
    );
}

/// The helper that the next test puts on the PATH: a keychain of one file.
const HELPER: &str = r#"#!/bin/sh
store="$ISLE_TEST_KEYCHAIN"
case "$1" in
store) cat > "$store" ;;
get) if [ -s "$store" ]; then cat "$store"; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) cat > /dev/null; : > "$store" ;;
fail) exit 1 ;;
esac
"#;

#[test]
fn a_credential_helper_keeps_what_the_file_does_not() {
    if std::env::var_os("ISLE_TEST_KEYCHAIN").is_none() {
        // The PATH of this process is not ours to change: the test runs itself with another one.
        let folder = tempfile::tempdir().unwrap();
        let helper = folder.path().join("docker-credential-test");
        fs::write(&helper, HELPER).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let broken = folder.path().join("docker-credential-broken");
        fs::write(&broken, "#!/bin/sh\necho 'keychain is locked'\nexit 3\n").unwrap();
        fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!(
            "{}:{}",
            folder.path().display(),
            std::env::var("PATH").unwrap()
        );
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_credential_helper_keeps_what_the_file_does_not",
                "--nocapture",
            ])
            .env("PATH", path)
            .env("ISLE_TEST_KEYCHAIN", folder.path().join("keychain"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let config = r#"{"credsStore":"broken","credHelpers":{"a.test":"test","gone.test":"gone"}}"#;
    fs::write(&path, config).unwrap();
    let store = isle_registry::CredentialStore::in_file(&path);
    assert_eq!(store.get("a.test").unwrap(), None);
    let keeper = store.put("a.test", &password("user", "secret")).unwrap();
    assert_eq!(keeper, Keeper::Helper("test".into()));
    assert!(!fs::read_to_string(&path).unwrap().contains("auth\""));
    let kept = fs::read_to_string(std::env::var("ISLE_TEST_KEYCHAIN").unwrap()).unwrap();
    assert_eq!(
        kept,
        r#"{"ServerURL":"a.test","Username":"user","Secret":"secret"}"#
    );
    assert_eq!(
        store.get("a.test").unwrap(),
        Some(password("user", "secret"))
    );
    let token = isle_registry::Credential::IdentityToken {
        username: String::new(),
        token: isle_registry::Secret::new("t"),
    };
    store.put("a.test", &token).unwrap();
    assert_eq!(store.get("a.test").unwrap(), Some(token));
    assert!(store.remove("a.test").unwrap());
    assert_eq!(store.get("a.test").unwrap(), None);
    let error = store.get("other.test").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        source,
        "docker-credential-broken get failed: keychain is locked"
    );
    let error = store.get("gone.test").unwrap_err();
    assert!(
        error
            .hint()
            .unwrap()
            .contains("install docker-credential-gone")
    );
}
