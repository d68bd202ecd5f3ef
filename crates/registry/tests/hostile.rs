//! A registry that means harm, or is merely broken.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod framework;

use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use framework::*;
use isle_registry::{
    Access, Client, Config, Credential, LocationError, Proxies, Reference, RegistryError,
    RegistrySettings, Repository, Secret, TransportError, registry_error,
};

fn open(config: Config, host: &str) -> Repository {
    let reference = Reference::with_tag(host.into(), "team/app".into(), "1".into());
    Client::new(config)
        .repository(&reference, Access::Pull)
        .unwrap()
}

fn open_to_push(config: Config, host: &str) -> Repository {
    let reference = Reference::with_tag(host.into(), "team/app".into(), "1".into());
    Client::new(config)
        .repository(&reference, Access::Push)
        .unwrap()
}

fn download(
    repository: &Repository,
    content: &[u8],
    offset: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut got = Vec::new();
    repository
        .blob(&descriptor(content), offset)?
        .read_to_end(&mut got)
        .map_err(registry_error)?;
    Ok(got)
}

/// Wants the password of `user` for everything.
fn guarded(asked: &Asked, inside: impl Fn() -> Reply) -> Reply {
    match asked.header("authorization") {
        Some(BASIC) => inside(),
        _ => challenge("Basic realm=\"test\""),
    }
}

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn a_redirect_to_another_host_carries_no_credentials() {
    let storage = Server::start(|_| reply(200, content()));
    let target = storage.url("/signed?token=x");
    let registry = Server::start(move |asked| guarded(asked, || redirect(target.clone())));
    let (_folder, credentials) = user_of(&registry.host());
    let repository = open(
        Config {
            credentials,
            ..impatient()
        },
        &registry.host(),
    );
    assert!(download(&repository, &content(), 0).unwrap() == content());
    assert!(registry.has_seen_credentials());
    assert_eq!(storage.asked().len(), 1);
    assert!(!storage.has_seen_credentials());
}

#[test]
fn a_redirect_away_and_back_carries_no_credentials_either() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = format!("http://{}/collect", listener.local_addr().unwrap());
    let away = Server::start(move |_| redirect(home.clone()));
    let target = away.url("/");
    let registry = Server::on(listener, move |asked| match asked.path.as_str() {
        "/collect" => reply(200, content()),
        _ => guarded(asked, || redirect(target.clone())),
    });
    let (_folder, credentials) = user_of(&registry.host());
    let repository = open(
        Config {
            credentials,
            ..impatient()
        },
        &registry.host(),
    );
    download(&repository, &content(), 0).unwrap();
    let asked = registry.asked();
    let collected = asked.iter().find(|asked| asked.path == "/collect").unwrap();
    assert_eq!(collected.header("authorization"), None);
}

#[test]
fn a_host_that_we_were_sent_to_gets_no_answer_to_its_401() {
    for scheme in [
        "Basic realm=\"give\"",
        "Bearer realm=\"http://REALM/token\",service=\"x\"",
    ] {
        let realm = Server::start(|_| reply(200, "{\"token\":\"t\"}"));
        let text = scheme.replace("REALM", &realm.host());
        let storage = Server::start(move |_| challenge(text.clone()));
        let target = storage.url("/blob");
        let registry = Server::start(move |asked| guarded(asked, || redirect(target.clone())));
        let (_folder, credentials) = user_of(&registry.host());
        let repository = open(
            Config {
                credentials,
                ..impatient()
            },
            &registry.host(),
        );
        let error = download(&repository, &content(), 0).unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        assert!(!storage.has_seen_credentials());
        assert!(realm.asked().is_empty());
    }
}

/// Two names that only a proxy knows, both of them allowed to be plain.
fn two_hosts(registry: &Server, other: &Server) -> (Proxy, Config) {
    let proxy = Proxy::start(vec![
        ("registry.test:80", registry.address),
        ("evil.example:80", other.address),
        ("127.0.0.1:80", other.address),
    ]);
    let mut config = impatient();
    let address = format!("http://{}", proxy.address);
    config.proxies = Proxies::from_variables(|name| {
        matches!(name, "HTTP_PROXY" | "HTTPS_PROXY").then(|| address.clone())
    });
    for name in ["registry.test", "evil.example"] {
        let settings = RegistrySettings {
            insecure: true,
            ..RegistrySettings::default()
        };
        config.registries.registry.insert(name.into(), settings);
    }
    (proxy, config)
}

