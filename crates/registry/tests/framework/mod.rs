//! Servers that say whatever a test wants them to say, on loopback, in threads.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests only")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use isle_registry::{Client, Config, Credential, CredentialStore, Patience, Secret};
use oci_spec::image::{Descriptor, MediaType};
use sha2::Digest as _;

/// What a client sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.split('?').next() == Some(path)
    }
}

/// What a server answers.
pub enum Reply {
    /// Status, headers, body; the length is added.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The same, but the connection breaks after so many bytes of the body.
    Broken(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// Exactly these bytes, then the connection ends.
    Raw(Vec<u8>),
    /// The head, then a byte of the body now and then.
    Drip(usize, Duration),
    /// The head, then bytes for ever.
    Endless(&'static str),
    /// Nothing, for a long time.
    Silence,
    /// The connection ends without an answer.
    HangUp,
}

pub fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply::Whole(status, Vec::new(), body.into())
}

pub fn redirect(to: impl Into<String>) -> Reply {
    Reply::Whole(307, vec![("Location", to.into())], Vec::new())
}

pub fn challenge(text: impl Into<String>) -> Reply {
    Reply::Whole(
        401,
        vec![("WWW-Authenticate", text.into())],
        br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#.to_vec(),
    )
}

pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ends: Arc<AtomicBool>,
}

impl Server {
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// For servers that have to know their own address before they can answer.
    pub fn on(
        listener: TcpListener,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let (log, stop, answer) = (Arc::clone(&asked), Arc::clone(&ends), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (log, stop, answer) =
                    (Arc::clone(&log), Arc::clone(&stop), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &log, &stop, &*answer));
            }
        });
        Server {
            address,
            asked,
            ends,
        }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn count(&self, method: &str, path: &str) -> usize {
        self.asked()
            .iter()
            .filter(|asked| asked.is(method, path))
            .count()
    }

    /// Whether anybody has shown this server a credential of any kind.
    pub fn has_seen_credentials(&self) -> bool {
        self.asked().iter().any(|asked| {
            asked.header("authorization").is_some()
                || String::from_utf8_lossy(&asked.body).contains("refresh_token")
                || asked.path.contains("account=")
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    stop: &AtomicBool,
    answer: &(dyn Fn(&Asked) -> Reply + Send + Sync),
) {
    let mut out = stream.try_clone().unwrap();
    let mut input = BufReader::new(stream);
    while let Some(asked) = read_request(&mut input) {
        log.lock().unwrap().push(asked.clone());
        let is_head = asked.method == "HEAD";
        let head = |status: u16, headers: &[(&str, String)], length: Option<usize>| {
            let mut text = format!("HTTP/1.1 {status} X\r\n");
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            if let Some(length) = length
                && !headers
                    .iter()
                    .any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                text.push_str(&format!("Content-Length: {length}\r\n"));
            }
            text + "\r\n"
        };
        let done = match answer(&asked) {
            Reply::Whole(status, headers, body) => {
                let mut bytes = head(status, &headers, Some(body.len())).into_bytes();
                if !is_head {
                    bytes.extend(body);
                }
                out.write_all(&bytes).and_then(|()| out.flush())
            }
            Reply::Broken(status, headers, body, count) => {
                let mut bytes = head(status, &headers, Some(body.len())).into_bytes();
                bytes.extend(&body[..count]);
                let _ = out.write_all(&bytes);
                return;
            }
            Reply::Raw(bytes) => {
                let _ = out.write_all(&bytes);
                return;
            }
            Reply::Drip(length, pause) => {
                let _ = out.write_all(head(200, &[], Some(length)).as_bytes());
                for _ in 0..length {
                    thread::sleep(pause);
                    if stop.load(Ordering::SeqCst) || out.write_all(b"x").is_err() {
                        return;
                    }
                }
                Ok(())
            }
            Reply::Endless(media_type) => {
                let headers = [
                    ("Content-Type", media_type.to_owned()),
                    ("Transfer-Encoding", "chunked".to_owned()),
                ];
                let _ = out.write_all(head(200, &headers, None).as_bytes());
                let piece = [b' '; 0x10000];
                while !stop.load(Ordering::SeqCst) {
                    let sent = out
                        .write_all(b"10000\r\n")
                        .and_then(|()| out.write_all(&piece))
                        .and_then(|()| out.write_all(b"\r\n"));
                    if sent.is_err() {
                        return;
                    }
                }
                return;
            }
            Reply::Silence => {
                for _ in 0..600 {
                    thread::sleep(Duration::from_millis(50));
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
                return;
            }
            Reply::HangUp => return,
        };
        if done.is_err() {
            return;
        }
    }
}

fn read_request(input: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => break,
        }
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = Vec::new();
    // What comes of a body that breaks off is kept too.
    let _ = input.take(length).read_to_end(&mut body);
    Some(Asked {
        method,
        path,
        headers,
        body,
    })
}

/// A proxy that knows names which no DNS has.
pub struct Proxy {
    pub address: SocketAddr,
    pub targets: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn start(names: Vec<(&'static str, SocketAddr)>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&targets);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (names, log) = (names.clone(), Arc::clone(&log));
                thread::spawn(move || tunnel(stream, &names, &log));
            }
        });
        Proxy { address, targets }
    }
}

fn tunnel(mut stream: TcpStream, names: &[(&str, SocketAddr)], log: &Mutex<Vec<String>>) {
    let Some(asked) = read_request(&mut BufReader::new(stream.try_clone().unwrap())) else {
        return;
    };
    log.lock().unwrap().push(asked.path.clone());
    let target = names.iter().find(|(name, _)| *name == asked.path);
    let Some(server) = target.and_then(|(_, address)| TcpStream::connect(address).ok()) else {
        let _ = stream.write_all(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n");
        return;
    };
    let _ = stream.write_all(b"HTTP/1.1 200 ok\r\n\r\n");
    let (mut from, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut from, mut to) = (server, stream);
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// Limits that make a hostile server boring within a second.
pub fn impatient() -> Config {
    Config {
        patience: Patience {
            connect: Duration::from_secs(5),
            answer: Duration::from_millis(600),
            stall: Duration::from_millis(400),
            document: Duration::from_secs(5),
            slowest: 256,
            retries: 2,
            back_off: Duration::from_millis(5),
        },
        ..Config::bare()
    }
}

/// A folder with a `config.json` in which `user` has the password `secret` at `registry`.
pub fn user_of(registry: &str) -> (tempfile::TempDir, CredentialStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = CredentialStore::in_file(folder.path().join("config.json"));
    store.put(registry, &password("user", "secret")).unwrap();
    (folder, store)
}

pub fn password(username: &str, password: &str) -> Credential {
    Credential::Password {
        username: username.into(),
        password: Secret::new(password),
    }
}

pub fn client(config: Config) -> Client {
    Client::new(config)
}

pub fn digest(content: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

pub fn descriptor(content: &[u8]) -> Descriptor {
    let digest: oci_spec::image::Digest = digest(content).parse().unwrap();
    Descriptor::new(MediaType::ImageLayerGzip, content.len() as u64, digest)
}

/// `user:secret`.
pub const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A manifest that is in order.
pub fn manifest() -> Vec<u8> {
    let config = b"{}";
    serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": digest(config)},
        "layers": []
    })
    .to_string()
    .into_bytes()
}

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn document(bytes: Vec<u8>) -> Reply {
    Reply::Whole(200, vec![("Content-Type", OCI_MANIFEST.into())], bytes)
}
