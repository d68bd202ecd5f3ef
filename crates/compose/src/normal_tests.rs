use std::path::PathBuf;

use super::*;
use crate::{Options, words};

/// A project of these files; the first is the one that is read.
pub(crate) fn project(files: &[(&str, &str)]) -> Result<Project, LoadError> {
    with(files, |_| {})
}

pub(crate) fn with(
    files: &[(&str, &str)],
    change: impl FnOnce(&mut Request),
) -> Result<Project, LoadError> {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("demo");
    for (name, text) in files {
        let path = place.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    let mut request = Request {
        files: vec![PathBuf::from(files[0].0)],
        working_directory: place,
        ..Request::default()
    };
    change(&mut request);
    Project::load(request)
}

/// What is wrong with a file, without the place of the test.
fn complaint(text: &str) -> String {
    let error = project(&[("c.yaml", text)]).expect_err(text);
    let text = error.to_string();
    let hint = error.hint().unwrap_or_default();
    let short = text.split("/demo/").last().unwrap_or_default();
    format!("{short} | {hint}")
}

fn services(text: &str) -> serde_json::Value {
    let project = project(&[("c.yaml", text)]).unwrap_or_else(|error| panic!("{error}"));
    project.document["services"].clone()
}

#[test]
fn complaints_say_where_and_what_to_do() {
    for (text, expected) in [
        (
            "services:\n  web:\n    imge: nginx\n",
            "c.yaml:3:5: services.web has no key \"imge\" | did you mean \"image\"?",
        ),
        (
            "services:\n  web:\n    build: {contxt: .}\n",
            "c.yaml:3:13: services.web.build has no key \"contxt\" | did you mean \"context\"?",
        ),
        (
            "servces: {}\n",
            "c.yaml:1:1: the project has no key \"servces\" | did you mean \"services\"?",
        ),
        (
            "services:\n  web:\n    image: a\n    ports: [80:http]\n",
            "c.yaml:4:13: services.web.ports: \"80:http\" is no port | write \"8080:80\", \"127.0.0.1:8080:80/udp\" or \"80\"",
        ),
        (
            "services:\n  web:\n    image: 1\n",
            "c.yaml:3:12: services.web.image: a number where a text is expected | put quotes around it",
        ),
        (
            "services:\n  web: {}\n",
            "c.yaml:2:3: services.web: it has neither an image nor a build | write image: NAME, or build: FOLDER",
        ),
        (
            "services:\n  web:\n    image: a\n    depends_on: [bd]\n  db: {image: a}\n",
            "c.yaml:4:18: services.web.depends_on: there is no service \"bd\" | did you mean \"db\"?",
        ),
        (
            "services:\n  web:\n    image: a\n    networks: [front]\n",
            "c.yaml:4:16: services.web.networks: there is no network \"front\" | declare it below `networks:`",
        ),
        (
            "services:\n  web:\n    image: ${TAG:?which one}\n",
            "c.yaml:3:12: services.web.image: the variable TAG is missing: which one | set TAG in the environment, in .env or in an --env-file",
        ),
        (
            "services:\n  web:\n    image: ${TAG\n",
            "c.yaml:3:12: services.web.image: \"${TAG\" is not a variable | write ${NAME} or ${NAME:-default}; a dollar alone is $$",
        ),
        (
            "services:\n  web:\n    image: a\n    isolation: vmm\n",
            "c.yaml:4:16: services.web.isolation: unknown isolation level \"vmm\"; available: container, vm | choose container or vm",
        ),
        (
            "services:\n  web:\n    image: a\n    gpus: all\n",
            "c.yaml:4:5: services.web.gpus cannot be done: make the device nodes available with `devices` | take the key out, or write it as x-… to keep it as a note",
        ),
        (
            "services:\n  a: {image: a, depends_on: [b]}\n  b: {image: a, depends_on: [c]}\n  c: {image: a, depends_on: [b]}\n",
            "dependencies go round in a circle: b -> c -> b | take one of them out",
        ),
        (
            "services:\n  a: {extends: b}\n  b: {extends: {service: a}}\n",
            "services that extend each other go round in a circle: a -> b -> a | take one of them out",
        ),
        (
            "services:\n  a: {image: a, container_name: x, scale: 2}\n",
            "c.yaml:2:33: services.a.container_name: several replicas cannot have one name | leave container_name out, or scale to 1",
        ),
        (
            "services:\n  a: {image: a, secrets: [s]}\n",
            "c.yaml:2:27: services.a.secrets: there is no secret \"s\" | declare it below `secrets:`",
        ),
        (
            "services:\n\ta: b\n",
            "c.yaml:2:2: not YAML: tabs disallowed within this context (block indentation) | indent with spaces",
        ),
    ] {
        assert_eq!(complaint(text), expected, "{text}");
    }
}

#[test]
fn short_forms_are_written_out() {
    let found = services(
        "services:\n  a:\n    image: a\n    command: sh -c 'echo \"a b\"'\n    ports: ['127.0.0.1:8080-8081:80-81/udp', 90]\n    volumes: ['./x:/x:ro', 'data:/y', '/z']\n    environment: [A=1, B]\n    ulimits: {nofile: 5}\n    depends_on: [b]\n    healthcheck: {test: curl x}\n    env_file: e.env\n    mem_limit: 512m\n  b: {image: b, network_mode: none}\nvolumes: {data: }\n"
            .replace("    env_file: e.env\n", "")
            .as_str(),
    );
    let a = &found["a"];
    assert_eq!(a["command"], json!(["sh", "-c", "echo \"a b\""]));
    assert_eq!(
        a["ports"][0],
        json!({"target": 80, "published": "8080", "host_ip": "127.0.0.1", "protocol": "udp"})
    );
    assert_eq!(a["ports"][2], json!({"target": 90, "protocol": "tcp"}));
    assert_eq!(
        a["volumes"][1],
        json!({"type": "volume", "source": "data", "target": "/y"})
    );
    assert_eq!(a["volumes"][0]["read_only"], json!(true));
    assert_eq!(a["environment"], json!({"A": "1", "B": null}));
    assert_eq!(a["ulimits"], json!({"nofile": {"soft": 5, "hard": 5}}));
    assert_eq!(
        a["depends_on"],
        json!({"b": {"condition": "service_started", "required": true}})
    );
    assert_eq!(a["healthcheck"]["test"], json!(["CMD-SHELL", "curl x"]));
    assert_eq!(a["mem_limit"], json!("536870912"));
    assert_eq!(a["networks"], json!({"default": null}));
    assert_eq!(found["b"].get("networks"), None);
}

#[test]
fn files_are_merged_by_the_rules_of_the_specification() {
    let base = "services:\n  a:\n    image: one\n    command: [x, y]\n    environment: {A: 1, B: 2}\n    ports: ['80:80', '81:81']\n    volumes: ['/h:/in', '/k:/k']\n    labels: [l=1]\n    dns: 1.1.1.1\n    cap_add: [A]\n    logging: {driver: json-file, options: {max-size: 1m}}\n";
    let over = "services:\n  a:\n    image: two\n    command: [z]\n    environment: [B=3, C=4]\n    ports: !override ['82:82']\n    volumes: ['/other:/in']\n    labels: {m: 2}\n    dns: [1.1.1.1, 8.8.8.8]\n    cap_add: !reset []\n    logging: {driver: none}\n  b: {image: b}\n";
    let project = with(&[("c.yaml", base), ("o.yaml", over)], |request| {
        request.files.push("o.yaml".into());
    })
    .unwrap();
    let a = &project.document["services"]["a"];
    assert_eq!(a["image"], "two");
    assert_eq!(a["command"], json!(["z"]));
    assert_eq!(a["environment"], json!({"A": "1", "B": "3", "C": "4"}));
    assert_eq!(a["ports"].as_array().unwrap().len(), 1);
    assert_eq!(a["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(a["volumes"][0]["source"], "/other");
    assert_eq!(a["labels"], json!({"l": "1", "m": "2"}));
    assert_eq!(a["dns"], json!(["1.1.1.1", "8.8.8.8"]));
    assert_eq!(a.get("cap_add"), None);
    assert_eq!(a["logging"], json!({"driver": "none"}));
    assert!(project.services.contains_key("b"));
}

#[test]
fn environments_have_an_order() {
    let file = "name: x-${COMPOSE_PROJECT_NAME}\nservices:\n  a:\n    image: '${IMAGE}:${TAG:-none}'\n    env_file: [one.env, {path: no.env, required: false}]\n    environment: [B=own, PASSED, LOST]\n";
    let files = [
        ("c.yaml", file),
        (".env", "IMAGE=from-file\nTAG=file\nPASSED=p\n"),
        ("one.env", "A=1\nB=file\n"),
    ];
    let project = with(&files, |request| {
        request.environment.insert("TAG".into(), "process".into());
    })
    .unwrap();
    let a = &project.services["a"];
    assert_eq!(a.image.as_deref(), Some("from-file:process"));
    let variable = |name: &str| a.environment[name].as_deref();
    assert_eq!(variable("A"), Some("1"));
    assert_eq!(variable("B"), Some("own"));
    assert_eq!(variable("PASSED"), Some("p"));
    assert_eq!(variable("LOST"), None);
    assert_eq!(project.name, "x-demo");
}

#[test]
fn services_extend_and_files_include_others() {
    let file = "include: [other/c.yaml]\nservices:\n  a:\n    extends: {file: base/b.yaml, service: b}\n    environment: {X: 2}\n";
    let base = "services:\n  b: {extends: c, volumes: ['./here:/x']}\n  c: {image: c, environment: {X: 1, Y: 1}}\n";
    let other =
        "services:\n  o: {image: '${NAME}', depends_on: [p]}\n  p: {image: p}\nvolumes: {v: }\n";
    let files = [
        ("c.yaml", file),
        ("base/b.yaml", base),
        ("other/c.yaml", other),
        ("other/.env", "NAME=of-other"),
    ];
    let project = project(&files).unwrap();
    let a = &project.services["a"];
    assert_eq!(a.image.as_deref(), Some("c"));
    assert_eq!(a.environment["X"].as_deref(), Some("2"));
    assert_eq!(a.environment["Y"].as_deref(), Some("1"));
    assert!(
        a.volumes[0]
            .source
            .as_ref()
            .unwrap()
            .ends_with("demo/base/here")
    );
    assert_eq!(project.services["o"].image.as_deref(), Some("of-other"));
    assert!(project.volumes.contains_key("v"));
    let again = "include: [c.yaml]\nservices: {a: {image: a}}\n";
    let error = self::project(&[("c.yaml", again)]).unwrap_err();
    assert!(matches!(error, LoadError::Cycle { .. }), "{error}");
}

#[test]
fn profiles_choose_services() {
    let file = "services:\n  a: {image: a}\n  d: {image: d, profiles: [debug]}\n  e: {image: e, depends_on: {d: {required: false, condition: service_started}}}\n";
    let names = |project: &Project| project.services.keys().cloned().collect::<Vec<_>>();
    let mut plain = project(&[("c.yaml", file)]).unwrap();
    assert_eq!(names(&plain), ["a", "e"]);
    assert!(plain.services["e"].depends_on.is_empty());
    plain.enable(&["d".to_owned()]).unwrap();
    assert_eq!(names(&plain), ["a", "d", "e"]);
    let debug = with(&[("c.yaml", file)], |request| {
        request.profiles = vec!["debug".into()]
    })
    .unwrap();
    assert_eq!(names(&debug), ["a", "d", "e"]);
    assert_eq!(
        plain.enable(&["x".to_owned()]).unwrap_err().to_string(),
        "the project has no service \"x\""
    );
}

#[test]
fn what_is_ignored_is_said() {
    let file = "version: '3'\nservices:\n  a:\n    image: a\n    deploy: {placement: {constraints: [x]}}\n    x-note: kept\n";
    let project = project(&[("c.yaml", file)]).unwrap();
    let texts: Vec<&str> = project
        .warnings
        .iter()
        .map(|warning| warning.text.as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "version is ignored: the key is obsolete, and files of any version are read alike; take it out",
            "services.a.deploy.placement is ignored: there is one host",
        ]
    );
    assert_eq!(project.document["services"]["a"]["x-note"], "kept");
}

#[test]
fn what_no_network_and_no_link_can_be_is_refused() {
    for (file, complaint) in [
        (
            "services:\n  a: {image: a}\nnetworks: {n: {enable_ipv4: false}}\n",
            "networks.n.enable_ipv4",
        ),
        (
            "services:\n  a: {image: a}\nnetworks: {n: {ipam: {driver: other}}}\n",
            "networks.n.ipam.driver",
        ),
        (
            "services:\n  a: {image: a, links: ['b:c']}\n  b: {image: b}\n",
            "services.a.links",
        ),
    ] {
        let error = project(&[("c.yaml", file)]).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
    let plain = "services:\n  a: {image: a, links: [b, 'b:b']}\n  b: {image: b}\nnetworks: {n: {enable_ipv4: true, ipam: {driver: default}}}\n";
    project(&[("c.yaml", plain)]).unwrap();
}

#[test]
fn what_is_printed_reads_as_the_same_project() {
    let file = "services:\n  a:\n    image: a\n    command: echo $$HOME\n    ports: ['80:80']\n    volumes: ['d:/d', './x:/x:ro']\n    environment: [A]\n    depends_on: {b: {condition: service_healthy}}\n    healthcheck: {test: x, interval: 1m30s}\n    deploy: {resources: {limits: {cpus: '0.5', memory: 1g}}}\n  b: {image: b}\nvolumes: {d: }\n";
    let first = project(&[("c.yaml", file)]).unwrap();
    let text = crate::yaml(&first.document, true);
    let second = project(&[("c.yaml", &text)]).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(
        crate::sorted(&first.document),
        crate::sorted(&second.document)
    );
    assert_eq!(first.services["a"].hash, second.services["a"].hash);
}

#[test]
fn a_service_is_said_in_the_flags_of_create() {
    let file = "services:\n  a:\n    image: img\n    isolation: vm\n    command: [run, it]\n    entrypoint: [/bin/sh, -c]\n    environment: {K: v}\n    ports: ['[::1]:1:2', '53:53/udp', '9']\n    networks: {default: {aliases: [x], ipv4_address: 10.0.0.5}, back: {priority: 10}}\n    volumes: ['data:/d:ro', './my,dir:/e', {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}]\n    deploy: {resources: {limits: {cpus: 1.5, memory: 64m}}, restart_policy: {condition: on-failure, max_attempts: 3}}\n    pid: service:b\n    healthcheck: {test: [CMD, a, 'b c'], retries: 2}\n    stop_grace_period: 1m\n    x-isle: {egress: [deny], net-rate: 10mb}\n    secrets: [s]\n  b: {image: b}\nvolumes: {data: {name: mine}}\nnetworks: {back: {}}\nsecrets: {s: {environment: SECRET}}\n";
    let project = project(&[("c.yaml", file)]).unwrap();
    let names = [("b".to_owned(), "demo-b-1".to_owned())].into();
    let wanted = words::instance(&project, &project.services["a"], 1, &names);
    let folder = project.folder.display().to_string();
    let flags: Vec<String> = wanted
        .flags
        .iter()
        .filter(|flag| !flag.starts_with("--label="))
        .map(|flag| flag.replace(&folder, "DIR"))
        .collect();
    assert_eq!(
        flags,
        [
            "--isolation=vm",
            "--env=K=v",
            "--stop-timeout=60",
            "--restart=on-failure:3",
            "--mount=type=volume,source=mine,target=/d,readonly",
            "--mount=type=bind,\"source=DIR/my,dir\",target=/e,bind-create-src=true",
            "--mount=type=tmpfs,target=/t,tmpfs-size=1048576,tmpfs-mode=700",
            "--cpus=1.5",
            "--memory=67108864",
            "--pid=container:demo-b-1",
            "--network=name=demo_back,alias=a",
            "--network=name=demo_default,alias=a,alias=x,ip=10.0.0.5",
            "--publish=[::1]:1:2/tcp",
            "--publish=53:53/udp",
            "--publish=9/tcp",
            "--egress=deny",
            "--net-rate=10mb",
            "--health-cmd=a 'b c'",
            "--health-retries=2",
        ]
    );
    assert_eq!(wanted.name, "demo-a-1");
    assert_eq!(wanted.health, Some(vec!["a".into(), "b c".into()]));
    assert_eq!(
        wanted.files[0].source,
        words::Source::Unset("SECRET".into())
    );
    assert_eq!(wanted.files[0].target, "/run/secrets/s");
    let labels: Vec<&String> = wanted
        .flags
        .iter()
        .filter(|flag| flag.contains("com.docker.compose.project="))
        .collect();
    assert_eq!(labels, ["--label=com.docker.compose.project=demo"]);
}

#[test]
fn a_plan_is_the_difference() {
    use crate::{Existing, ExistingInstance, PlanError, Step, plan};
    let file = "services:\n  web: {image: w, depends_on: [db], scale: 2, volumes: ['d:/d']}\n  db: {image: d}\nvolumes: {d: }\n";
    let project = project(&[("c.yaml", file)]).unwrap();
    let options = Options::default();
    let images = [
        ("web".to_owned(), "w1".to_owned()),
        ("db".to_owned(), "d1".to_owned()),
    ]
    .into();
    let spelled = |steps: &[Step]| -> Vec<String> {
        let of = |verb: &str, target: &crate::Target| format!("{verb} {}", target.name);
        steps
            .iter()
            .map(|step| match step {
                Step::CreateNetwork(key) => format!("network {key}"),
                Step::CreateVolume(key) => format!("volume {key}"),
                Step::RemoveOrphan(target) => of("orphan", target),
                Step::RemoveSurplus(target) => of("surplus", target),
                Step::Create(target) => of("create", target),
                Step::Recreate(target, reason) => {
                    format!("{} ({reason:?})", of("recreate", target))
                }
                Step::Start(target) => of("start", target),
                Step::Keep(target) => of("keep", target),
            })
            .collect()
    };
    let steps = plan(&project, &Existing::default(), &options, &images).unwrap();
    assert_eq!(
        spelled(&steps),
        [
            "network default",
            "volume d",
            "create demo-db-1",
            "create demo-web-1",
            "create demo-web-2"
        ]
    );

    let instance = |service: &str, number: u32| ExistingInstance {
        id: format!("{service}{number}"),
        name: format!("demo-{service}-{number}"),
        service: service.to_owned(),
        number,
        hash: project
            .services
            .get(service)
            .map(|service| service.hash.clone())
            .unwrap_or_default(),
        image_id: format!("{}1", &service[..1]),
        is_running: true,
        ..ExistingInstance::default()
    };
    let networks = [(
        "demo_default".to_owned(),
        Some(project.networks["default"].hash.clone()),
    )];
    let mut existing = Existing {
        instances: vec![instance("db", 1), instance("web", 1), instance("web", 2)],
        networks: networks.into(),
        volumes: [("demo_d".to_owned(), None)].into(),
    };
    let steps = plan(&project, &existing, &options, &images).unwrap();
    assert_eq!(
        spelled(&steps),
        ["keep demo-db-1", "keep demo-web-1", "keep demo-web-2"]
    );

    existing.instances[0].is_running = false;
    existing.instances[1].hash = "old".into();
    existing.instances[2].image_id = "w0".into();
    existing.instances.push(instance("web", 3));
    existing.instances.push(instance("gone", 1));
    let steps = plan(&project, &existing, &options, &images).unwrap();
    assert_eq!(
        spelled(&steps),
        [
            "start demo-db-1",
            "surplus demo-web-3",
            "recreate demo-web-1 (Configuration)",
            "recreate demo-web-2 (Image)"
        ]
    );
    let options = Options {
        removes_orphans: true,
        recreates_none: true,
        services: vec!["web".into()],
        without_dependencies: true,
        scale: [("web".to_owned(), 0)].into(),
        ..Options::default()
    };
    let steps = plan(&project, &existing, &options, &images).unwrap();
    assert_eq!(
        spelled(&steps),
        [
            "orphan demo-gone-1",
            "surplus demo-web-3",
            "surplus demo-web-2",
            "surplus demo-web-1"
        ]
    );

    existing
        .networks
        .insert("demo_default".into(), Some("other".into()));
    let error = plan(&project, &existing, &Options::default(), &images).unwrap_err();
    assert!(matches!(error, PlanError::NetworkDiffers { .. }));
}
