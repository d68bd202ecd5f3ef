//! Images between two stores by way of a registry: Debian's `docker-registry`, and scripted ones.

#![allow(clippy::unwrap_used, reason = "tests only")]

#[path = "../../registry/tests/framework/mod.rs"]
mod framework;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use framework::{Reply, Server, challenge, digest, impatient, reply, user_of};
use isle_image::{
    Event, Image, LoadInput, Phase, Platform, Progress, PullError, PullOptions, PullPolicy,
    PushError, Reference, Store,
};
use isle_registry::{Client, Config};
use tempfile::TempDir;

/// Remembers what it was told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Progress for Told {
    fn event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Message(line) => (*line).to_owned(),
            Event::Layer { id, phase, .. } => format!("{}: {}", id.short(), phase.as_str()),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

impl Told {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn told() -> (Arc<Told>, Arc<dyn Progress>) {
    let told = Arc::new(Told::default());
    let progress: Arc<dyn Progress> = Arc::<Told>::clone(&told);
    (told, progress)
}

fn silent() -> Arc<dyn Progress> {
    told().1
}

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isle.db");
    let database = isle_database::Database::open(&path, &[isle_image::SCHEMA]).unwrap();
    let store = Store::open(folder.path(), database).unwrap();
    (folder, store)
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn amd64() -> PullOptions {
    PullOptions {
        platform: Some("linux/amd64".parse().unwrap()),
        policy: PullPolicy::Always,
    }
}

/// An image as a registry has it.
struct Made {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
}

fn gzip_tar(content: &[(&str, &[u8])]) -> (Vec<u8>, String) {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in content {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    let plain = builder.into_inner().unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &plain).unwrap();
    (encoder.finish().unwrap(), digest(&plain))
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push((state >> 24) as u8);
    }
    bytes
}

fn image(architecture: &str, variety: u32) -> Made {
    let big = noise(3_000_000, variety);
    let first = gzip_tar(&[("hello", b"hello from isle\n"), ("big", &big)]);
    let second = gzip_tar(&[("second", &noise(400_000, variety + 1))]);
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/hello"], "Labels": {"variety": variety.to_string()}},
        "rootfs": {"type": "layers", "diff_ids": [first.1, second.1]}
    })
    .to_string()
    .into_bytes();
    let layers = vec![first.0, second.0];
    let described: Vec<_> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "size": layer.len(), "digest": digest(layer)
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": framework::OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(), "digest": digest(&config)
        },
        "layers": described
    })
    .to_string()
    .into_bytes();
    Made {
        manifest,
        config,
        layers,
    }
}

const UNKNOWN: &str = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

impl Made {
    fn blob(&self, name: &str) -> Option<&Vec<u8>> {
        self.layers
            .iter()
            .chain([&self.config])
            .find(|blob| digest(blob) == name)
    }

    /// An answer of a registry that has this image as `app:1`.
    fn serve(&self, path: &str) -> Reply {
        let name = last_part(path);
        let is_manifest = name == "1" || name == digest(&self.manifest);
        match self.blob(name) {
            _ if name.is_empty() => reply(200, ""),
            _ if path.contains("/manifests/") && is_manifest => {
                framework::document(self.manifest.clone())
            }
            Some(blob) if path.contains("/blobs/") => reply(200, blob.clone()),
            _ => reply(404, UNKNOWN),
        }
    }

    /// An OCI image layout that has this image as `name`.
    fn layout(&self, folder: &Path, name: &str) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            fs::write(blobs.join(&digest(blob)[7..]), blob).unwrap();
        }
        fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": framework::OCI_MANIFEST,
            "size": self.manifest.len(), "digest": digest(&self.manifest),
            "annotations": {"io.containerd.image.name": name}
        }]});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
    }
}

fn files(store: &Store, image: &Image) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for layer in store.layers(image).unwrap() {
        for entry in fs::read_dir(layer).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            files.push((name, fs::read(path).unwrap()));
        }
    }
    files.sort();
    files
}

struct RealRegistry {
    child: Child,
    _folder: TempDir,
    host: String,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn real_registry() -> Option<RealRegistry> {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = folder.path().join("config.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: 127.0.0.1:{port}\n",
        folder.path().display()
    );
    fs::write(&config, text).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        eprintln!("skipped: docker-registry is not installed");
        return None;
    };
    let host = format!("127.0.0.1:{port}");
    let registry = RealRegistry {
        child,
        _folder: folder,
        host,
    };
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "registry does not come up"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(registry)
}

