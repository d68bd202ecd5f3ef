//! Durations in Go's notation, which Docker's flags and files use: `1m30s`, `500ms`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {text:?}: expected a form like 30s, 1m30s or 500ms")]
pub struct DurationError {
    text: String,
}

/// Parses Go's `time.ParseDuration` without the sign: `1h15m30.5s`, `0`.
///
/// # Errors
/// [`DurationError`] when the text has another form or does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let fail = || DurationError {
        text: text.to_owned(),
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(fail)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds_a_unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(fail()),
        };
        let number: f64 = number.parse().map_err(|_| fail())?;
        let part = Duration::try_from_secs_f64(number * seconds_a_unit).map_err(|_| fail())?;
        total = total.checked_add(part).ok_or_else(fail)?;
        rest = tail;
    }
    Ok(total)
}

/// Prints a duration as Go's `Duration.String` does: `1m30s`, `1.5s`, `250ms`, `0s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let trim = |value: f64| format!("{value}");
    match nanos {
        0 => return "0s".to_owned(),
        1..=999 => return format!("{nanos}ns"),
        1_000..=999_999 => return format!("{}µs", trim(nanos as f64 / 1e3)),
        1_000_000..=999_999_999 => return format!("{}ms", trim(nanos as f64 / 1e6)),
        _ => {}
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = (seconds % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{}s", trim(rest)),
        (0, m) => format!("{m}m{}s", trim(rest)),
        (h, m) => format!("{h}h{m}m{}s", trim(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_both_ways_like_go() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("1m30s", 90.0),
            ("500ms", 0.5),
            ("1h0m0s", 3600.0),
            ("1.5s", 1.5),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration.as_secs_f64(), seconds, "{text}");
            assert_eq!(format_duration(duration), text);
        }
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "5x",
            "-3s",
            "1m30",
            "99999999999999999999h",
            "1.2.3s",
        ] {
            parse_duration(text).expect_err(text);
        }
    }
}
