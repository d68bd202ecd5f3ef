//! Makes an image of an instance.

use isle_types::InstanceId;

use super::{CommitRequest, Engine, EngineError};

impl Engine {
    /// Makes an image of its root file system; returns the image's id.
    ///
    /// # Errors
    /// When the layer cannot be read or stored.
    pub fn commit(
        &self,
        _id: &InstanceId,
        _request: &CommitRequest,
    ) -> Result<String, EngineError> {
        todo!()
    }
}