#[test]
fn a_token_realm_of_somebody_else_never_sees_the_password() {
    let evil = Server::start(|_| reply(200, "{\"token\":\"t\"}"));
    let registry =
        Server::start(|_| challenge("Bearer realm=\"http://evil.example/token\",service=\"s\""));
    let (_proxy, mut config) = two_hosts(&registry, &evil);
    let (_folder, credentials) = user_of("registry.test");
    config.credentials = credentials;
    let error = open(config.clone(), "registry.test")
        .document()
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::ForeignRealm { .. }),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("token-hosts = [\"evil.example\"]")
    );
    assert!(evil.asked().is_empty());
    // An identity token is as good as a password.
    let identity = Credential::IdentityToken {
        username: "u".into(),
        token: Secret::new("r"),
    };
    config.credentials.put("registry.test", &identity).unwrap();
    let error = open(config.clone(), "registry.test")
        .document()
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::ForeignRealm { .. }),
        "{error}"
    );
    assert!(evil.asked().is_empty());
    // Nor does a login send it there.
    let error = Client::new(config.clone())
        .login("registry.test", &password("user", "secret"))
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::ForeignRealm { .. }),
        "{error}"
    );
    assert!(evil.asked().is_empty());
    // Whom the user trusts by name is another matter.
    config
        .credentials
        .put("registry.test", &password("user", "secret"))
        .unwrap();
    config
        .registries
        .registry
        .get_mut("registry.test")
        .unwrap()
        .token_hosts = vec!["evil.example".into()];
    let _ = open(config, "registry.test").document();
    assert!(evil.has_seen_credentials());
}

#[test]
fn a_stranger_asks_a_foreign_realm_without_any_credentials() {
    let other = Server::start(|_| reply(200, "{\"token\":\"t\"}"));
    let registry = Server::start(|asked| match asked.header("authorization") {
        Some("Bearer t") => document(manifest()),
        _ => challenge("Bearer realm=\"http://evil.example/token\",service=\"a b&c\""),
    });
    let (_proxy, config) = two_hosts(&registry, &other);
    assert_eq!(
        open(config, "registry.test").document().unwrap().bytes,
        manifest()
    );
    assert!(!other.has_seen_credentials());
    assert_eq!(
        other.asked()[0].path,
        "/token?service=a%20b%26c&scope=repository%3Ateam%2Fapp%3Apull"
    );
}

#[test]
fn a_remote_registry_does_not_lead_to_this_machine() {
    let inside = Server::start(|_| reply(200, content()));
    let registry = Server::start(|_| redirect("http://127.0.0.1/secret"));
    let (proxy, config) = two_hosts(&registry, &inside);
    let error = open(config, "registry.test").document().unwrap_err();
    assert!(
        matches!(
            &error,
            RegistryError::Location {
                source: LocationError::Inward { .. },
                ..
            }
        ),
        "{error:?}"
    );
    assert!(inside.asked().is_empty());
    assert!(
        !proxy
            .targets
            .lock()
            .unwrap()
            .contains(&"127.0.0.1:80".to_owned())
    );
}

