//! What a health check's results mean, and when the next one is due. Pure.

use std::time::{Duration, Instant};

use crate::config::{HealthCheck, HealthTest};
use crate::state::{Health, HealthResult, HealthStatus};

/// So many results are kept.
const KEPT: usize = 5;
/// So many bytes of a check's output are kept.
pub(super) const OUTPUT_KEPT: usize = 4096;

/// The verdict on one run of an instance, and how it came about.
#[derive(Debug)]
pub(super) struct Monitor {
    check: HealthCheck,
    started: Instant,
    /// When the next check begins; `None` while one runs.
    pub(super) due: Option<Instant>,
}

impl Monitor {
    /// A monitor for a run that begins now; `None` when there is nothing to check.
    pub(super) fn new(check: &HealthCheck, now: Instant) -> Option<(Monitor, Health)> {
        if check.test == HealthTest::Disabled {
            return None;
        }
        let mut monitor = Monitor {
            check: check.clone(),
            started: now,
            due: None,
        };
        let health = Health {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: Vec::new(),
        };
        monitor.schedule(&health, now);
        Some((monitor, health))
    }

    /// The command of a check.
    pub(super) fn args(&self) -> Vec<String> {
        match &self.check.test {
            HealthTest::Disabled => Vec::new(),
            HealthTest::Command(args) => args.clone(),
            HealthTest::Shell(line) => {
                vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
            }
        }
    }

    pub(super) fn check(&self) -> &HealthCheck {
        &self.check
    }

    /// Sets the time of the next check.
    pub(super) fn schedule(&mut self, health: &Health, now: Instant) {
        let is_starting = health.status == HealthStatus::Starting && self.is_start_period(now);
        let wait = match is_starting {
            true => self.check.start_interval.min(self.check.interval),
            false => self.check.interval,
        };
        // A check without a pause would occupy a CPU.
        self.due = now.checked_add(wait.max(Duration::from_millis(1)));
    }

    /// Takes a result in; returns the verdict when it has changed.
    pub(super) fn take(
        &self,
        health: &mut Health,
        result: HealthResult,
        now: Instant,
    ) -> Option<HealthStatus> {
        let before = health.status;
        match result.exit_code {
            0 => {
                health.failing_streak = 0;
                health.status = HealthStatus::Healthy;
            }
            // Not ready yet, and nobody has expected it to be.
            _ if before == HealthStatus::Starting && self.is_start_period(now) => {}
            _ => {
                health.failing_streak += 1;
                if health.failing_streak >= self.check.retries.max(1) {
                    health.status = HealthStatus::Unhealthy;
                }
            }
        }
        health.log.push(result);
        let surplus = health.log.len().saturating_sub(KEPT);
        health.log.drain(..surplus);
        (health.status != before).then_some(health.status)
    }

    fn is_start_period(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) < self.check.start_period
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::config::OnUnhealthy;

    fn check() -> HealthCheck {
        HealthCheck {
            test: HealthTest::Shell("true".to_owned()),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::from_secs(60),
            start_interval: Duration::from_secs(5),
            retries: 3,
            on_unhealthy: OnUnhealthy::None,
        }
    }

    fn result(exit_code: i32) -> HealthResult {
        HealthResult {
            start: Timestamp::UNIX_EPOCH,
            end: Timestamp::UNIX_EPOCH,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn the_start_period_forgives_failures_and_looks_more_often() {
        let start = Instant::now();
        let (mut monitor, mut health) = Monitor::new(&check(), start).unwrap();
        assert_eq!(monitor.due, Some(start + Duration::from_secs(5)));
        for second in [5, 10, 15, 20] {
            let now = start + Duration::from_secs(second);
            assert_eq!(monitor.take(&mut health, result(1), now), None);
            assert_eq!(health.failing_streak, 0);
        }
        let now = start + Duration::from_secs(25);
        let changed = monitor.take(&mut health, result(0), now);
        assert_eq!(changed, Some(HealthStatus::Healthy));
        monitor.schedule(&health, now);
        assert_eq!(monitor.due, Some(now + Duration::from_secs(30)));
        // Once healthy, failures count, start period or not.
        assert_eq!(monitor.take(&mut health, result(1), now), None);
        assert_eq!(monitor.take(&mut health, result(-1), now), None);
        let changed = monitor.take(&mut health, result(1), now);
        assert_eq!(changed, Some(HealthStatus::Unhealthy));
        assert_eq!(health.failing_streak, 3);
        let changed = monitor.take(&mut health, result(0), now);
        assert_eq!(changed, Some(HealthStatus::Healthy));
        assert_eq!((health.failing_streak, health.log.len()), (0, 5));
    }

    #[test]
    fn a_disabled_check_is_none() {
        let mut check = check();
        check.test = HealthTest::Disabled;
        assert!(Monitor::new(&check, Instant::now()).is_none());
    }
}
