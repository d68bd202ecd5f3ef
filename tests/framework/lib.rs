//! What the end-to-end tests stand on.
//!
//! A test is a function that gets a [`World`]: a state root of its own, in which it runs the real
//! `isle`. When it ends, everything it made is removed and the world is searched for what should
//! not be there any more: processes, mounts, control groups, files. Whatever is found fails the test.
//!
//! Each test runs once per isolation level ([`Level`]). What a test needs of the host it
//! says ([`Need`]); where the host lacks it, the test is skipped, with the reason, and counted.
//!
//! ```ignore
//! isle_tests::stories! {
//!     the_exit_code_of_the_program_is_the_exit_code_of_run,
//!     a_memory_limit_ends_the_program [Need::CgroupMemory],
//! }
//!
//! fn the_exit_code_of_the_program_is_the_exit_code_of_run(world: &World) {
//!     world.isle(["run", "--rm", &world.busybox(), "sh", "-c", "exit 7"]).exits_with(7);
//! }
//! ```
//!
//! `ISLE_TEST_REFERENCE=podman` runs the tests against Podman instead, but for those that
//! [need Isle](Need::Isle): a test that fails on the reference is a wrong test.

#![forbid(unsafe_code)]

mod disk;
mod engine_host;
mod invocation;
mod leaks;
mod level;
mod need;
mod network;
pub mod peers;
mod story;
mod terminal;
mod user;
mod wait;
mod world;

pub use disk::disk_below;
pub use engine_host::{EngineHost, howto};
pub use invocation::{Invocation, Outcome, Running};
pub use leaks::namespaces_held;
pub use level::Level;
pub use need::Need;
pub use network::{NEIGHBOUR, ON_WIRE};
pub use story::{Story, main};
pub use terminal::Terminal;
pub use wait::{PATIENCE, wait_for};
pub use world::{World, guest_kernels};
