//! The STATUS column: `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`.

use isle_engine::state::{ExitReason, HealthStatus, InstanceState, MemoryOf, Status};
use isle_format::human;
use jiff::Timestamp;

/// The status in Docker's words, seen from a moment.
#[must_use]
pub fn text(state: &InstanceState, now: Timestamp) -> String {
    let up = || {
        let since = state.started_at.unwrap_or(now);
        format!("Up {}", human::duration(human::elapsed(since, now)))
    };
    let code = state.exit.as_ref().map_or(0, |exit| exit.code);
    let ended_ago = || human::ago(state.finished_at.unwrap_or(now), now);
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Paused => format!("{} (Paused)", up()),
        Status::Restarting => format!("Restarting ({code}) {}", ended_ago()),
        Status::Exited => format!("Exited ({code}) {}{}", ended_ago(), out_of_memory(state)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Running => match state.health.as_ref().map(|health| health.status) {
            None => up(),
            Some(HealthStatus::Starting) => format!("{} (health: starting)", up()),
            Some(HealthStatus::Healthy) => format!("{} (healthy)", up()),
            Some(HealthStatus::Unhealthy) => format!("{} (unhealthy)", up()),
        },
    }
}

/// Which memory ran out, when that has ended it and it was not the instance's own limit, which is what Docker means by
/// code 137.
fn out_of_memory(state: &InstanceState) -> String {
    match state.exit.as_ref().map(|exit| &exit.reason) {
        Some(ExitReason::OutOfMemory {
            whose: Some(whose), ..
        }) if *whose != MemoryOf::Instance => format!(" (out of memory: {})", whose.word()),
        _ => String::new(),
    }
}

/// Docker's one word for a status: `running`.
#[must_use]
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Exited => "exited",
        Status::Removing => "removing",
    }
}

/// Docker's word for a verdict; `none` without a health check.
#[must_use]
pub fn health_word(state: &InstanceState) -> &'static str {
    match state.health.as_ref().map(|health| health.status) {
        None => "none",
        Some(HealthStatus::Starting) => "starting",
        Some(HealthStatus::Healthy) => "healthy",
        Some(HealthStatus::Unhealthy) => "unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isle_engine::state::{Exit, ExitReason, Health};

    #[test]
    fn every_status_reads_as_docker_says_it() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let three_minutes_ago = Some(now - jiff::SignedDuration::from_mins(3));
        let state = |status, code, health| InstanceState {
            networks: Vec::new(),
            ports: Vec::new(),
            status,
            pid: None,
            accelerator: None,
            started_at: three_minutes_ago,
            finished_at: three_minutes_ago,
            exit: Some(Exit {
                code,
                reason: ExitReason::Exited,
            }),
            restart_count: 0,
            is_stopped_by_user: false,
            health: Option::map(health, |status| Health {
                status,
                failing_streak: 0,
                log: Vec::new(),
            }),
        };
        for (status, code, health, expected) in [
            (Status::Created, 0, None, "Created"),
            (Status::Running, 0, None, "Up 3 minutes"),
            (
                Status::Running,
                0,
                Some(HealthStatus::Healthy),
                "Up 3 minutes (healthy)",
            ),
            (
                Status::Running,
                0,
                Some(HealthStatus::Starting),
                "Up 3 minutes (health: starting)",
            ),
            (
                Status::Paused,
                0,
                Some(HealthStatus::Healthy),
                "Up 3 minutes (Paused)",
            ),
            (Status::Restarting, 1, None, "Restarting (1) 3 minutes ago"),
            (Status::Exited, 137, None, "Exited (137) 3 minutes ago"),
            (Status::Removing, 0, None, "Removal In Progress"),
        ] {
            assert_eq!(text(&state(status, code, health), now), expected);
        }
    }
}