fn count_of(lines: &[String], end: &str) -> usize {
    lines
        .iter()
        .filter(|line| line.ends_with(&format!(": {end}")))
        .count()
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back_the_same() {
    let Some(registry) = real_registry() else {
        return;
    };
    let host = &registry.host;
    let made = image("amd64", 1);
    let (from_folder, from) = store();
    let layout = from_folder.path().join("layout");
    let name = format!("{host}/team/app:1");
    made.layout(&layout, &name);
    let platform: Platform = "linux/amd64".parse().unwrap();
    let loaded = from.load(LoadInput::Directory(&layout), Some(&platform), &silent());
    let loaded = loaded.unwrap().remove(0).image;
    let client = Client::new(Config::bare());
    let (told_push, progress) = told();
    let pushed = from.push(&client, &reference(&name), &progress).unwrap();
    assert_eq!(pushed.as_str(), digest(&made.manifest));
    let lines = told_push.lines();
    assert_eq!(
        lines[0],
        format!("The push refers to repository [{host}/team/app]")
    );
    let size = made.manifest.len();
    assert_eq!(
        *lines.last().unwrap(),
        format!("1: digest: {pushed} size: {size}")
    );
    assert_eq!(count_of(&lines, "Pushed"), 2, "{lines:?}");
    let noted = from.find(&name).unwrap().repo_digests;
    assert_eq!(noted, [format!("{host}/team/app@{pushed}")]);

    // A second push sends nothing, and one to a sibling repository mounts.
    let (told_push, progress) = told();
    from.push(&client, &reference(&name), &progress).unwrap();
    let lines = told_push.lines();
    assert_eq!(count_of(&lines, "Already exists"), 2, "{lines:?}");
    let other = format!("{host}/team/other:latest");
    from.tag(&name, &other).unwrap();
    let (told_push, progress) = told();
    from.push(&client, &reference(&other), &progress).unwrap();
    let lines = told_push.lines();
    assert_eq!(
        (count_of(&lines, "Pushing"), count_of(&lines, "Pushed")),
        (0, 2),
        "{lines:?}"
    );

    let (_into_folder, into) = store();
    let (told_pull, progress) = told();
    let pulled = into
        .pull(&client, &reference(&name), &amd64(), &progress)
        .unwrap();
    assert_eq!(pulled.id, loaded.id);
    assert_eq!(pulled.repo_tags, std::slice::from_ref(&name));
    assert_eq!(pulled.repo_digests, noted);
    assert_eq!(files(&into, &pulled), files(&from, &loaded));
    let lines = told_pull.lines();
    assert_eq!(lines[0], "1: Pulling from team/app");
    assert_eq!(lines[lines.len() - 2], format!("Digest: {pushed}"));
    assert_eq!(
        *lines.last().unwrap(),
        format!("Status: Downloaded newer image for {name}")
    );

    // By digest, under no name; and again by name, when nothing is new.
    let by_digest = reference(&format!("{host}/team/other@{pushed}"));
    into.pull(&client, &by_digest, &amd64(), &silent()).unwrap();
    assert_eq!(into.images().unwrap().len(), 1);
    let (told_pull, progress) = told();
    into.pull(&client, &reference(&name), &amd64(), &progress)
        .unwrap();
    let last = told_pull.lines().pop().unwrap();
    assert_eq!(last, format!("Status: Image is up to date for {name}"));
}

#[test]
fn the_policy_says_whether_the_registry_is_asked() {
    let made = image("amd64", 2);
    let registry = Server::start(move |asked| made.serve(&asked.path));
    let name = reference(&format!("{}/app:1", registry.host()));
    let (_folder, store) = store();
    let client = Client::new(impatient());
    let pull = |policy, platform: &str| {
        let platform = Some(platform.parse().unwrap());
        store.pull(&client, &name, &PullOptions { platform, policy }, &silent())
    };
    let error = pull(PullPolicy::Never, "linux/amd64").unwrap_err();
    assert!(matches!(error, PullError::Find(_)), "{error}");
    assert!(registry.asked().is_empty());
    let pulled = pull(PullPolicy::Missing, "linux/amd64").unwrap();
    assert_eq!(pulled.platform.to_string(), "linux/amd64");
    let after_first = registry.asked().len();
    pull(PullPolicy::Missing, "linux/amd64").unwrap();
    pull(PullPolicy::Never, "linux/amd64").unwrap();
    assert_eq!(registry.asked().len(), after_first);
    pull(PullPolicy::Always, "linux/amd64").unwrap();
    assert_eq!(
        registry.asked().len(),
        after_first + 1,
        "only the manifest is asked for"
    );
    let error = pull(PullPolicy::Never, "linux/arm64").unwrap_err();
    assert!(matches!(error, PullError::Platform { .. }), "{error}");
    let error = pull(PullPolicy::Missing, "linux/arm64").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image is for linux/amd64, not for linux/arm64"
    );
    assert_eq!(error.hint().unwrap(), "pull it with --platform linux/amd64");
}

