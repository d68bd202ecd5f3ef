//! `--security-opt`.

use std::path::Path;

use isle_engine::config::{SeccompChoice, Security};

use super::{FlagError, switch};

/// Puts one `--security-opt` into the settings. `read` reads the file of a seccomp profile.
pub fn apply(
    security: &mut Security,
    text: &str,
    read: impl Fn(&Path) -> Result<String, FlagError>,
) -> Result<(), FlagError> {
    // Docker takes a colon as well, from before there was an equals sign.
    let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    match (key, value) {
        ("no-new-privileges", None) => security.no_new_privileges = true,
        ("no-new-privileges", Some(value)) => security.no_new_privileges = switch(value)?,
        ("seccomp", Some("unconfined")) => security.seccomp = SeccompChoice::Unconfined,
        ("seccomp", Some("builtin")) => security.seccomp = SeccompChoice::Default,
        ("seccomp", Some(path)) if !path.is_empty() => {
            let profile = read(Path::new(path))?;
            security.seccomp = SeccompChoice::Profile(profile);
        }
        ("apparmor", Some(profile)) if !profile.is_empty() => {
            security.apparmor = Some(profile.to_owned());
        }
        ("label", Some(label)) if !label.is_empty() => {
            security.selinux.push(label.to_owned());
        }
        ("systempaths", Some("unconfined")) => security.unmask_system_paths = true,
        _ => {
            return Err(FlagError::new(
                format!("security option {text:?} is not known"),
                "known are no-new-privileges, seccomp=unconfined|builtin|FILE, apparmor=PROFILE, \
                 label=…, systempaths=unconfined",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Security, FlagError> {
        let mut security = Security::default();
        apply(&mut security, text, |path| {
            Ok(format!("text of {}", path.display()))
        })?;
        Ok(security)
    }

    #[test]
    fn options_are_dockers() {
        assert!(parse("no-new-privileges").unwrap().no_new_privileges);
        assert!(!parse("no-new-privileges=false").unwrap().no_new_privileges);
        assert!(parse("no-new-privileges:true").unwrap().no_new_privileges);
        assert_eq!(
            parse("seccomp=unconfined").unwrap().seccomp,
            SeccompChoice::Unconfined
        );
        assert_eq!(
            parse("seccomp=/p.json").unwrap().seccomp,
            SeccompChoice::Profile("text of /p.json".into())
        );
        assert!(parse("systempaths=unconfined").unwrap().unmask_system_paths);
        assert_eq!(
            parse("label=type:svirt_t").unwrap().selinux,
            ["type:svirt_t"]
        );
        for text in [
            "",
            "seccomp",
            "seccomp=",
            "apparmor=",
            "systempaths=confined",
            "what=ever",
        ] {
            parse(text).expect_err(text);
        }
    }
}
