//! `--restart`.

use isle_engine::config::RestartPolicy;

use super::FlagError;

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
pub fn policy(text: &str) -> Result<RestartPolicy, FlagError> {
    let (name, retries) = match text.split_once(':') {
        Some((name, retries)) => (name, Some(retries)),
        None => (text, None),
    };
    match (name, retries) {
        ("" | "no", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", None) => Ok(RestartPolicy::OnFailure { max_retries: None }),
        ("on-failure", Some(count)) => match count.parse::<u32>() {
            // Docker: 0 is without end.
            Ok(0) => Ok(RestartPolicy::OnFailure { max_retries: None }),
            Ok(count) => Ok(RestartPolicy::OnFailure {
                max_retries: Some(count),
            }),
            Err(_) => Err(FlagError::new(
                format!("{count:?} is not a number of retries"),
                "write on-failure:5",
            )),
        },
        ("no" | "always" | "unless-stopped", Some(_)) => Err(FlagError::new(
            format!("restart policy {name:?} takes no number of retries"),
            "only on-failure:N does",
        )),
        _ => Err(FlagError::new(
            format!("restart policy {text:?} is not known"),
            "use no, always, unless-stopped or on-failure[:N]",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_dockers() {
        assert_eq!(policy("no"), Ok(RestartPolicy::No));
        assert_eq!(policy("always"), Ok(RestartPolicy::Always));
        assert_eq!(
            policy("on-failure:3"),
            Ok(RestartPolicy::OnFailure {
                max_retries: Some(3)
            })
        );
        for text in [
            "sometimes",
            "on-failure:x",
            "on-failure:-1",
            "always:3",
            "on-failure:",
        ] {
            policy(text).expect_err(text);
        }
    }
}