#[test]
fn of_an_index_the_image_for_the_platform_comes() {
    let images = [image("amd64", 3), image("arm64", 4), image("arm", 5)];
    let entries: Vec<_> = images
        .iter()
        .zip([("amd64", ""), ("arm64", "v8"), ("arm", "v6")])
        .map(|(image, (architecture, variant))| {
            serde_json::json!({
                "mediaType": framework::OCI_MANIFEST,
                "size": image.manifest.len(), "digest": digest(&image.manifest),
                "platform": {"os": "linux", "architecture": architecture, "variant": variant}
            })
        })
        .collect();
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": index_type, "manifests": entries});
    let index = index.to_string().into_bytes();
    let index_digest = digest(&index);
    let registry = Server::start(move |asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        "/v2/app/manifests/1" => Reply::Whole(
            200,
            vec![("Content-Type", index_type.into())],
            index.clone(),
        ),
        path => {
            let name = last_part(path);
            let has = |image: &&Made| digest(&image.manifest) == name || image.blob(name).is_some();
            images
                .iter()
                .find(has)
                .map_or_else(|| reply(404, ""), |image| image.serve(path))
        }
    });
    let host = registry.host();
    let name = reference(&format!("{host}/app:1"));
    let client = Client::new(impatient());
    for (platform, variety) in [
        ("linux/amd64", "3"),
        ("linux/arm64", "4"),
        ("linux/arm/v6", "5"),
    ] {
        let (_folder, store) = store();
        let options = PullOptions {
            platform: Some(platform.parse().unwrap()),
            ..amd64()
        };
        let pulled = store.pull(&client, &name, &options, &silent()).unwrap();
        assert_eq!(pulled.labels()["variety"], variety);
        // As with Docker, it is the index that the registry knows the image by.
        assert_eq!(pulled.repo_digests, [format!("{host}/app@{index_digest}")]);
    }
    let (_folder, store) = store();
    let options = PullOptions {
        platform: Some("linux/s390x".parse().unwrap()),
        ..amd64()
    };
    let error = store.pull(&client, &name, &options, &silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image is not available for linux/s390x; it is for: \
         linux/amd64, linux/arm64, linux/arm/v6"
    );
}

#[test]
fn a_pull_that_broke_off_goes_on_with_what_has_come() {
    let made = image("amd64", 5);
    let big = digest(&made.layers[0]);
    let is_mended = Arc::new(AtomicUsize::new(0));
    let mend = Arc::clone(&is_mended);
    let registry = Server::start(move |asked| {
        if !asked.path.ends_with(&big) {
            return made.serve(&asked.path);
        }
        let layer = made.layers[0].clone();
        match asked.header("range") {
            None => Reply::Broken(200, vec![], layer, 2_000_000),
            Some(_) if is_mended.load(Ordering::SeqCst) == 0 => Reply::HangUp,
            Some(range) => {
                let from: usize = range
                    .trim_start_matches("bytes=")
                    .trim_end_matches('-')
                    .parse()
                    .unwrap();
                let header = format!("bytes {from}-{}/{}", layer.len() - 1, layer.len());
                Reply::Whole(206, vec![("Content-Range", header)], layer[from..].to_vec())
            }
        }
    });
    let name = reference(&format!("{}/app:1", registry.host()));
    let (_folder, store) = store();
    let mut config = impatient();
    config.patience.retries = 1;
    let client = Client::new(config);
    let error = store.pull(&client, &name, &amd64(), &silent()).unwrap_err();
    assert!(matches!(error, PullError::Registry(_)), "{error:?}");
    assert!(store.images().unwrap().is_empty());
    let in_first = registry.asked().len();
    mend.store(1, Ordering::SeqCst);
    let pulled = store.pull(&client, &name, &amd64(), &silent()).unwrap();
    assert_eq!(files(&store, &pulled).len(), 3);
    let asked = registry.asked();
    let ranges: Vec<_> = asked[in_first..]
        .iter()
        .filter_map(|a| a.header("range"))
        .collect();
    // What came in the first pull is not asked for again, give or take a buffer.
    let from: usize = ranges[0]
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap();
    assert!(from > 1_500_000, "{ranges:?}");
}

