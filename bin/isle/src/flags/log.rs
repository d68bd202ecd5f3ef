//! `--log-driver`, `--log-opt`.

use isle_engine::config::{LogConfig, LogDriver};
use isle_types::ByteSize;

use super::{FlagError, key_value};

/// The driver and its options.
pub fn config(driver: Option<&str>, options: &[String]) -> Result<LogConfig, FlagError> {
    let mut log = LogConfig::default();
    match driver {
        None | Some("json-file") => {}
        // Docker's second file driver: bounded and rotated, which json-file is here as well.
        Some("local") => {}
        Some("none") => log.driver = LogDriver::None,
        Some(other) => {
            return Err(FlagError::new(
                format!("log driver {other:?} is not available in this version"),
                "use json-file, local or none",
            ));
        }
    }
    for option in options {
        let (key, value) = key_value(option)?;
        if log.driver == LogDriver::None {
            return Err(FlagError::new(
                format!("log option {key:?} does not go with --log-driver none"),
                "leave one of them out",
            ));
        }
        match key.as_str() {
            "max-size" => log.max_size = max_size(&value)?,
            "max-file" => log.max_files = max_files(&value)?,
            _ => {
                return Err(FlagError::new(
                    format!("log option {key:?} is not known"),
                    "known are max-size=10m and max-file=3",
                ));
            }
        }
    }
    Ok(log)
}

fn max_size(text: &str) -> Result<ByteSize, FlagError> {
    match text.parse::<ByteSize>() {
        Ok(size) if size.bytes() >= 4096 => Ok(size),
        _ => Err(FlagError::new(
            format!("max-size={text} is not a size of at least 4k"),
            "write for example max-size=10m; a log without bound is not kept",
        )),
    }
}

fn max_files(text: &str) -> Result<u32, FlagError> {
    match text.parse::<u32>() {
        Ok(count @ 1..=1000) => Ok(count),
        _ => Err(FlagError::new(
            format!("max-file={text} is not a number from 1 to 1000"),
            "write for example max-file=3",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_by_default() {
        assert_eq!(config(None, &[]), Ok(LogConfig::default()));
        let log = config(
            Some("json-file"),
            &["max-size=1m".into(), "max-file=5".into()],
        )
        .unwrap();
        assert_eq!((log.max_size, log.max_files), (ByteSize(1 << 20), 5));
        assert_eq!(config(Some("none"), &[]).unwrap().driver, LogDriver::None);
        for (driver, option) in [
            (Some("syslog"), None),
            (None, Some("max-size=-1")),
            (None, Some("max-size=x")),
            (None, Some("max-file=0")),
            (None, Some("colour=red")),
            (None, Some("max-size")),
            (Some("none"), Some("max-size=1m")),
        ] {
            let options: Vec<String> = option.map(str::to_owned).into_iter().collect();
            config(driver, &options).expect_err(&format!("{driver:?} {option:?}"));
        }
    }
}
