//! `--ulimit name=soft[:hard]`.

use isle_engine::config::Ulimit;

use super::FlagError;

const NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A limit of setrlimit(2); `-1` and `unlimited` have no end.
pub fn ulimit(text: &str) -> Result<Ulimit, FlagError> {
    let shape = || {
        FlagError::new(
            format!("{text:?} has no NAME=SOFT[:HARD] form"),
            "write for example nofile=1024:2048",
        )
    };
    let (name, values) = text.split_once('=').ok_or_else(shape)?;
    if !NAMES.contains(&name) {
        return Err(FlagError::new(
            format!("ulimit {name:?} is not known"),
            format!("known are {}", NAMES.join(", ")),
        ));
    }
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(-1),
        digits => digits
            .parse::<i64>()
            .ok()
            .filter(|value| *value >= 0)
            .ok_or_else(shape),
    };
    let (soft, hard) = match values.split_once(':') {
        None => (value(values)?, value(values)?),
        Some((soft, hard)) => (value(soft)?, value(hard)?),
    };
    let is_above = hard != -1 && (soft == -1 || soft > hard);
    match is_above {
        true => Err(FlagError::new(
            format!("the soft limit of {text:?} is above the hard one"),
            "write the smaller number first",
        )),
        false => Ok(Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_soft_and_hard() {
        let limit = |name: &str, soft, hard| Ulimit {
            name: name.into(),
            soft,
            hard,
        };
        assert_eq!(ulimit("nofile=1024"), Ok(limit("nofile", 1024, 1024)));
        assert_eq!(ulimit("core=0:-1"), Ok(limit("core", 0, -1)));
        assert_eq!(ulimit("memlock=unlimited"), Ok(limit("memlock", -1, -1)));
        for text in [
            "",
            "nofile",
            "files=1",
            "nofile=x",
            "nofile=2:1",
            "nofile=-1:5",
            "nofile=1:2:3",
            "nofile=-2",
        ] {
            ulimit(text).expect_err(text);
        }
    }
}
