//! Files of version 2 by name.
//!
//! See <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#unified>.

use std::collections::HashMap;

use super::Settings;
use crate::{Error, Version};

const LIMIT: &str = "unified";

pub(super) fn plan(
    unified: &HashMap<String, String>,
    settings: &mut Settings<'_>,
) -> Result<(), Error> {
    let mut files: Vec<_> = unified.iter().collect();
    files.sort();
    for (file, value) in files {
        let is_name = !file.is_empty()
            && file
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
            && file.contains('.')
            && !file.starts_with('.');
        if !is_name {
            return Err(Error::Invalid {
                limit: LIMIT,
                value: file.clone(),
                expected: "the name of a version 2 file like memory.high",
            });
        }
        if settings.layout.hierarchy("").is_none() {
            return Err(Error::NotInVersion {
                limit: LIMIT,
                version: Version::V1,
            });
        }
        // Files with a line for each device take one line a write.
        for line in value.lines() {
            settings.push(("", Version::V2), LIMIT, file.clone(), line);
        }
    }
    Ok(())
}
