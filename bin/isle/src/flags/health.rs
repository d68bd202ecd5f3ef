//! `--health-*`, `--no-healthcheck`.

use std::time::Duration;

use clap::Args;
use isle_engine::config::{HealthCheck, HealthTest, OnUnhealthy};
use isle_types::parse_duration;

use super::FlagError;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct HealthFlags {
    /// Command that finds out whether it is healthy, run by /bin/sh -c; "none" for no check
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    health_cmd: Option<String>,
    /// Time between two checks (default 30s)
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Health")]
    health_interval: Option<Duration>,
    /// Time after which a check has failed (default 30s)
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Health")]
    health_timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy (default 3)
    #[arg(long, value_name = "NUMBER", value_parser = retries, help_heading = "Health")]
    health_retries: Option<u32>,
    /// Time after the start in which failures do not count (default 0s)
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Health")]
    health_start_period: Option<Duration>,
    /// Time between two checks in the start period (default 5s)
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Health")]
    health_start_interval: Option<Duration>,
    /// What to do when it becomes unhealthy: none, kill, restart or stop
    #[arg(long, value_name = "ACTION", value_parser = on_failure, help_heading = "Health")]
    health_on_failure: Option<OnUnhealthy>,
    /// No health check, whatever the image says
    #[arg(long, help_heading = "Health")]
    no_healthcheck: bool,
}

impl HealthFlags {
    /// Whether any of them says how, so that the image's check has to be known.
    pub fn need_image(&self) -> bool {
        let has_settings = self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_retries.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some()
            || self.health_on_failure.is_some();
        self.health_cmd.is_none() && !self.no_healthcheck && has_settings
    }

    /// The check that the flags ask for; what they leave out is the image's. `None` when they say
    /// nothing: the engine takes the image's then.
    pub fn check(&self, image: Option<&HealthCheck>) -> Result<Option<HealthCheck>, FlagError> {
        let has_command = self.health_cmd.is_some();
        if self.no_healthcheck {
            if has_command || self.with_settings_only() {
                return Err(FlagError::new(
                    "--no-healthcheck does not go with the --health-* flags",
                    "leave one of them out",
                ));
            }
            return Ok(Some(HealthCheck {
                test: HealthTest::Disabled,
                ..defaults()
            }));
        }
        let test = match self.health_cmd.as_deref().map(str::trim) {
            Some("") => {
                return Err(FlagError::new(
                    "--health-cmd is empty",
                    "write a command, or --no-healthcheck",
                ));
            }
            Some("none") => HealthTest::Disabled,
            Some(command) => HealthTest::Shell(command.to_owned()),
            None if !self.need_image() => return Ok(None),
            None => match image {
                Some(check) => check.test.clone(),
                None => {
                    return Err(FlagError::new(
                        "the --health-* flags set how a check is made, but neither the image nor --health-cmd says which",
                        "add --health-cmd",
                    ));
                }
            },
        };
        let base = image.cloned().unwrap_or_else(defaults);
        Ok(Some(HealthCheck {
            test,
            interval: self.health_interval.unwrap_or(base.interval),
            timeout: self.health_timeout.unwrap_or(base.timeout),
            start_period: self.health_start_period.unwrap_or(base.start_period),
            start_interval: self.health_start_interval.unwrap_or(base.start_interval),
            retries: self.health_retries.unwrap_or(base.retries),
            on_unhealthy: self.health_on_failure.unwrap_or(base.on_unhealthy),
        }))
    }

    fn with_settings_only(&self) -> bool {
        HealthFlags {
            no_healthcheck: false,
            ..self.clone()
        }
        .need_image()
    }
}

/// Docker's.
fn defaults() -> HealthCheck {
    HealthCheck {
        test: HealthTest::Disabled,
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(30),
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(5),
        retries: 3,
        on_unhealthy: OnUnhealthy::None,
    }
}

fn duration(text: &str) -> Result<Duration, FlagError> {
    let fail = |reason: String| FlagError::new(reason, "write for example 30s or 1m30s");
    let duration = parse_duration(text).map_err(|_| fail(format!("{text:?} is not a duration")))?;
    match duration.is_zero() || duration >= Duration::from_millis(1) {
        true => Ok(duration),
        false => Err(fail(format!("{text:?} is less than a millisecond"))),
    }
}

fn retries(text: &str) -> Result<u32, FlagError> {
    match text.parse::<u32>() {
        Ok(count @ 1..) => Ok(count),
        _ => Err(FlagError::new(
            format!("{text:?} is not a number of failures"),
            "give a number from 1",
        )),
    }
}

fn on_failure(text: &str) -> Result<OnUnhealthy, FlagError> {
    match text {
        "none" => Ok(OnUnhealthy::None),
        "kill" => Ok(OnUnhealthy::Kill),
        "restart" => Ok(OnUnhealthy::Restart),
        "stop" => Ok(OnUnhealthy::Stop),
        _ => Err(FlagError::new(
            format!("{text:?} is not an action"),
            "use none, kill, restart or stop",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_over_the_image_and_the_image_over_the_defaults() {
        let image = HealthCheck {
            test: HealthTest::Shell("from image".into()),
            interval: Duration::from_secs(7),
            ..defaults()
        };
        let none = HealthFlags::default();
        assert_eq!(none.check(Some(&image)), Ok(None));
        let interval = HealthFlags {
            health_interval: Some(Duration::from_secs(1)),
            ..HealthFlags::default()
        };
        let check = interval.check(Some(&image)).unwrap().unwrap();
        assert_eq!(check.test, image.test);
        assert_eq!(check.interval, Duration::from_secs(1));
        interval.check(None).unwrap_err();
        let command = HealthFlags {
            health_cmd: Some("true".into()),
            ..HealthFlags::default()
        };
        let check = command.check(None).unwrap().unwrap();
        assert_eq!(check.test, HealthTest::Shell("true".into()));
        assert_eq!(check.interval, Duration::from_secs(30));
        let off = HealthFlags {
            no_healthcheck: true,
            ..HealthFlags::default()
        };
        assert_eq!(off.check(None).unwrap().unwrap().test, HealthTest::Disabled);
        let both = HealthFlags {
            no_healthcheck: true,
            ..command
        };
        both.check(None).unwrap_err();
        for text in ["x", "-1s", "5", "1us"] {
            duration(text).expect_err(text);
        }
        retries("0").unwrap_err();
        on_failure("explode").unwrap_err();
    }
}