#[test]
fn malformed_realms_are_refused() {
    for realm in [
        "ftp://127.0.0.1/",
        "http://user:pw@127.0.0.1/",
        "/token",
        "",
        "http://",
    ] {
        let text = format!("Bearer realm=\"{realm}\"");
        let registry = Server::start(move |_| challenge(text.clone()));
        let error = open(impatient(), &registry.host()).document().unwrap_err();
        assert!(
            matches!(
                error,
                RegistryError::Location {
                    what: "token realm",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_token_realm_is_not_left_by_redirect() {
    let other = Server::start(|_| reply(200, "{\"token\":\"t\"}"));
    let target = other.url("/");
    let realm = Server::start(move |_| redirect(target.clone()));
    let text = format!("Bearer realm=\"{}\"", realm.url("/token"));
    let registry = Server::start(move |_| challenge(text.clone()));
    let (_folder, credentials) = user_of(&registry.host());
    open(
        Config {
            credentials,
            ..impatient()
        },
        &registry.host(),
    )
    .document()
    .unwrap_err();
    assert_eq!(realm.asked()[0].header("authorization"), Some(BASIC));
    assert!(other.asked().is_empty());
}

#[test]
fn a_refused_token_is_renewed_once_and_no_more() {
    let realm = Server::start(|_| reply(200, "{\"access_token\":\"t\",\"expires_in\":300}"));
    let text = format!("Bearer realm=\"{}\"", realm.url("/token"));
    let registry = Server::start(move |asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => challenge(text.clone()),
    });
    let repository = open(impatient(), &registry.host());
    for round in 1..=2 {
        let error = repository.document().unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        assert_eq!(realm.asked().len(), round);
        assert_eq!(registry.count("GET", "/v2/team/app/manifests/1"), round * 2);
    }
}

#[test]
fn a_token_is_used_again_while_it_is_good() {
    let realm = Server::start(|_| reply(200, "{\"token\":\"t\",\"expires_in\":300}"));
    let text = format!("Bearer realm=\"{}\"", realm.url("/token"));
    let registry = Server::start(move |asked| match asked.header("authorization") {
        Some("Bearer t") => document(manifest()),
        _ => challenge(text.clone()),
    });
    let repository = open(impatient(), &registry.host());
    for _ in 0..3 {
        repository.document().unwrap();
    }
    assert_eq!(realm.asked().len(), 1);
}

#[test]
fn tokens_that_are_no_tokens_are_refused() {
    let long = format!("{{\"token\":\"{}\"}}", "x".repeat(100_000));
    let answers = [
        "{\"token\":\"a\\r\\nX-Evil: 1\"}",
        "{}",
        "[]",
        "{\"token\":\"\"}",
        "{",
        &long,
    ];
    for answer in answers {
        let answer = answer.to_owned();
        let realm = Server::start(move |_| reply(200, answer.clone()));
        let text = format!("Bearer realm=\"{}\"", realm.url("/token"));
        let registry = Server::start(move |_| challenge(text.clone()));
        let error = open(impatient(), &registry.host()).document().unwrap_err();
        assert!(matches!(error, RegistryError::Malformed { .. }), "{error}");
    }
    let realm = Server::start(|_| Reply::Endless("application/json"));
    let text = format!("Bearer realm=\"{}\"", realm.url("/token"));
    let registry = Server::start(move |_| challenge(text.clone()));
    let error = open(impatient(), &registry.host()).document().unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[test]
fn an_identity_token_is_exchanged_and_never_shown_to_the_registry() {
    let realm = Server::start(|asked| match asked.method.as_str() {
        "POST" => reply(200, "{\"access_token\":\"fresh\"}"),
        _ => reply(405, ""),
    });
    let text = format!("Bearer realm=\"{}\",service=\"s\"", realm.url("/token"));
    let registry = Server::start(move |asked| match asked.header("authorization") {
        Some("Bearer fresh") => document(manifest()),
        _ => challenge(text.clone()),
    });
    let (_folder, credentials) = user_of(&registry.host());
    let identity = Credential::IdentityToken {
        username: "u".into(),
        token: Secret::new("re fresh"),
    };
    credentials.put(&registry.host(), &identity).unwrap();
    open(
        Config {
            credentials,
            ..impatient()
        },
        &registry.host(),
    )
    .document()
    .unwrap();
    let asked = &realm.asked()[0];
    assert_eq!(
        String::from_utf8_lossy(&asked.body),
        "grant_type=refresh_token&client_id=isle&refresh_token=re%20fresh&service=s\
         &scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert!(
        registry
            .asked()
            .iter()
            .all(|asked| asked.header("authorization") != Some("Bearer re fresh"))
    );
}

#[test]
fn a_login_is_tried_before_it_is_kept() {
    let registry = Server::start(|asked| guarded(asked, || reply(200, "{}")));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let credentials = isle_registry::CredentialStore::in_file(&path);
    let client = Client::new(Config {
        credentials,
        ..impatient()
    });
    let error = client
        .login(&registry.host(), &password("user", "wrong"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "login to {} refused: unauthorized: authentication required",
            registry.host()
        )
    );
    assert!(!path.exists());
    let login = client
        .login(&registry.host(), &password("user", "secret"))
        .unwrap();
    assert_eq!(login.keeper, isle_registry::Keeper::File(path.clone()));
    assert!(!login.has_identity_token);
    assert!(client.logout(&registry.host()).unwrap());
    assert!(!client.logout(&registry.host()).unwrap());
}

#[test]
fn a_login_keeps_the_identity_token_in_place_of_the_password() {
    let realm = Server::start(|asked| match asked.header("authorization") {
        Some(BASIC) => reply(200, "{\"token\":\"t\",\"refresh_token\":\"lasting\"}"),
        _ => reply(401, "{\"details\":\"incorrect username or password\"}"),
    });
    let text = format!("Bearer realm=\"{}\",service=\"s\"", realm.url("/token"));
    let registry = Server::start(move |asked| match asked.header("authorization") {
        Some("Bearer t") => reply(200, ""),
        _ => challenge(text.clone()),
    });
    let folder = tempfile::tempdir().unwrap();
    let credentials = isle_registry::CredentialStore::in_file(folder.path().join("config.json"));
    let client = Client::new(Config {
        credentials: credentials.clone(),
        ..impatient()
    });
    let error = client
        .login(&registry.host(), &password("user", "wrong"))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("incorrect username or password"),
        "{error}"
    );
    assert!(
        client
            .login(&registry.host(), &password("user", "secret"))
            .unwrap()
            .has_identity_token
    );
    assert!(realm.asked()[1].path.contains("offline_token=true"));
    let kept = credentials.get(&registry.host()).unwrap().unwrap();
    let expected = Credential::IdentityToken {
        username: "user".into(),
        token: Secret::new("lasting"),
    };
    assert_eq!(kept, expected);
}

#[test]
fn a_layer_kept_elsewhere_is_asked_for_as_a_stranger() {
    let elsewhere = Server::start(|_| reply(200, content()));
    let registry = Server::start(|asked| guarded(asked, || reply(404, "")));
    let (_folder, credentials) = user_of(&registry.host());
    let repository = open(
        Config {
            credentials,
            ..impatient()
        },
        &registry.host(),
    );
    let mut foreign = descriptor(&content());
    foreign.set_urls(Some(vec!["ftp://x/".into(), elsewhere.url("/layer")]));
    let mut got = Vec::new();
    repository
        .blob(&foreign, 0)
        .unwrap()
        .read_to_end(&mut got)
        .unwrap();
    assert!(got == content());
    assert!(!elsewhere.has_seen_credentials());
    // And its 401 is no question that we answer (CVE-2020-15157).
    let thief = Server::start(|_| challenge("Basic realm=\"mine\""));
    foreign.set_urls(Some(vec![thief.url("/layer")]));
    repository.blob(&foreign, 0).unwrap_err();
    assert_eq!(thief.asked().len(), 1);
    assert!(!thief.has_seen_credentials());
}

#[test]
fn redirects_that_never_end_are_left() {
    let registry = Server::start(|asked| redirect(format!("{}x", asked.path)));
    let error = open(impatient(), &registry.host()).document();
    assert!(
        matches!(error, Err(RegistryError::TooManyRedirects { .. })),
        "{error:?}"
    );
    let manifests = registry
        .asked()
        .iter()
        .filter(|a| a.path.contains("manifests"))
        .count();
    assert_eq!(manifests, 6);
}

#[test]
fn a_manifest_that_is_not_of_its_digest_is_refused() {
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/team/app/manifests/1" => Reply::Whole(
            200,
            vec![("Docker-Content-Digest", digest(b"something else"))],
            manifest(),
        ),
        _ => document(manifest()),
    });
    let repository = open(impatient(), &registry.host());
    let error = repository.document().unwrap_err();
    assert!(
        matches!(error, RegistryError::WrongDigest { .. }),
        "{error}"
    );
    let wrong = digest(b"other").parse().unwrap();
    let error = repository.document_by_digest(&wrong).unwrap_err();
    assert!(
        matches!(error, RegistryError::WrongDigest { .. }),
        "{error}"
    );
    let right = digest(&manifest()).parse().unwrap();
    assert_eq!(
        repository.document_by_digest(&right).unwrap().bytes,
        manifest()
    );
}

#[test]
fn a_manifest_called_by_another_name_is_refused() {
    for (media_type, is_good) in [
        (
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            true,
        ),
        ("application/json", true),
        ("application/vnd.oci.image.index.v1+json", false),
        (
            "application/vnd.docker.distribution.manifest.v2+json",
            false,
        ),
        ("text/html", false),
    ] {
        let registry = Server::start(move |_| {
            Reply::Whole(200, vec![("Content-Type", media_type.into())], manifest())
        });
        let answer = open(impatient(), &registry.host()).document();
        assert_eq!(answer.is_ok(), is_good, "{media_type}: {answer:?}");
    }
}

#[test]
fn a_giant_manifest_is_not_read_to_its_end() {
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => Reply::Endless(OCI_MANIFEST),
    });
    let error = open(impatient(), &registry.host()).document().unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => Reply::Raw(b"HTTP/1.1 200 X\r\nContent-Length: 99999999999\r\n\r\n".to_vec()),
    });
    let error = open(impatient(), &registry.host()).document().unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[test]
