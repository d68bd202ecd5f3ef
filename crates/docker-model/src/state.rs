//! `State` of `inspect`.

use isle_engine::state::{ExitReason, Health, InstanceState, MemoryOf, Status};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::status;

/// What Go prints for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

pub fn state(state: &InstanceState) -> Value {
    let reason = state.exit.as_ref().map(|exit| &exit.reason);
    let is_oom = matches!(reason, Some(ExitReason::OutOfMemory { .. }));
    let error = match reason {
        // As Docker, which says nothing when it is the limit that was asked for.
        Some(ExitReason::OutOfMemory { whose: Some(whose) }) if *whose != MemoryOf::Instance => {
            whose.explanation().0
        }
        Some(ExitReason::CouldNotStart { message } | ExitReason::Crashed { message }) => {
            message.as_str()
        }
        Some(ExitReason::SupervisorLost) => {
            "its supervisor was killed, and it ended while nobody watched: the exit code is not known"
        }
        Some(ExitReason::HostRebooted) => "the host was restarted under it",
        _ => "",
    };
    // Docker calls a paused or restarting instance running as well.
    let is_up = matches!(
        state.status,
        Status::Running | Status::Paused | Status::Restarting
    );
    let code = match state.status {
        Status::Running | Status::Paused => 0,
        _ => state.exit.as_ref().map_or(0, |exit| exit.code),
    };
    let mut value = json!({
        "Status": status::word(state.status),
        "Running": is_up,
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": is_oom,
        "Dead": false,
        "Pid": state.pid.unwrap_or(0),
        "ExitCode": code,
        "Error": error,
        "StartedAt": time(state.started_at),
        "FinishedAt": time(state.finished_at),
        "Health": state.health.as_ref().map(health),
    });
    if let Some(ExitReason::OutOfMemory { whose: Some(whose) }) = reason {
        value["OutOfMemory"] = json!(whose.word());
    }
    value
}

fn health(health: &Health) -> Value {
    let results: Vec<Value> = health
        .log
        .iter()
        .map(|result| {
            json!({
                "Start": result.start.to_string(),
                "End": result.end.to_string(),
                "ExitCode": result.exit_code,
                "Output": result.output,
            })
        })
        .collect();
    let verdict = match health.status {
        isle_engine::state::HealthStatus::Starting => "starting",
        isle_engine::state::HealthStatus::Healthy => "healthy",
        isle_engine::state::HealthStatus::Unhealthy => "unhealthy",
    };
    json!({
        "Status": verdict,
        "FailingStreak": health.failing_streak,
        "Log": results,
    })
}
