//! `--filter KEY=VALUE`: values of one key are alternatives, keys all have to fit, as in Docker.

use std::collections::BTreeMap;

use super::FlagError;

/// The filters of one command.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    by_key: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// From the texts of all `--filter`; only the given keys are known.
    pub fn parse(texts: &[String], known: &[&str]) -> Result<Filters, FlagError> {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                FlagError::new(
                    format!("filter {text:?} has no KEY=VALUE form"),
                    format!("write for example {}=VALUE", known[0]),
                )
            })?;
            let key = key.trim().to_ascii_lowercase();
            if !known.contains(&key.as_str()) {
                return Err(FlagError::new(
                    format!("filter {key:?} is not known here"),
                    format!("known are {}", known.join(", ")),
                ));
            }
            by_key.entry(key).or_default().push(value.trim().to_owned());
        }
        Ok(Filters { by_key })
    }

    /// The values given for a key.
    pub fn values(&self, key: &str) -> &[String] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether the key was not given, or a value of it fits.
    pub fn fits(&self, key: &str, mut fits: impl FnMut(&str) -> bool) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(|value| fits(value))
    }

    /// Whether all labels asked for are there: `label=key` or `label=key=value`. Of this key, all
    /// values have to fit.
    pub fn labels_fit(&self, labels: &BTreeMap<String, String>) -> bool {
        self.values("label")
            .iter()
            .all(|wanted| has_label(labels, wanted))
    }

    /// Whether none of the labels of a key that excludes (`label!`) is there.
    pub fn no_label_fits(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.values(key).iter().any(|text| has_label(labels, text))
    }

    /// The one value that a key may have, parsed.
    pub fn each<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, FlagError>,
    ) -> Result<Vec<T>, FlagError> {
        self.values(key).iter().map(|value| parse(value)).collect()
    }
}

/// `key`, or `key=value`.
fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

/// Docker matches names and ids by a regular expression; what people write are parts, with `^` and
/// `$` to anchor them.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let (pattern, at_start) = match pattern.strip_prefix('^') {
        // Names have a leading slash there: `^/web$`.
        Some(rest) => (rest.strip_prefix('/').unwrap_or(rest), true),
        None => (pattern.strip_prefix('/').unwrap_or(pattern), false),
    };
    let (pattern, at_end) = match pattern.strip_suffix('$') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    match (at_start, at_end) {
        (true, true) => text == pattern,
        (true, false) => text.starts_with(pattern),
        (false, true) => text.ends_with(pattern),
        (false, false) => text.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_key_are_alternatives_and_keys_all_have_to_fit() {
        let texts = ["name=web", "name=db", "label=a", "label=b=1"].map(str::to_owned);
        let filters = Filters::parse(&texts, &["name", "label"]).unwrap();
        assert!(filters.fits("name", |value| value == "db"));
        assert!(!filters.fits("name", |value| value == "x"));
        assert!(filters.fits("status", |_| false), "not asked for");
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        assert!(filters.labels_fit(&labels(&[("a", "x"), ("b", "1")])));
        assert!(!filters.labels_fit(&labels(&[("a", "x"), ("b", "2")])));
        Filters::parse(&["nonsense".into()], &["name"]).unwrap_err();
        Filters::parse(&["colour=red".into()], &["name"]).unwrap_err();
    }

    #[test]
    fn names_match_by_part_or_anchored() {
        assert!(matches_pattern("eb", "web"));
        assert!(matches_pattern("^/web$", "web"));
        assert!(matches_pattern("^we", "web"));
        assert!(!matches_pattern("^eb", "web"));
        assert!(!matches_pattern("^web$", "web2"));
    }
}