fn giant_and_malformed_heads_are_errors() {
    let giant = format!("HTTP/1.1 200 X\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes();
    let many = format!("HTTP/1.1 200 X\r\n{}\r\n", "A: b\r\n".repeat(50_000)).into_bytes();
    for head in [
        giant,
        many,
        b"HTTP/9.9 abc\r\n\r\n".to_vec(),
        b"\0\0\0\0".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
    ] {
        let registry = Server::start(move |asked| match asked.path.as_str() {
            "/v2/" => reply(200, ""),
            _ => Reply::Raw(head.clone()),
        });
        let error = open(impatient(), &registry.host()).document().unwrap_err();
        assert!(
            matches!(error, RegistryError::Transport { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn a_blob_longer_or_shorter_than_its_descriptor_is_refused() {
    let wrong_length = |error: &RegistryError| matches!(error, RegistryError::WrongLength { .. });
    let registry = Server::start(|asked| {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        if name == digest(b"announced longer") {
            reply(200, *b"announced longer than it is")
        } else if name == digest(b"secretly longer") {
            Reply::Raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n14\r\nsecretly longer!!!!!\r\n0\r\n\r\n".to_vec())
        } else if name == digest(b"announced shorter") {
            reply(200, *b"short")
        } else {
            reply(200, "")
        }
    });
    let repository = open(impatient(), &registry.host());
    for blob in [
        &b"announced longer"[..],
        b"secretly longer",
        b"announced shorter",
    ] {
        let error = download(&repository, blob, 0).unwrap_err();
        assert!(wrong_length(&error), "{error}");
    }
}

#[test]
fn a_small_blob_is_checked_against_its_digest() {
    let registry = Server::start(|_| reply(200, "fake"));
    let repository = open(impatient(), &registry.host());
    let error = repository.small_blob(&descriptor(b"real")).unwrap_err();
    assert!(
        matches!(error, RegistryError::WrongDigest { .. }),
        "{error}"
    );
    assert_eq!(
        repository.small_blob(&descriptor(b"fake")).unwrap(),
        b"fake"
    );
    let huge: oci_spec::image::Digest = digest(b"x").parse().unwrap();
    let huge =
        oci_spec::image::Descriptor::new(oci_spec::image::MediaType::ImageConfig, 1 << 40, huge);
    let error = repository.small_blob(&huge).unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[test]
fn a_digest_that_is_a_path_is_never_asked_for() {
    let registry = Server::start(|_| reply(200, ""));
    let repository = open(impatient(), &registry.host());
    for text in ["multihash:../../v2/x", "abc:deadbeef"] {
        let Ok(digest) = text.parse::<oci_spec::image::Digest>() else {
            continue;
        };
        let entry =
            oci_spec::image::Descriptor::new(oci_spec::image::MediaType::ImageLayer, 4, digest);
        let error = repository.blob(&entry, 0).unwrap_err();
        assert!(
            matches!(error, RegistryError::UnsupportedDigest { .. }),
            "{error}"
        );
    }
    assert!(registry.asked().iter().all(|asked| asked.path == "/v2/"));
}

fn range_of(asked: &Asked) -> usize {
    let range = asked.header("range").unwrap_or("bytes=0-");
    range
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap()
}

fn partial(from: usize) -> (u16, Vec<(&'static str, String)>, Vec<u8>) {
    let whole = content();
    let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
    let status = if from == 0 { 200 } else { 206 };
    (
        status,
        vec![("Content-Range", range)],
        whole[from..].to_vec(),
    )
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => {
            let (status, headers, body) = partial(range_of(asked));
            let count = body.len().min(300_000);
            Reply::Broken(status, headers, body, count)
        }
    });
    let repository = open(impatient(), &registry.host());
    assert!(download(&repository, &content(), 0).unwrap() == content());
    let ranges: Vec<_> = registry
        .asked()
        .iter()
        .filter_map(|a| a.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, ["bytes=300000-", "bytes=600000-"]);
    // The caller's own offset, from an earlier attempt.
    assert!(download(&repository, &content(), 700_000).unwrap() == content()[700_000..]);
    assert!(
        download(&repository, &content(), 800_000)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_server_that_knows_no_ranges_is_read_from_the_start() {
    let tries = AtomicUsize::new(0);
    let registry = Server::start(move |asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ if tries.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::Broken(200, vec![], content(), 500_000)
        }
        _ => reply(200, content()),
    });
    let repository = open(impatient(), &registry.host());
    assert!(download(&repository, &content(), 0).unwrap() == content());
    assert!(download(&repository, &content(), 123).unwrap() == content()[123..]);
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => {
            let (_, headers, body) = partial(5000);
            Reply::Whole(206, headers, body)
        }
    });
    let repository = open(impatient(), &registry.host());
    let error = download(&repository, &content(), 100).unwrap_err();
    assert!(matches!(error, RegistryError::Malformed { .. }), "{error}");
    // From earlier than asked is fine: the surplus is skipped.
    assert!(download(&repository, &content(), 6000).unwrap() == content()[6000..]);
}

#[test]
fn a_download_that_breaks_again_and_again_ends_with_an_error() {
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => {
            let (status, headers, body) = partial(range_of(asked));
            Reply::Broken(status, headers, body, 10)
        }
    });
    let error = download(&open(impatient(), &registry.host()), &content(), 0).unwrap_err();
    let is_broken = |error: &RegistryError| {
        matches!(
            error,
            RegistryError::Transport {
                source: TransportError::Broken(_),
                ..
            }
        )
    };
    assert!(is_broken(&error), "{error:?}");
}

#[test]
fn silence_and_dripping_end_with_an_error() {
    let started = Instant::now();
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        "/v2/team/app/manifests/1" => Reply::Silence,
        _ => Reply::Drip(100_000, Duration::from_millis(30)),
    });
    let repository = open(impatient(), &registry.host());
    let error = repository.document().unwrap_err();
    let RegistryError::Transport {
        source: TransportError::TimedOut { .. },
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    let blob = vec![b'x'; 100_000];
    let error = download(&repository, &blob, 0).unwrap_err();
    let RegistryError::Transport {
        source: TransportError::Stalled { .. },
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_stalled_body_ends_with_an_error() {
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => Reply::Drip(content().len(), Duration::from_secs(2)),
    });
    let error = download(&open(impatient(), &registry.host()), &content(), 0).unwrap_err();
    let RegistryError::Transport {
        source: TransportError::TimedOut { .. },
        ..
    } = error
    else {
        panic!("{error:?}")
    };
}

#[test]
fn a_busy_server_is_asked_again() {
    for status in [429, 500, 502, 503] {
        let tries = AtomicUsize::new(0);
        let registry = Server::start(move |asked| match asked.path.as_str() {
            "/v2/" => reply(200, ""),
            _ if tries.fetch_add(1, Ordering::SeqCst) < 2 => {
                Reply::Whole(status, vec![("Retry-After", "0".into())], vec![])
            }
            _ => document(manifest()),
        });
        open(impatient(), &registry.host()).document().unwrap();
        assert_eq!(registry.count("GET", "/v2/team/app/manifests/1"), 3);
    }
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        _ => reply(
            503,
            "{\"errors\":[{\"code\":\"UNAVAILABLE\",\"message\":\"later\\u001b[31m\"}]}",
        ),
    });
    let error = open(impatient(), &registry.host()).document().unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("status 503: unavailable: later [31m"),
        "{error}"
    );
}

