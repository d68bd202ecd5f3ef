//! Times and sizes in the words that Docker's lists use (go-units).

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `Less than a second`, `3 minutes`, `About an hour`, `2 weeks`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // To the nearest hour, as go-units has it.
    let hours = (duration.as_secs_f64() / 3600.0 + 0.5) as u64;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// From one moment to another; nothing when the clock was set back in between.
#[must_use]
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// `3 minutes ago`.
#[must_use]
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration(elapsed(then, now)))
}

/// Decimal units with so many significant digits: `1.45GB`, `142MB`, `0B`.
#[must_use]
pub fn size(bytes: u64, digits: usize) -> String {
    scaled(
        bytes as f64,
        1000.0,
        digits,
        &["B", "kB", "MB", "GB", "TB", "PB", "EB"],
    )
}

/// Binary units with four significant digits, as `stats` shows memory: `1.5GiB`.
#[must_use]
pub fn binary_size(bytes: u64) -> String {
    scaled(
        bytes as f64,
        1024.0,
        4,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
    )
}

fn scaled(mut value: f64, base: f64, digits: usize, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let whole_digits = (value.max(1.0).log10().floor() as usize) + 1;
    let decimals = digits.saturating_sub(whole_digits);
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text.as_str(),
    };
    format!("{text}{}", units[unit])
}

/// As Go's `Time.String` in the local time zone: `2026-11-21 12:00:44 +0000 UTC`.
#[must_use]
pub fn local_time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S %z %Z")
        .to_string()
}

/// RFC 3339 with nine digits of a second, as Docker's API and `logs -t` write times.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_docker_says_them() {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3 * MINUTE, "3 minutes"),
            (59 * MINUTE, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 29 * MINUTE, "About an hour"),
            (HOUR + 31 * MINUTE, "2 hours"),
            (47 * HOUR, "47 hours"),
            (3 * DAY, "3 days"),
            (15 * DAY, "2 weeks"),
            (70 * DAY, "2 months"),
            (3 * 365 * DAY, "3 years"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn sizes_have_dockers_digits_and_units() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (5_590_000, "5.59MB"),
            (142_345_678, "142MB"),
            (1_450_000_000, "1.45GB"),
            (999_900_000, "1000MB"),
        ] {
            assert_eq!(size(bytes, 3), expected);
        }
        assert_eq!(size(1_234_567, 4), "1.235MB");
        assert_eq!(binary_size(1536 << 20), "1.5GiB");
        assert_eq!(binary_size(0), "0B");
    }

    #[test]
    fn times_are_written_as_the_api_writes_them() {
        let time: Timestamp = "2026-11-21T12:00:44.5Z".parse().unwrap();
        assert_eq!(rfc3339(time), "2026-11-21T12:00:44.500000000Z");
        let later = time + jiff::SignedDuration::from_mins(3);
        assert_eq!(ago(time, later), "3 minutes ago");
        assert_eq!(ago(later, time), "Less than a second ago");
    }
}
