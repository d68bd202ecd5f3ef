//! Other programs of the field, each in a root of its own: they write images that Isle reads, read
//! images that Isle writes, and are measured beside it.

mod docker;
mod podman;
mod registry;

pub use docker::Docker;
pub use podman::Podman;
pub use registry::Registry;

/// A TCP port of the loopback address that nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("the loopback address has free ports")
        .port()
}