#[test]
fn what_is_not_there_is_said_in_docker_words() {
    let registry = Server::start(|_| {
        reply(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        )
    });
    let error = open(impatient(), &registry.host()).document().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "manifest of {0}/team/app:1 not found in {0}: manifest unknown: manifest unknown",
            registry.host()
        )
    );
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let reference = Reference::with_tag(closed.to_string(), "a".into(), "1".into());
    let error = Client::new(impatient())
        .repository(&reference, Access::Pull)
        .unwrap_err();
    let RegistryError::Transport {
        source: TransportError::Refused,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
}

#[test]
fn a_mirror_that_lacks_or_forges_an_image_is_passed_over() {
    let registry = Server::start(|asked| match asked.path.as_str() {
        "/v2/" => reply(200, ""),
        path if path.contains("blobs") => reply(200, content()),
        _ => document(manifest()),
    });
    let mirrors: Vec<(&str, Server)> = vec![
        (
            "lacks",
            Server::start(|asked| match asked.path.as_str() {
                "/v2/" => reply(200, ""),
                _ => reply(404, ""),
            }),
        ),
        (
            "forges",
            Server::start(|asked| match asked.path.as_str() {
                "/v2/" => reply(200, ""),
                path if path.contains("blobs") => reply(200, "forged"),
                _ => document(b"{}".to_vec()),
            }),
        ),
        ("hangs up", Server::start(|_| Reply::HangUp)),
        (
            "denies",
            Server::start(|asked| match asked.path.as_str() {
                "/v2/" => reply(200, ""),
                _ => challenge("Basic realm=\"mirror\""),
            }),
        ),
    ];
    for (what, mirror) in mirrors {
        let mut config = impatient();
        let (_folder, credentials) = user_of(&registry.host());
        config.credentials = credentials;
        let settings = RegistrySettings {
            mirrors: vec![format!("http://{}/cache", mirror.host())],
            ..RegistrySettings::default()
        };
        config.registries.registry.insert(registry.host(), settings);
        let repository = open(config, &registry.host());
        assert_eq!(repository.document().unwrap().bytes, manifest(), "{what}");
        assert!(
            download(&repository, &content(), 0).unwrap() == content(),
            "{what}"
        );
        assert!(
            mirror.count("GET", "/v2/cache/team/app/manifests/1") > 0,
            "{what}"
        );
        assert!(!mirror.has_seen_credentials(), "{what}");
    }
}