#[test]
fn a_forged_layer_is_refused_and_nothing_of_the_image_is_seen() {
    let made = image("amd64", 6);
    let victim = digest(&made.layers[1]);
    let registry = Server::start(move |asked| match asked.path.ends_with(&victim) {
        true => {
            let mut forged = made.layers[1].clone();
            let middle = forged.len() / 2;
            forged[middle] ^= 1;
            reply(200, forged)
        }
        false => made.serve(&asked.path),
    });
    let name = reference(&format!("{}/app:1", registry.host()));
    let (_folder, store) = store();
    let (told_pull, progress) = told();
    let error = store
        .pull(&Client::new(impatient()), &name, &amd64(), &progress)
        .unwrap_err();
    assert!(matches!(error, PullError::Ingest(_)), "{error:?}");
    assert!(store.images().unwrap().is_empty());
    assert!(
        !told_pull
            .lines()
            .iter()
            .any(|line| line.starts_with("Status"))
    );
}

#[test]
fn a_mirror_that_forges_a_layer_is_passed_over() {
    let made = Arc::new(image("amd64", 7));
    let (honest, forged) = (Arc::clone(&made), Arc::clone(&made));
    let registry = Server::start(move |asked| honest.serve(&asked.path));
    let mirror = Server::start(move |asked| match forged.blob(last_part(&asked.path)) {
        Some(blob) if blob.len() > 100_000 => reply(200, noise(blob.len(), 99)),
        _ => forged.serve(&asked.path),
    });
    let mut config = impatient();
    let settings = isle_registry::RegistrySettings {
        mirrors: vec![format!("http://{}", mirror.host())],
        ..Default::default()
    };
    config.registries.registry.insert(registry.host(), settings);
    let (_folder, store) = store();
    let name = reference(&format!("{}/app:1", registry.host()));
    let pulled = store
        .pull(&Client::new(config), &name, &amd64(), &silent())
        .unwrap();
    assert_eq!(files(&store, &pulled).len(), 3);
    assert!(mirror.asked().len() > 3);
}

#[test]
fn what_cannot_be_pulled_or_pushed_is_said_by_name() {
    let unknown =
        r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
    let registry = Server::start(move |asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        path if path.contains("private") => challenge("Basic realm=\"r\""),
        _ => reply(404, unknown),
    });
    let host = registry.host();
    let (_folder, store) = store();
    let (_config, credentials) = user_of("elsewhere.test");
    let client = Client::new(Config {
        credentials,
        ..impatient()
    });
    let pull = |name: &str| {
        let name = reference(&format!("{host}/{name}"));
        store
            .pull(&client, &name, &PullOptions::default(), &silent())
            .unwrap_err()
    };
    assert_eq!(
        pull("absent:2").to_string(),
        format!(
            "manifest of {host}/absent:2 not found in {host}: \
             name unknown: repository name not known to registry"
        )
    );
    assert!(
        pull("private")
            .hint()
            .unwrap()
            .contains(&format!("isle login {host}"))
    );
    let push = |name: &str| {
        store
            .push(&client, &reference(name), &silent())
            .unwrap_err()
    };
    let error = push("nothing");
    let expected = "an image does not exist locally with the tag: nothing:latest";
    assert_eq!(error.to_string(), expected);
    let pinned = push(&format!("nothing@{}", digest(b"x")));
    assert!(matches!(pinned, PushError::Digest { .. }), "{pinned}");
}

#[test]
fn phases_are_told_in_the_words_of_docker() {
    let made = image("amd64", 8);
    let registry = Server::start(move |asked| made.serve(&asked.path));
    let (_folder, store) = store();
    let (told_pull, progress) = told();
    let name = reference(&format!("{}/app:1", registry.host()));
    store
        .pull(&Client::new(impatient()), &name, &amd64(), &progress)
        .unwrap();
    let lines = told_pull.lines();
    for phase in [Phase::Waiting, Phase::DownloadComplete, Phase::PullComplete] {
        assert_eq!(
            count_of(&lines, phase.as_str()),
            2,
            "{phase:?} in {lines:?}"
        );
    }
}

