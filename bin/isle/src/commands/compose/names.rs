//! Names that instances have for a moment, and how people read the others.

/// The name of an instance that is to take another one's place: as Docker Compose has it, the other's id and name.
pub fn temporary(id: &str, name: &str) -> String {
    format!("{}_{name}", &id[..id.len().min(12)])
}

/// Whether a name is such a one.
pub fn is_temporary(name: &str) -> bool {
    name.split_once('_')
        .is_some_and(|(id, _)| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A name without that of its project: `web-1`.
pub fn short<'n>(name: &'n str, project: &str) -> &'n str {
    name.strip_prefix(project)
        .and_then(|rest| rest.strip_prefix('-'))
        .unwrap_or(name)
}