#[test]
fn a_tag_list_is_followed_at_home_only() {
    let other = Server::start(|_| reply(200, "{\"tags\":[\"evil\"]}"));
    let away = other.url("/v2/x/tags/list");
    let registry = Server::start(move |asked| match asked.path.as_str() {
        "/v2/team/app/tags/list" => Reply::Whole(
            200,
            vec![(
                "Link",
                "</v2/team/app/tags/list?last=b>; rel=\"next\"".into(),
            )],
            br#"{"tags":["b","a","../x",""]}"#.to_vec(),
        ),
        "/v2/team/app/tags/list?last=b" => Reply::Whole(
            200,
            vec![("Link", format!("<{away}>; rel=next"))],
            br#"{"tags":["c"]}"#.to_vec(),
        ),
        _ => reply(200, ""),
    });
    assert_eq!(
        open(impatient(), &registry.host()).tags().unwrap(),
        ["a", "b", "c"]
    );
    assert!(other.asked().is_empty());
}

#[test]
fn an_upload_sent_elsewhere_carries_no_credentials() {
    let storage = Server::start(|_| reply(201, ""));
    let target = storage.url("/bucket?sig=1");
    let registry = Server::start(move |asked| {
        guarded(asked, || match asked.method.as_str() {
            "POST" => Reply::Whole(202, vec![("Location", target.clone())], vec![]),
            "HEAD" => reply(404, ""),
            _ => reply(200, ""),
        })
    });
    let (_folder, credentials) = user_of(&registry.host());
    let repository = open_to_push(
        Config {
            credentials,
            ..impatient()
        },
        &registry.host(),
    );
    repository
        .push_blob(&descriptor(b"content"), &b"content"[..], None)
        .unwrap();
    assert!(!storage.has_seen_credentials());
    let asked = &storage.asked()[0];
    assert_eq!(asked.body, b"content");
    assert_eq!(
        asked.path,
        format!(
            "/bucket?sig=1&digest={}",
            digest(b"content").replace(':', "%3A")
        )
    );
}