/// For tests in which a pull has to be a process: the test program runs itself with these.
const CHILD_ROOT: &str = "ISLE_TEST_PULL_INTO";
const CHILD_NAME: &str = "ISLE_TEST_PULL_NAME";

#[test]
fn in_a_process_of_its_own() {
    let (Ok(root), Ok(name)) = (std::env::var(CHILD_ROOT), std::env::var(CHILD_NAME)) else {
        return;
    };
    let store = store_in(Path::new(&root));
    let client = Client::new(Config::bare());
    store
        .pull(&client, &reference(&name), &amd64(), &silent())
        .unwrap();
}

fn store_in(root: &Path) -> Store {
    let path = root.join("isle.db");
    let database = isle_database::Database::open(&path, &[isle_image::SCHEMA]).unwrap();
    Store::open(root, database).unwrap()
}

fn pull_elsewhere(root: &Path, name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_process_of_its_own"])
        .env(CHILD_ROOT, root)
        .env(CHILD_NAME, name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// An image of several large layers at a real registry.
fn large_image_at(registry: &RealRegistry) -> String {
    let (folder, store) = store();
    let name = format!("{}/large:1", registry.host);
    let mut made = image("amd64", 9);
    let mut config: serde_json::Value = serde_json::from_slice(&made.config).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    for seed in 0..4 {
        let (layer, diff_id) = gzip_tar(&[(&format!("more{seed}"), &noise(8_000_000, seed))]);
        config["rootfs"]["diff_ids"]
            .as_array_mut()
            .unwrap()
            .push(diff_id.into());
        manifest["layers"]
            .as_array_mut()
            .unwrap()
            .push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "size": layer.len(), "digest": digest(&layer)
            }));
        made.layers.push(layer);
    }
    made.config = config.to_string().into_bytes();
    manifest["config"]["size"] = made.config.len().into();
    manifest["config"]["digest"] = digest(&made.config).into();
    made.manifest = manifest.to_string().into_bytes();
    let layout = folder.path().join("layout");
    made.layout(&layout, &name);
    let platform: Platform = "linux/amd64".parse().unwrap();
    store
        .load(LoadInput::Directory(&layout), Some(&platform), &silent())
        .unwrap();
    store
        .push(&Client::new(Config::bare()), &reference(&name), &silent())
        .unwrap();
    name
}

#[test]
fn a_pull_killed_at_any_moment_leaves_no_half_image() {
    let Some(registry) = real_registry() else {
        return;
    };
    let name = large_image_at(&registry);
    let folder = tempfile::tempdir().unwrap();
    let mut complete = 0;
    for round in 0..24_u64 {
        let mut child = pull_elsewhere(folder.path(), &name);
        std::thread::sleep(Duration::from_millis(5 + round * 12));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = store_in(folder.path());
        for image in store.images().unwrap() {
            // What is seen is whole.
            assert_eq!(files(&store, &image).len(), 7);
            complete += 1;
            store.remove(&name, false).unwrap();
        }
    }
    let store = store_in(folder.path());
    let client = Client::new(Config::bare());
    let pulled = store
        .pull(&client, &reference(&name), &amd64(), &silent())
        .unwrap();
    assert_eq!(files(&store, &pulled).len(), 7);
    let mut left = Vec::new();
    for place in ["tmp", "tmp/partial"] {
        if let Ok(entries) = fs::read_dir(folder.path().join(place)) {
            left.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    left.retain(|path| !path.ends_with("partial"));
    assert!(
        left.is_empty(),
        "{left:?} left after {complete} complete pulls"
    );
}

#[test]
fn pulls_of_one_image_at_the_same_time_agree() {
    let Some(registry) = real_registry() else {
        return;
    };
    let name = large_image_at(&registry);
    let folder = tempfile::tempdir().unwrap();
    let mut children: Vec<_> = (0..4)
        .map(|_| pull_elsewhere(folder.path(), &name))
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let store = store_in(folder.path());
    let [image] = &*store.images().unwrap() else {
        panic!("one image")
    };
    assert_eq!(files(&store, image).len(), 7);
    let layers = fs::read_dir(folder.path().join("layers")).unwrap().count();
    assert_eq!(layers, 6, "each layer is unpacked once");
}
