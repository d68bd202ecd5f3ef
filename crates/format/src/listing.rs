//! Rows printed in the form that `--format`, `--quiet` and `--no-headers` ask for.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::table::Table;
use crate::template::{Template, TemplateError};

/// A column that a list can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The field's name in templates: `Names`.
    pub field: &'static str,
    /// Its title in a table: `NAMES`.
    pub title: &'static str,
}

/// A column, as tables of them are written down.
#[must_use]
pub const fn column(field: &'static str, title: &'static str) -> Column {
    Column { field, title }
}

/// One row: fields by name, and labels for `.Label "key"`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Every field that a template can name.
    pub fields: Map<String, Value>,
    /// What `.Label "key"` looks up.
    pub labels: BTreeMap<String, String>,
}

impl Row {
    /// A row of these fields, without labels.
    #[must_use]
    pub fn new<const N: usize>(fields: [(&str, Value); N]) -> Row {
        let mut fields = fields
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec();
        // Docker's JSON has the fields of a list in alphabetical order.
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        Row {
            fields: fields.into_iter().collect(),
            labels: BTreeMap::new(),
        }
    }

    fn render(&self, template: &Template) -> Result<String, TemplateError> {
        // One clone a row: lists have hundreds of rows, not millions.
        let data = Value::Object(self.fields.clone());
        template.render_with(&data, &|name, arguments| match (name, arguments) {
            ("Label", [Value::String(key)]) => {
                let label = self.labels.get(key).cloned().unwrap_or_default();
                Some(Value::String(label))
            }
            _ => None,
        })
    }
}

/// How rows are printed.
#[derive(Clone, Debug)]
pub struct Listing {
    form: Form,
    with_titles: bool,
}

#[derive(Clone, Debug)]
enum Form {
    Table(Template),
    Json,
    Template(Template),
}

impl Listing {
    /// From the value of `--format` (empty or `table` when it was not given) and the columns that
    /// are shown by default.
    ///
    /// # Errors
    /// When the template is not one.
    pub fn new(format: Option<&str>, default: &[Column]) -> Result<Listing, TemplateError> {
        let table = |text: &str| Template::parse(&unescape(text)).map(Form::Table);
        let form = match format.map(str::trim) {
            None | Some("" | "table") => {
                let fields: Vec<String> = default
                    .iter()
                    .map(|column| format!("{{{{.{}}}}}", column.field))
                    .collect();
                table(&fields.join("\t"))?
            }
            Some("json") => Form::Json,
            Some(text) => match text.strip_prefix("table ") {
                Some(text) => table(text)?,
                None => Form::Template(Template::parse(&unescape(text))?),
            },
        };
        Ok(Listing {
            form,
            with_titles: true,
        })
    }

    /// Only the given field, a row a line: `-q`.
    ///
    /// # Errors
    /// Never for a field that is a name.
    pub fn only(field: &str) -> Result<Listing, TemplateError> {
        Ok(Listing {
            form: Form::Template(Template::parse(&format!("{{{{.{field}}}}}"))?),
            with_titles: false,
        })
    }

    /// Without the title line: `--no-headers`.
    #[must_use]
    pub fn without_titles(mut self) -> Listing {
        self.with_titles = false;
        self
    }

    /// Whether the template uses a field, to leave out what is expensive to find out.
    #[must_use]
    pub fn mentions(&self, field: &str) -> bool {
        match &self.form {
            Form::Json => true,
            Form::Table(template) | Form::Template(template) => template.mentions(field),
        }
    }

    /// The rows as text. `columns` are all that there are, for their titles.
    ///
    /// # Errors
    /// When the template names a field that is not there, or a function fails.
    pub fn render(&self, columns: &[Column], rows: &[Row]) -> Result<String, TemplateError> {
        match &self.form {
            Form::Json => Ok(rows
                .iter()
                .map(|row| Value::Object(row.fields.clone()).to_string() + "\n")
                .collect()),
            Form::Template(template) => rows
                .iter()
                .map(|row| row.render(template).map(|line| line + "\n"))
                .collect(),
            Form::Table(template) => {
                let mut table = Table::new();
                let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                if self.with_titles {
                    let titles = columns
                        .iter()
                        .map(|column| (column.field.to_owned(), Value::from(column.title)))
                        .collect();
                    let line = template.render_titles(
                        &Value::Object(titles),
                        &|name, arguments| match (name, arguments) {
                            ("Label", [Value::String(key)]) => {
                                Some(Value::String(label_title(key)))
                            }
                            _ => None,
                        },
                    )?;
                    table.push(cells(&line));
                }
                for row in rows {
                    table.push(cells(&row.render(template)?));
                }
                Ok(table.render())
            }
        }
    }
}

/// `com.example.build-date` has the title `build date`, as Docker's.
fn label_title(key: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    last.replace(['-', '_'], " ")
}

/// Shells pass `\t` and `\n` as they are typed.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: Column = Column {
        field: "ID",
        title: "CONTAINER ID",
    };
    const NAMES: Column = Column {
        field: "Names",
        title: "NAMES",
    };

    fn rows() -> Vec<Row> {
        let row = |id, name: &str, team: &str| Row {
            labels: [("com.example.the-team".to_owned(), team.to_owned())].into(),
            ..Row::new([("Names", json!(name)), ("ID", json!(id))])
        };
        vec![row("abc", "web", "core"), row("def", "db", "")]
    }

    fn render(format: Option<&str>) -> String {
        Listing::new(format, &[ID, NAMES])
            .unwrap()
            .render(&[ID, NAMES], &rows())
            .unwrap()
    }

    #[test]
    fn every_form_of_format_prints_as_docker_does() {
        for (format, expected) in [
            (
                None,
                "CONTAINER ID   NAMES\nabc            web\ndef            db\n",
            ),
            (
                Some("table"),
                "CONTAINER ID   NAMES\nabc            web\ndef            db\n",
            ),
            (
                Some(r"table {{.Names}}\t{{upper .ID}}"),
                "NAMES     CONTAINER ID\nweb       ABC\ndb        DEF\n",
            ),
            (
                Some("json"),
                "{\"ID\":\"abc\",\"Names\":\"web\"}\n{\"ID\":\"def\",\"Names\":\"db\"}\n",
            ),
            (
                Some("{{json .}}"),
                "{\"ID\":\"abc\",\"Names\":\"web\"}\n{\"ID\":\"def\",\"Names\":\"db\"}\n",
            ),
            (Some(r"{{.Names}}\t{{.ID}}"), "web\tabc\ndb\tdef\n"),
            (
                Some(r#"table {{.ID}}\t{{.Label "com.example.the-team"}}"#),
                "CONTAINER ID   the team\nabc            core\ndef            \n",
            ),
        ] {
            assert_eq!(render(format), expected, "{format:?}");
        }
    }

    #[test]
    fn quiet_prints_one_field_and_titles_can_be_left_out() {
        let only = Listing::only("ID").unwrap();
        assert_eq!(only.render(&[ID], &rows()).unwrap(), "abc\ndef\n");
        let bare = Listing::new(None, &[NAMES]).unwrap().without_titles();
        assert_eq!(bare.render(&[NAMES], &rows()).unwrap(), "web\ndb\n");
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let listing = Listing::new(Some("{{.Nmaes}}"), &[]).unwrap();
        let error = listing.render(&[], &rows()).unwrap_err().to_string();
        assert!(
            error.contains("\"Nmaes\"") && error.contains("Names"),
            "{error}"
        );
    }
}
