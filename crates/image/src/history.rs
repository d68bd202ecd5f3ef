//! `history`: how an image was made, step by step.

use jiff::Timestamp;

use crate::digest::Digest;
use crate::image::Image;
use crate::store::{Store, StoreError};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image that the step led to, where it is known: only for the last one.
    pub id: Option<Digest>,
    /// When.
    pub created: Option<Timestamp>,
    /// The command.
    pub created_by: String,
    /// Who.
    pub author: String,
    /// A remark.
    pub comment: String,
    /// Bytes of the files of its layer; 0 for a step that only changed the configuration.
    pub size: u64,
    /// The names of the image, for the last step.
    pub tags: Vec<String>,
}

impl Store {
    /// The steps that led to the image, newest first.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn history(&self, image: &Image) -> Result<Vec<HistoryEntry>, StoreError> {
        let mut statement = self.database.connection().prepare_cached(
            "SELECT layer.size FROM image_layer JOIN layer ON layer.id = image_layer.layer
             WHERE image = ?1 ORDER BY position",
        )?;
        let mut sizes = statement
            .query_map([image.id.as_str()], |row| row.get::<_, u64>(0))?
            .collect::<Result<Vec<_>, _>>()?
            .into_iter();
        let mut entries = Vec::new();
        for step in image.config.history().iter().flatten() {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            entries.push(HistoryEntry {
                id: None,
                created: step.created().as_deref().and_then(|time| time.parse().ok()),
                created_by: text(step.created_by()),
                author: text(step.author()),
                comment: text(step.comment()),
                size: match step.empty_layer() {
                    Some(true) => 0,
                    _ => sizes.next().unwrap_or(0),
                },
                tags: Vec::new(),
            });
        }
        // Layers that the history does not speak of.
        for size in sizes {
            entries.push(HistoryEntry {
                id: None,
                created: image.created,
                created_by: String::new(),
                author: String::new(),
                comment: String::new(),
                size,
                tags: Vec::new(),
            });
        }
        entries.reverse();
        if let Some(newest) = entries.first_mut() {
            newest.id = Some(image.id.clone());
            newest.tags.clone_from(&image.repo_tags);
        }
        Ok(entries)
    }
}
