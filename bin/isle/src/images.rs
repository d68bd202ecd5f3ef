//! Images as instances need them: found, pulled when missing, looked into.

use isle_engine::config::HealthCheck;
use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::instance::InstanceFlags;

/// The image that an instance is made of.
pub struct Found {
    /// The store's id of it.
    pub id: String,
}

/// Finds the image, or pulls it, as the flags say.
pub fn resolve(_context: &Context, name: &str, _flags: &InstanceFlags) -> Result<Found> {
    Err(Failure::new(format!("no such image: {name}")).into())
}

/// The health check that the image asks for.
pub fn health_check(_context: &Context, _id: &str) -> Result<Option<HealthCheck>> {
    Ok(None)
}

/// An image as `docker image inspect` shows it; `None` when there is none of that name.
pub fn inspect(_context: &Context, _name: &str) -> Result<Option<Value>> {
    Ok(None)
}

/// Bytes of an image's files.
pub fn size(_context: &Context, _id: &str) -> Result<u64> {
    Ok(0)
}

/// The names of all images.
pub fn names(_context: &Context) -> Result<Vec<String>> {
    Ok(Vec::new())
}
