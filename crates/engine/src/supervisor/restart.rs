//! When an instance is started again, and how long that waits. Pure.

use std::time::Duration;

use crate::config::RestartPolicy;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run that has lasted so long counts as a success: the next wait is short again.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// The waits between one end and the next start: 100 ms, doubling up to a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackOff {
    next: Duration,
}

impl BackOff {
    pub(super) const fn new() -> BackOff {
        BackOff { next: FIRST_DELAY }
    }

    /// How long to wait after a run that has lasted so long.
    pub(super) fn after(&mut self, run: Duration) -> Duration {
        if run >= LONG_ENOUGH {
            self.next = FIRST_DELAY;
        }
        let delay = self.next;
        self.next = (delay * 2).min(LONGEST_DELAY);
        delay
    }
}

/// Does the policy start an instance again that has ended so?
pub(super) const fn restarts(
    policy: RestartPolicy,
    exit_code: i32,
    restart_count: u32,
    is_stopped_by_user: bool,
) -> bool {
    if is_stopped_by_user {
        return false;
    }
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_retries: None } => exit_code != 0,
        RestartPolicy::OnFailure {
            max_retries: Some(most),
        } => exit_code != 0 && restart_count < most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_anew_after_a_long_run() {
        let mut back_off = BackOff::new();
        let short = Duration::from_secs(1);
        let waits: Vec<u128> = (0..12).map(|_| back_off.after(short).as_millis()).collect();
        assert_eq!(
            waits,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000
            ]
        );
        assert_eq!(back_off.after(LONG_ENOUGH), FIRST_DELAY);
        assert_eq!(back_off.after(short), FIRST_DELAY * 2);
    }

    #[test]
    fn each_policy_restarts_what_it_promises() {
        let on_failure = |max_retries| RestartPolicy::OnFailure { max_retries };
        #[rustfmt::skip]
        let table = [
            // policy, code, restarts so far, stopped by the user: again?
            (RestartPolicy::No, 1, 0, false, false),
            (RestartPolicy::Always, 0, 99, false, true),
            (RestartPolicy::Always, 0, 0, true, false),
            (RestartPolicy::UnlessStopped, 137, 5, false, true),
            (RestartPolicy::UnlessStopped, 0, 0, true, false),
            (on_failure(None), 0, 0, false, false),
            (on_failure(None), 1, 1000, false, true),
            (on_failure(Some(2)), 1, 1, false, true),
            (on_failure(Some(2)), 1, 2, false, false),
            (on_failure(Some(2)), 0, 0, false, false),
            (on_failure(None), 143, 0, true, false),
        ];
        for (policy, code, count, stopped, expected) in table {
            assert_eq!(
                restarts(policy, code, count, stopped),
                expected,
                "{policy:?} {code} {count} {stopped}"
            );
        }
    }
}
