//! What is common to all commands: completion, help, slips, formats, which stream has what.

#![forbid(unsafe_code)]

use isle_tests::{Level, Need, World};

isle_tests::stories! {
    only Level::Container;
    completion_offers_the_names_that_there_are [Need::Isle],
    a_slip_is_answered_with_what_was_meant [Need::Isle],
    inspect_of_a_kind_finds_that_kind_only,
    every_help_is_printed_with_examples [Need::Isle],
    results_go_to_standard_output_and_progress_elsewhere [Need::Isle],
    events_are_followed_as_they_happen [Need::Isle],
    templates_find_what_scripts_ask_for [Need::Isle],
    a_template_that_does_not_fit_names_what_does [Need::Isle],
    what_a_stranger_named_does_not_command_the_terminal [Need::Isle],
    several_names_are_all_tried [Need::Isle],
}

/// What the shell would be offered behind these words.
fn offered(world: &World, words: &[&str]) -> Vec<String> {
    let mut arguments = vec!["--", "isle"];
    arguments.extend(words);
    let text = world
        .isle(arguments)
        .env("ISLE_COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .succeeds();
    text.lines().map(str::to_owned).collect()
}

fn completion_offers_the_names_that_there_are(world: &World) {
    let image = world.busybox();
    for name in ["alpha", "beta"] {
        world
            .isle(["create", "--name", name, &image, "true"])
            .succeeds();
    }
    let names = offered(world, &["start", ""]);
    assert!(names.contains(&"alpha".to_owned()), "{names:?}");
    assert!(names.contains(&"beta".to_owned()), "{names:?}");
    assert_eq!(offered(world, &["start", "al"]), ["alpha"]);
    assert_eq!(offered(world, &["container", "rm", "be"]), ["beta"]);
    assert_eq!(
        offered(world, &["run", "busy"]),
        [format!("{image}:latest")]
    );
    assert!(offered(world, &["run", "--memory-s"]).contains(&"--memory-swap".to_owned()));
    assert!(offered(world, &["unp"]).contains(&"unpause".to_owned()));
    for shell in ["bash", "zsh", "fish"] {
        let script = world.isle(["completion", shell]).succeeds();
        assert!(script.contains("ISLE_COMPLETE"), "{script}");
    }
    world
        .isle(["completion", "tcsh"])
        .exits_with(125)
        .complains("hint: use bash");
}

fn a_slip_is_answered_with_what_was_meant(world: &World) {
    let image = world.busybox();
    world.isle(["rnu"]).exits_with(125).complains("isle run");
    world
        .isle(["run", "--memroy", "1g", &image])
        .exits_with(125)
        .complains("--memory");
    world
        .isle(["run", "--gpus", "all", &image])
        .exits_with(125)
        .complains("hint: make the device nodes available with --device");
    world
        .isle(["create", "--name", "webserver", &image, "true"])
        .succeeds();
    world
        .isle(["start", "webservr"])
        .exits_with(1)
        .complains("did you mean webserver?");
    world
        .isle(["create", "--name", "web", &image, "true"])
        .succeeds();
    world
        .isle(["start", "wbe"])
        .exits_with(1)
        .complains("did you mean web?");
    world
        .isle(["create", "--pull", "never", "ubsybxo"])
        .exits_with(125)
        .complains("did you mean busybox");
    world
        .isle(["run", "--pull", "never", "busibox"])
        .exits_with(125)
        .complains("did you mean busybox");
}

fn inspect_of_a_kind_finds_that_kind_only(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "box", &image, "true"])
        .succeeds();
    world.isle(["container", "inspect", "box"]).succeeds();
    world.isle(["image", "inspect", &image]).succeeds();
    assert_ne!(world.isle(["container", "inspect", &image]).run().code(), 0);
    assert_ne!(world.isle(["image", "inspect", "box"]).run().code(), 0);
}