#[test]
fn a_broken_upload_goes_on_with_what_the_registry_has_not() {
    let tries = AtomicUsize::new(0);
    let registry = Server::start(
        move |asked| match (asked.method.as_str(), asked.path.as_str()) {
            ("HEAD", _) => reply(404, ""),
            ("POST", _) => Reply::Whole(202, vec![("Location", "/up/1?state=a".into())], vec![]),
            ("PUT", _) if tries.fetch_add(1, Ordering::SeqCst) == 0 => Reply::HangUp,
            ("GET", "/up/1?state=a") => Reply::Whole(
                204,
                vec![
                    ("Location", "/up/1?state=b".into()),
                    ("Range", "0-2".into()),
                ],
                vec![],
            ),
            ("PATCH", "/up/1?state=b") => Reply::Whole(
                202,
                vec![
                    ("Location", "/up/1?state=c".into()),
                    ("Range", "0-6".into()),
                ],
                vec![],
            ),
            ("PUT", _) => reply(201, ""),
            _ => reply(200, ""),
        },
    );
    let repository = open_to_push(impatient(), &registry.host());
    repository
        .push_blob(&descriptor(b"content"), &b"content"[..], None)
        .unwrap();
    let asked = registry.asked();
    let patch = asked.iter().find(|asked| asked.method == "PATCH").unwrap();
    assert_eq!(
        (patch.body.as_slice(), patch.header("content-range")),
        (&b"tent"[..], Some("3-6"))
    );
    let put = asked.last().unwrap();
    assert!(put.path.starts_with("/up/1?state=c&digest=sha256") && put.body.is_empty());
}

