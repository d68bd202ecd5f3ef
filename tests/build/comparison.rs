//! The same Dockerfiles by buildah: the same files, the same configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use isle_tests::World;
use serde_json::Value;

use crate::{build, context};

/// Each covers a part of the language.
const DOCKERFILES: &[(&str, &str)] = &[
    (
        "stages",
        "ARG B=busybox\nFROM $B AS one\nARG X=5\nENV Y=${X}-y\nWORKDIR /w/x\nRUN echo $X $Y > out; mkdir -m 700 d; ln -s out l; chown 3:4 out\n\
         FROM $B\nCOPY --from=one /w /got/\nRUN rm /bin/vi && touch /bin/new\nCMD [\"a\"]\n",
    ),
    (
        "copies",
        "FROM busybox\nCOPY sub /a\nCOPY sub/ /b/\nCOPY one two /c/\nCOPY on? /d\nCOPY --chown=7:8 sub /e/\nCOPY --chmod=640 one /f\n\
         ADD files.tar /g/\nCOPY files.tar /h/\nCOPY one /tmp\nCOPY . /all/\n",
    ),
    (
        "config",
        "FROM busybox\nLABEL a=1 b=\"2 3\"\nENV P=/p Q=\"$PATH:/q\"\nENV R two words\nEXPOSE 80 53/udp\nVOLUME [\"/v\"]\nUSER 1:2\n\
         STOPSIGNAL SIGINT\nENTRYPOINT run it\nWORKDIR /x\nWORKDIR y\n",
    ),
    (
        "deletions",
        "FROM busybox\nRUN mkdir -p /d/e && echo 1 > /d/e/f && echo 2 > /d/g\nRUN rm -r /d/e && mkdir /d/e && echo 3 > /d/e/h\nRUN rm /d/g\n",
    ),
];

pub fn buildah_builds_the_same_files(world: &World) {
    let base = Base::new(world);
    for (name, dockerfile) in DOCKERFILES {
        let packed = [
            ("one", "1"),
            ("two", "2"),
            ("sub/x", "x"),
            ("sub/deep/y", "y"),
            (".dockerignore", "Dockerfile\n.dockerignore\n"),
        ];
        let context = context(world, name, dockerfile, &packed);
        let status = Command::new("tar")
            .args(["--owner=5", "--group=6", "-cf", "files.tar", "sub"])
            .current_dir(&context)
            .status();
        assert!(status.expect("tar is there").success());
        let ours = world.files().join(format!("{name}-ours.tar"));
        let output = format!("type=docker,dest={}", ours.display());
        build(world, &["--output", &output], &context).succeeds();
        let theirs = base.build(&context, name);
        let (our_files, our_config) = read(world, &ours, name, "ours");
        let (mut their_files, their_config) = read(world, &theirs, name, "theirs");
        // What its runs were given there stays in the layer.
        their_files.remove("./run");
        let ours_alone: Vec<_> = our_files
            .iter()
            .filter(|entry| !their_files.iter().any(|other| other == *entry))
            .collect();
        let theirs_alone: Vec<_> = their_files
            .iter()
            .filter(|entry| !our_files.iter().any(|other| other == *entry))
            .collect();
        assert!(
            ours_alone.is_empty() && theirs_alone.is_empty(),
            "{name}: ours alone {ours_alone:?}, theirs alone {theirs_alone:?}"
        );
        for key in [
            "Env",
            "Cmd",
            "Entrypoint",
            "WorkingDir",
            "User",
            "Labels",
            "ExposedPorts",
            "Volumes",
            "StopSignal",
        ] {
            let (ours, mut theirs) = (present(&our_config[key]), present(&their_config[key]));
            if key == "Labels"
                && let Some(Value::Object(labels)) = &mut theirs
            {
                labels.remove("io.buildah.version");
            }
            let theirs =
                theirs.filter(|value| !value.as_object().is_some_and(serde_json::Map::is_empty));
            if key == "WorkingDir"
                && ours.as_ref().is_none_or(|dir| dir == "/")
                && theirs.as_ref().is_none_or(|dir| dir == "/")
            {
                continue;
            }
            assert_eq!(ours, theirs, "{key} of {name}");
        }
    }
}

fn present(value: &Value) -> Option<Value> {
    let is_empty = value.is_null()
        || value == ""
        || value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty);
    (!is_empty).then(|| value.clone())
}

/// buildah with a store of its own, and our busybox in it.
struct Base {
    folder: std::path::PathBuf,
}

impl Base {
    fn new(world: &World) -> Base {
        let base = Base {
            folder: world.files().join("buildah"),
        };
        std::fs::create_dir_all(&base.folder).expect("our own");
        world.busybox();
        let archive = base.folder.join("busybox.tar");
        world
            .isle(["save", "-o", &archive.to_string_lossy(), "busybox"])
            .succeeds();
        base.run(&["pull", &format!("docker-archive:{}", archive.display())]);
        base
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new("buildah")
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(arguments)
            .env("HOME", &self.folder)
            .output()
            .expect("buildah is there");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn build(&self, context: &str, name: &str) -> std::path::PathBuf {
        let archive = self.folder.join(format!("{name}.tar"));
        self.run(&[
            "bud",
            "--pull-never",
            "--format",
            "docker",
            "--isolation",
            "chroot",
            "--squash",
            "-t",
            name,
            context,
        ]);
        self.run(&[
            "push",
            name,
            &format!("docker-archive:{}", archive.display()),
        ]);
        archive
    }
}

type Files = BTreeMap<String, String>;

/// The files of an archive's image (kind, mode, owner, content), and its configuration.
fn read(world: &World, archive: &Path, name: &str, whose: &str) -> (Files, Value) {
    let tag = format!("compared-{name}-{whose}");
    let said = world
        .isle(["load", "-i", &archive.to_string_lossy()])
        .succeeds();
    let id = said
        .trim()
        .rsplit(' ')
        .next()
        .expect("a name or an id")
        .to_owned();
    world.isle(["tag", &id, &tag]).succeeds();
    let script = "cd / && find . -xdev -not -path './proc*' -not -path './sys*' -not -path './dev*' | grep -v -E '^./etc/(hosts|hostname|resolv.conf)$' \
        | while read f; do h=; if [ -f \"$f\" ] && [ ! -L \"$f\" ]; then h=$(sha256sum < \"$f\"); fi; \
        echo \"$f=$(stat -c '%F %a %u:%g' \"$f\") $(readlink \"$f\") $h\"; done";
    let listed = world
        .isle([
            "run",
            "--rm",
            "--user",
            "0",
            "--workdir",
            "/",
            "--entrypoint",
            "/bin/busybox",
            &tag,
            "sh",
            "-c",
            script,
        ])
        .succeeds();
    let files = listed.lines().filter_map(|line| line.split_once('='));
    let files = files
        .map(|(path, what)| (path.to_owned(), what.trim_end().to_owned()))
        .collect();
    (files, world.inspect(&tag)["Config"].clone())
}
