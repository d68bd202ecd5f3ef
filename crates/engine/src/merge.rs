//! What an image says under what the user says, as Docker merges them.

use oci_spec::image::Config as ImageConfig;

use crate::config::{ConfigError, HealthCheck, InstanceConfig, Mount, MountSource, VolumeMount};

/// Fills what the user left open with what the image says.
///
/// # Errors
/// When the image says something that cannot be carried out.
pub(crate) fn merge(
    config: &mut InstanceConfig,
    image: &ImageConfig,
    health_check: Option<HealthCheck>,
) -> Result<(), ConfigError> {
    let process = &mut config.process;
    if process.user.as_ref().is_none_or(String::is_empty) {
        process.user = image.user().clone().filter(|user| !user.is_empty());
    }
    let no_directory = process.working_dir.as_ref().is_none_or(String::is_empty);
    if no_directory {
        process.working_dir = image.working_dir().clone().filter(|dir| !dir.is_empty());
    }
    // An entrypoint of the user's takes the image's arguments away with the image's entrypoint.
    if process.entrypoint.is_none() {
        if process.command.as_ref().is_none_or(Vec::is_empty) {
            process.command.clone_from(image.cmd());
        }
        process.entrypoint.clone_from(image.entrypoint());
    }
    // `--entrypoint ""` means none.
    if process
        .entrypoint
        .as_deref()
        .is_some_and(|words| words == [""])
    {
        process.entrypoint = Some(Vec::new());
    }
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in image.env().iter().flatten() {
        if !process.env.iter().any(|own| key(own) == key(entry)) {
            process.env.push(entry.clone());
        }
    }
    for (label, value) in image.labels().iter().flatten() {
        let own = config.labels.entry(label.clone());
        own.or_insert_with(|| value.clone());
    }
    let exposed = image.exposed_ports().iter().flatten().cloned();
    config.exposed_ports.extend(exposed);
    let mut volumes: Vec<&String> = image.volumes().iter().flatten().collect();
    volumes.sort();
    for target in volumes {
        let target = normal_path(target);
        if !config
            .mounts
            .iter()
            .any(|mount| normal_path(&mount.target) == target)
        {
            config.mounts.push(Mount {
                source: MountSource::Volume(VolumeMount::default()),
                target,
                read_only: false,
            });
        }
    }
    if config.health_check.is_none() {
        config.health_check = health_check;
    }
    if config.stop_signal.is_none() {
        let signal = image.stop_signal().as_ref().filter(|text| !text.is_empty());
        let parse = |text: &String| {
            text.parse().map_err(|_| ConfigError {
                field: "STOPSIGNAL of the image",
                value: text.clone(),
                reason: "there is no such signal".to_owned(),
                hint: Some("say another one with --stop-signal"),
            })
        };
        config.stop_signal = signal.map(parse).transpose()?;
    }
    Ok(())
}

/// A path without `.`, empty parts and a slash at its end. `..` stays, and is refused later.
pub(crate) fn normal_path(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    match path.starts_with('/') {
        true => format!("/{}", parts.join("/")),
        false => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProcessConfig;

    fn image() -> ImageConfig {
        serde_json::from_str(
            r#"{"User": "app", "Env": ["PATH=/bin", "A=image"], "Entrypoint": ["/start"],
                "Cmd": ["serve"], "WorkingDir": "/srv", "Volumes": {"/data/": {}, "/b": {}},
                "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "image", "b": "image"}, "StopSignal": "SIGQUIT"}"#,
        )
        .unwrap()
    }

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn the_image_fills_what_the_user_left_open() {
        let mut config = InstanceConfig::default();
        merge(&mut config, &image(), None).unwrap();
        assert_eq!(config.process.user.as_deref(), Some("app"));
        assert_eq!(config.process.entrypoint, words(&["/start"]));
        assert_eq!(config.process.command, words(&["serve"]));
        assert_eq!(config.stop_signal, "QUIT".parse().ok());
        assert!(config.exposed_ports.contains("80/tcp"));
        let targets: Vec<_> = config.mounts.iter().map(|m| m.target.as_str()).collect();
        assert_eq!(targets, ["/b", "/data"]);
    }

    #[test]
    fn what_the_user_says_wins() {
        let mut config = InstanceConfig {
            process: ProcessConfig {
                env: vec!["A=user".to_owned()],
                command: words(&["other"]),
                user: Some("0".to_owned()),
                ..ProcessConfig::default()
            },
            labels: [("a".to_owned(), "user".to_owned())].into(),
            ..InstanceConfig::default()
        };
        merge(&mut config, &image(), None).unwrap();
        assert_eq!(config.process.env, ["A=user", "PATH=/bin"]);
        assert_eq!(config.process.entrypoint, words(&["/start"]));
        assert_eq!(config.process.command, words(&["other"]));
        assert_eq!(config.labels["a"], "user");
        assert_eq!(config.labels["b"], "image");
    }

    #[test]
    fn an_entrypoint_takes_the_images_arguments_away() {
        for (given, expected) in [
            (words(&["/bin/sh"]), words(&["/bin/sh"])),
            (words(&[""]), words(&[])),
        ] {
            let mut config = InstanceConfig::default();
            config.process.entrypoint = given;
            merge(&mut config, &image(), None).unwrap();
            assert_eq!(config.process.entrypoint, expected);
            assert_eq!(config.process.command, None);
        }
    }
}