#[test]
fn a_registry_that_lost_the_upload_gets_all_of_it_again() {
    let tries = AtomicUsize::new(0);
    let registry = Server::start(move |asked| match asked.method.as_str() {
        "HEAD" => reply(404, ""),
        "POST" => Reply::Whole(202, vec![("Location", "/up/1".into())], vec![]),
        "PUT" if tries.fetch_add(1, Ordering::SeqCst) == 0 => reply(503, ""),
        "PUT" => reply(201, ""),
        "GET" if asked.path == "/up/1" => reply(404, ""),
        _ => reply(200, ""),
    });
    let repository = open_to_push(impatient(), &registry.host());
    repository
        .push_blob(&descriptor(b"content"), &b"content"[..], None)
        .unwrap();
    assert_eq!(registry.asked().last().unwrap().body, b"content");
    assert_eq!(registry.count("POST", "/v2/team/app/blobs/uploads/"), 2);
}

#[test]
fn a_registry_behind_a_small_door_gets_small_pieces() {
    let registry = Server::start(|asked| match asked.method.as_str() {
        "HEAD" => reply(404, ""),
        "POST" | "PATCH" => Reply::Whole(202, vec![("Location", "/up/1".into())], vec![]),
        "PUT" => reply(201, ""),
        _ => reply(200, ""),
    });
    let mut config = impatient();
    let settings = RegistrySettings {
        upload_chunk: Some(isle_types::ByteSize(3)),
        ..RegistrySettings::default()
    };
    config.registries.registry.insert(registry.host(), settings);
    let repository = open_to_push(config, &registry.host());
    repository
        .push_blob(&descriptor(b"content"), &b"content"[..], None)
        .unwrap();
    let asked = registry.asked();
    let pieces: Vec<_> = asked
        .iter()
        .filter(|asked| asked.method == "PATCH")
        .map(|asked| {
            (
                asked.header("content-range").unwrap(),
                asked.body.as_slice(),
            )
        })
        .collect();
    assert_eq!(
        pieces,
        [("0-2", &b"con"[..]), ("3-5", b"ten"), ("6-6", b"t")]
    );
}

#[test]
fn a_blob_that_is_there_or_can_be_mounted_is_not_sent() {
    let registry = Server::start(|asked| match asked.method.as_str() {
        "HEAD" if asked.path.contains(&digest(b"there")) => reply(200, ""),
        "HEAD" => reply(404, ""),
        "POST" if asked.path.contains("mount=") => reply(201, ""),
        _ => reply(500, ""),
    });
    let repository = open_to_push(impatient(), &registry.host());
    let push = |content: &[u8]| {
        repository
            .push_blob(&descriptor(content), content, Some("other/repo"))
            .unwrap()
    };
    assert_eq!(push(b"there"), isle_registry::Uploaded::Existed);
    assert_eq!(push(b"elsewhere"), isle_registry::Uploaded::Mounted);
}

#[test]
fn an_upload_whose_content_ends_early_fails_by_name() {
    let registry = Server::start(|asked| match asked.method.as_str() {
        "HEAD" => reply(404, ""),
        "POST" => Reply::Whole(202, vec![("Location", "/up/1".into())], vec![]),
        _ => reply(201, ""),
    });
    let repository = open_to_push(impatient(), &registry.host());
    let error = repository
        .push_blob(&descriptor(b"content"), &b"con"[..], None)
        .unwrap_err();
    assert!(matches!(error, RegistryError::Source { .. }), "{error:?}");
}

#[test]
fn a_pushed_manifest_that_the_registry_changed_is_an_error() {
    let registry = Server::start(|asked| match asked.method.as_str() {
        "PUT" => Reply::Whole(
            201,
            vec![("Docker-Content-Digest", digest(b"other"))],
            vec![],
        ),
        _ => reply(200, ""),
    });
    let repository = open_to_push(impatient(), &registry.host());
    let error = repository
        .push_document("1", OCI_MANIFEST, &manifest())
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::WrongDigest { .. }),
        "{error}"
    );
}
