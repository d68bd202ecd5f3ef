//! Instances and images in the shapes and words of the Docker Engine API.
//!
//! Scripts read `docker inspect --format '{{.State.ExitCode}}'` and `docker ps`'s `Up 3 minutes
//! (healthy)`. This crate turns Isle's records into exactly those: [`instance::inspect`] into the JSON
//! of `GET /containers/{id}/json`, [`status::text`] into the words of the STATUS column. It is pure,
//! and shared by the command line and the API server.
//!
//! Shapes follow the Engine API, version 1.43. Where Isle knows more, the key is its own and stands
//! at the end (`Isolation`); keys of what Isle does not have are there with Docker's empty value, so that
//! templates do not fail.

#![forbid(unsafe_code)]
// The one `json!` of HostConfig has more keys than the default allows.
#![recursion_limit = "256"]

mod config;
mod host_config;
pub mod image;
pub mod instance;
mod mounts;
pub mod network;
mod state;
pub mod status;
pub mod volume;

pub use config::command_line;
pub use network::mode as network_mode;