fn every_help_is_printed_with_examples(world: &World) {
    let verbs = |overview: &str| -> Vec<String> {
        overview
            .lines()
            .take_while(|line| *line != "Examples:")
            .filter_map(|line| line.strip_prefix("  "))
            .filter_map(|line| line.split(' ').next())
            .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase()) && !word.is_empty())
            .filter(|word| *word != "help")
            .map(str::to_owned)
            .collect()
    };
    let groups = [
        "container",
        "image",
        "volume",
        "network",
        "system",
        "kernel",
        "template",
        "pool",
        "builder",
        "compose",
    ];
    let mut seen = 0;
    for verb in verbs(&world.isle(["--help"]).succeeds()) {
        let help = world.isle([verb.as_str(), "--help"]).succeeds();
        assert!(help.contains("Usage: isle"), "{help}");
        let helps = match groups.contains(&verb.as_str()) {
            false => vec![help],
            true => verbs(&help)
                .iter()
                .map(|of_group| world.isle([verb.as_str(), of_group, "--help"]).succeeds())
                .collect(),
        };
        for help in helps {
            assert!(help.contains("Examples:\n  isle "), "{help}");
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} verbs were found");
}

fn results_go_to_standard_output_and_progress_elsewhere(world: &World) {
    let image = world.busybox();
    let archive = world.file("images.tar", "");
    world.isle(["save", "-o", &archive, &image]).succeeds();
    world.isle(["rmi", &image]).succeeds();
    let loaded = world
        .isle(["load", "--progress", "rawjson", "-i", &archive])
        .exits_with(0);
    assert_eq!(loaded.stdout(), format!("Loaded image: {image}:latest\n"));
    for line in loaded.stderr().lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
    world.isle(["rmi", &image]).succeeds();
    let quiet = world.isle(["load", "-q", "-i", &archive]).exits_with(0);
    assert_eq!(quiet.stderr(), "");
}

fn events_are_followed_as_they_happen(world: &World) {
    let image = world.busybox();
    let events = world
        .isle([
            "events",
            "--filter",
            "type=container",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}}",
        ])
        .spawn();
    // The follower sees what happens after it has started: it is asked until it has.
    isle_tests::wait_for("the first event to be seen", || {
        world
            .isle(["run", "--rm", "--name", "seen", &image, "true"])
            .succeeds();
        events.stdout().contains("die seen")
    });
    events.signal(rustix::process::Signal::TERM);
    drop(events.wait());
}

fn templates_find_what_scripts_ask_for(world: &World) {
    world
        .script(&["--name", "t", "-l", "tier=front"], "exit 4")
        .exits_with(4);
    for (template, expected) in [
        ("{{.State.ExitCode}}", "4"),
        ("{{.Name}}", "/t"),
        ("{{.State.Running}}", "false"),
        ("{{index .Config.Labels \"tier\"}}", "front"),
        ("{{.Config.Labels.none}}", "<no value>"),
        ("{{if .State.Health}}x{{else}}unchecked{{end}}", "unchecked"),
        (
            "{{.HostConfig.NetworkMode}}/{{.Isolation}}",
            "none/container",
        ),
    ] {
        let text = world.isle(["inspect", "-f", template, "t"]).succeeds();
        assert_eq!(text, expected, "{template}");
    }
    let text = world
        .isle([
            "ps",
            "-a",
            "--format",
            "table {{.Names}}\\t{{.Label \"tier\"}}",
        ])
        .succeeds();
    assert_eq!(text, "NAMES     tier\nt         front");
    let json = world.isle(["ps", "-a", "--format", "json"]).succeeds();
    assert!(
        json.contains("\"Names\":\"t\"") && json.lines().count() == 1,
        "{json}"
    );
}

fn a_template_that_does_not_fit_names_what_does(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "t", &image, "true"])
        .succeeds();
    world
        .isle(["inspect", "-f", "{{.State.Exitcode}}", "t"])
        .exits_with(1)
        .complains("ExitCode");
    world
        .isle(["ps", "-a", "--format", "{{.Names"])
        .exits_with(1)
        .complains("unclosed action");
}

fn what_a_stranger_named_does_not_command_the_terminal(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create",
            "--name",
            "t",
            &image,
            "echo",
            "\u{1b}]0;owned\u{7}",
        ])
        .succeeds();
    let table = world.isle(["ps", "-a"]).succeeds();
    assert!(!table.contains('\u{1b}'), "{table:?}");
}

fn several_names_are_all_tried(world: &World) {
    let image = world.busybox();
    world
        .isle(["create", "--name", "t", &image, "true"])
        .succeeds();
    let outcome = world.isle(["rm", "nothing", "t", "nobody"]).exits_with(1);
    assert_eq!(outcome.stdout(), "t\n");
    outcome.complains("no such instance: nothing");
    outcome.complains("no such instance: nobody");
}
