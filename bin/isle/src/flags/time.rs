//! `--since`, `--until`, `--time`.

use std::time::Duration;

use isle_types::parse_duration;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::FlagError;

/// A moment: RFC 3339, a date or time without zone (local), seconds since 1970 with a fraction,
/// or a duration back from now like `10m`.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp, FlagError> {
    let fail = || {
        FlagError::new(
            format!("{text:?} is not a time"),
            "write 2026-11-21T10:00:00Z, 2026-11-21, seconds since 1970, or 10m for ten minutes ago",
        )
    };
    if let Ok(duration) = parse_duration(text)
        && !text.bytes().all(|b| b.is_ascii_digit())
    {
        let back = SignedDuration::try_from(duration).map_err(|_| fail())?;
        return now.checked_sub(back).map_err(|_| fail());
    }
    let is_number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_number && text.parse::<f64>().is_ok() {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let nanos = format!("{fraction:0<9}");
        let seconds = seconds.parse().map_err(|_| fail())?;
        let nanos = nanos[..9].parse().map_err(|_| fail())?;
        return Timestamp::new(seconds, nanos).map_err(|_| fail());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let local: DateTime = text.parse().map_err(|_| fail())?;
    local
        .to_zoned(TimeZone::system())
        .map(|zoned| zoned.timestamp())
        .map_err(|_| fail())
}

/// `moment` seen from now, for clap.
pub fn past_moment(text: &str) -> Result<Timestamp, FlagError> {
    moment(text, Timestamp::now())
}

/// Some 136 years: long enough, and still a moment that clocks can reach.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// `-t 10`: whole seconds; `-1` waits for ever.
pub fn seconds(text: &str) -> Result<Duration, FlagError> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(FOR_EVER),
        Ok(seconds @ 0..) => Ok(Duration::from_secs(seconds.unsigned_abs())),
        _ => Err(FlagError::new(
            format!("{text:?} is not a number of seconds"),
            "write for example 10, or -1 to wait for ever",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_absolute_or_back_from_now() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let at = |text: &str| moment(text, now).unwrap().to_string();
        assert_eq!(at("10m"), "2026-11-21T11:50:00Z");
        assert_eq!(at("1h30m"), "2026-11-21T10:30:00Z");
        assert_eq!(at("2026-11-21T10:00:00Z"), "2026-11-21T10:00:00Z");
        assert_eq!(at("2026-11-21T10:00:00+02:00"), "2026-11-21T08:00:00Z");
        assert_eq!(at("0"), "1970-01-01T00:00:00Z");
        assert_eq!(at("1700000000.25"), "2023-11-14T22:13:20.25Z");
        moment("2026-11-21", now).unwrap();
        moment("2026-11-21T10:00:00", now).unwrap();
        for text in ["", "yesterday", "10x", "2026-13-01", "1.2.3"] {
            moment(text, now).expect_err(text);
        }
        assert_eq!(seconds("-1"), Ok(FOR_EVER));
        seconds("-2").unwrap_err();
        seconds("1.5").unwrap_err();
    }
}
