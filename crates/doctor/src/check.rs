//! How a check is put together.

use crate::{Check, Section, State};

impl Check {
    /// Something that is there and works.
    pub(crate) fn ok(section: Section, name: &str, found: impl Into<String>) -> Check {
        Check {
            section,
            name: name.to_owned(),
            state: State::Ok,
            found: found.into(),
            meaning: String::new(),
            needed_by: Vec::new(),
            remedy: None,
        }
    }

    /// Something that is there if `is_there`.
    pub(crate) fn there(section: Section, name: &str, is_there: bool) -> Check {
        let found = if is_there { "there" } else { "not there" };
        Check::ok(section, name, found).or_state(is_there, State::Missing)
    }

    /// In another state unless `holds`.
    pub(crate) fn or_state(mut self, holds: bool, state: State) -> Check {
        if !holds {
            self.state = state;
        }
        self
    }

    pub(crate) fn meaning(mut self, meaning: &str, needed_by: &[&str]) -> Check {
        meaning.clone_into(&mut self.meaning);
        self.needed_by = needed_by.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// What to do, kept only where something is to do.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Check {
        if matches!(self.state, State::Missing | State::Unusable) {
            self.remedy = Some(remedy.into());
        }
        self
    }
}
