//! `isle images`, `isle image ls`.

use std::collections::BTreeMap;

use isle_format::{Column, Row, human, column};
use isle_image::Image;
use jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::Filters;
use crate::output::{self, ListFlags};

pub const ABOUT: &str = "List images";
pub const EXAMPLES: &str = "  isle images
  isle images --filter dangling=true -q
  isle images --format '{{.Repository}}:{{.Tag}} {{.Size}}' 'debian*'";

/// Flags of `images`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// All of them (there are no hidden ones; taken as Docker takes it)
    #[arg(short, long)]
    all: bool,
    /// What registries call them
    #[arg(long)]
    digests: bool,
    /// Only those that fit: dangling, label, before, since, reference
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Without the title line
    #[arg(long)]
    no_headers: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only those of this name, which may have * in it
    #[arg(value_name = "IMAGE")]
    name: Option<String>,
}

const PLAIN: &[Column] = &[
    column("Repository", "REPOSITORY"),
    column("Tag", "TAG"),
    column("ID", "IMAGE ID"),
    column("CreatedSince", "CREATED"),
    column("Size", "SIZE"),
];
const WITH_DIGESTS: &[Column] = &[
    column("Repository", "REPOSITORY"),
    column("Tag", "TAG"),
    column("Digest", "DIGEST"),
    column("ID", "IMAGE ID"),
    column("CreatedSince", "CREATED"),
    column("Size", "SIZE"),
];
const COLUMNS: &[Column] = &[
    column("Repository", "REPOSITORY"),
    column("Tag", "TAG"),
    column("Digest", "DIGEST"),
    column("ID", "IMAGE ID"),
    column("CreatedSince", "CREATED"),
    column("CreatedAt", "CREATED AT"),
    column("Size", "SIZE"),
    column("Containers", "CONTAINERS"),
    column("Platform", "PLATFORM"),
];

pub fn run(args: &Args, context: &Context) -> Result {
    let known = ["dangling", "label", "before", "since", "reference"];
    let filters = Filters::parse(&args.filter, &known)?;
    let dangling = filters.each("dangling", crate::flags::switch)?;
    let list = ListFlags {
        format: args.format.as_deref(),
        only: args.quiet.then_some("ID"),
        without_titles: args.no_headers,
    };
    let default = if args.digests { WITH_DIGESTS } else { PLAIN };
    let listing = list.listing(default)?;
    let engine = context.engine()?;
    let store = engine.images();
    let anchor = |key: &str| -> Result<Option<Timestamp>> {
        match filters.values(key).first() {
            Some(name) => Ok(store.find(name)?.created),
            None => Ok(None),
        }
    };
    let (before, since) = (anchor("before")?, anchor("since")?);
    let users = match listing.mentions("Containers") {
        true => engine.list()?,
        false => Vec::new(),
    };
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for image in store.images()? {
        let labels: BTreeMap<String, String> = image
            .labels()
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let fits = dangling.iter().all(|wanted| *wanted == image.is_dangling())
            && filters.labels_fit(&labels)
            && before.is_none_or(|moment| image.created.is_some_and(|time| time < moment))
            && since.is_none_or(|moment| image.created.is_some_and(|time| time > moment));
        if !fits {
            continue;
        }
        let id = image.id.to_string();
        let uses = users.iter().filter(|user| user.image_id == id).count();
        for name in names(&image) {
            let is_wanted = filters.fits("reference", |pattern| names_fit(pattern, &name))
                && args
                    .name
                    .as_deref()
                    .is_none_or(|pattern| names_fit(pattern, &name));
            if is_wanted {
                rows.push(Row {
                    labels: labels.clone(),
                    ..row(&image, &name, args, uses, now)
                });
            }
        }
    }
    if args.quiet {
        // One image with two names has one id.
        rows.dedup_by(|left, right| left.fields.get("ID") == right.fields.get("ID"));
    }
    output::list(&listing, COLUMNS, &rows)
}

/// Repository and tag of every name; one of each that is `<none>` for an image without.
fn names(image: &Image) -> Vec<(String, String)> {
    let none = || "<none>".to_owned();
    let mut names: Vec<(String, String)> = image
        .repo_tags
        .iter()
        .filter_map(|name| name.rsplit_once(':'))
        .map(|(repository, tag)| (repository.to_owned(), tag.to_owned()))
        .collect();
    if names.is_empty() {
        let digest = image.repo_digests.first();
        let repository = digest.and_then(|name| name.split_once('@'));
        let repository = repository.map_or_else(none, |(repository, _)| repository.to_owned());
        names.push((repository, none()));
    }
    names
}

/// `deb*`, `debian:12`, `debian`: a pattern without tag fits any tag.
fn names_fit(pattern: &str, (repository, tag): &(String, String)) -> bool {
    let full = format!("{repository}:{tag}");
    let last = repository.rsplit('/').next().unwrap_or(repository);
    [full.as_str(), repository, &format!("{last}:{tag}"), last]
        .iter()
        .any(|text| glob(pattern.as_bytes(), text.as_bytes()))
}

/// `*` is any text without a slash, `?` any one character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text)
                || text
                    .split_first()
                    .is_some_and(|(c, left)| *c != b'/' && glob(pattern, left))
        }
        (Some((b'?', rest)), Some((c, left))) => *c != b'/' && glob(rest, left),
        (Some((wanted, rest)), Some((c, left))) => wanted == c && glob(rest, left),
        _ => false,
    }
}

fn row(
    image: &Image,
    (repository, tag): &(String, String),
    args: &Args,
    uses: usize,
    now: Timestamp,
) -> Row {
    let prefix = format!("{repository}@");
    let digest = image
        .repo_digests
        .iter()
        .find_map(|name| name.strip_prefix(&prefix));
    let id = match args.no_trunc {
        true => image.id.to_string(),
        false => image.short_id().to_owned(),
    };
    let since = image
        .created
        .map_or_else(|| "N/A".to_owned(), |time| human::ago(time, now));
    let at = image.created.map(human::local_time).unwrap_or_default();
    Row::new([
        ("Repository", json!(repository)),
        ("Tag", json!(tag)),
        ("Digest", json!(digest.unwrap_or("<none>"))),
        ("ID", json!(id)),
        ("CreatedSince", json!(since)),
        ("CreatedAt", json!(at)),
        ("Size", json!(human::size(image.size, 3))),
        ("Containers", json!(uses.to_string())),
        ("Platform", json!(image.platform.to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names_with_and_without_tag() {
        let debian = ("debian".to_owned(), "12".to_owned());
        let own = ("ghcr.io/team/web".to_owned(), "1".to_owned());
        for (pattern, name, expected) in [
            ("debian", &debian, true),
            ("debian:12", &debian, true),
            ("debian:11", &debian, false),
            ("deb*", &debian, true),
            ("*:12", &debian, true),
            ("d?bian", &debian, true),
            ("ubuntu", &debian, false),
            ("web", &own, true),
            ("ghcr.io/team/web", &own, true),
            ("ghcr.io/*/web:1", &own, true),
            ("ghcr.io/*", &own, false),
        ] {
            assert_eq!(names_fit(pattern, name), expected, "{pattern}");
        }
    }
}
