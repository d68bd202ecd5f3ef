//! Go's `text/template`, as far as users of Docker use it, over JSON values.
//!
//! There: fields, `index`, pipelines, variables, `if`/`else if`/`else`, `range` (with `break` and
//! `continue`), `with`, comments, trim markers, Go's comparison and print functions, and Docker's own
//! `json`, `join`, `split`, `lower`, `upper`, `title`, `pad` and `truncate`. Not there, and refused with an error:
//! `define`, `template`, `block`, method calls, complex numbers.

mod exec;
mod functions;
mod lexer;
mod parser;
mod print;

pub use print::quote;

use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    text: String,
    nodes: Vec<parser::Node>,
}

/// Why a template could not be parsed or carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text is not a template.
    #[error("template parsing error: {reason}, at character {offset} of {template:?}")]
    Parse {
        /// The whole template.
        template: String,
        /// Bytes from its start.
        offset: usize,
        /// What was expected or found.
        reason: String,
    },
    /// The template does not fit the data.
    #[error("template execution error: {reason}, in {template:?}")]
    Execute {
        /// The whole template.
        template: String,
        /// What did not fit.
        reason: String,
    },
}

/// Answers to `.Name arg…` on the top-level data: Docker's lists have `.Label "key"`.
pub type Methods<'a> = dyn Fn(&str, &[Value]) -> Option<Value> + 'a;

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError::Parse`], with the place and the reason.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let nodes =
            lexer::lex(text)
                .and_then(parser::parse)
                .map_err(|error| TemplateError::Parse {
                    template: text.to_owned(),
                    offset: error.offset,
                    reason: error.reason,
                })?;
        Ok(Template {
            text: text.to_owned(),
            nodes,
        })
    }

    /// Carries the template out on one value.
    ///
    /// # Errors
    /// [`TemplateError::Execute`] when a field is not there or a function does not take its arguments.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        self.execute(data, &|_, _| None, false)
    }

    /// Like [`Template::render`], with methods on the top-level data.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_with(
        &self,
        data: &Value,
        methods: &Methods<'_>,
    ) -> Result<String, TemplateError> {
        self.execute(data, methods, false)
    }

    /// The title line of a table: fields give their titles, and functions on text leave them alone.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_titles(
        &self,
        titles: &Value,
        methods: &Methods<'_>,
    ) -> Result<String, TemplateError> {
        self.execute(titles, methods, true)
    }

    /// Whether the text of the template has a field of this name anywhere.
    #[must_use]
    pub fn mentions(&self, field: &str) -> bool {
        let name = format!(".{field}");
        // `{{json .}}` and `{{.}}` mention all of them.
        let whole = [".}}", ". }}", ". |", ". -}}"];
        self.text.contains(&name) || whole.iter().any(|dot| self.text.contains(dot))
    }

    fn execute(
        &self,
        data: &Value,
        methods: &Methods<'_>,
        is_titles: bool,
    ) -> Result<String, TemplateError> {
        exec::execute(&self.nodes, data, methods, is_titles).map_err(|reason| {
            TemplateError::Execute {
                template: self.text.clone(),
                reason,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Template;
    use serde_json::{Value, json};

    fn render(template: &str, data: &Value) -> String {
        Template::parse(template)
            .and_then(|parsed| parsed.render(data))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn instance() -> Value {
        json!({
            "Name": "/web",
            "State": {"Running": true, "ExitCode": 0, "Health": null},
            "Config": {
                "Env": ["A=1", "B=2"],
                "Labels": {"com.example.team": "core", "tier": "front"},
            },
            "Mounts": [],
            "Size": 1.5,
        })
    }

    /// The expected texts follow the documentation of Go's text/template and fmt.
    #[test]
    fn templates_print_what_go_prints() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.Name}}", "/web"),
            ("{{ .State.Running }}/{{ .State.ExitCode }}", "true/0"),
            ("{{json .State.Health}}", "null"),
            ("{{.State.Health}}", "<nil>"),
            (
                "{{json .Config}}",
                r#"{"Env":["A=1","B=2"],"Labels":{"com.example.team":"core","tier":"front"}}"#,
            ),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            (
                "{{.Config.Labels}}",
                "map[com.example.team:core tier:front]",
            ),
            (r#"{{index .Config.Labels "com.example.team"}}"#, "core"),
            (r#"{{index .Config.Labels "absent"}}"#, ""),
            ("{{index .Config.Env 1}}", "B=2"),
            (
                "{{.Config.Labels.absent}} {{.Config.Labels.tier}}",
                "<no value> front",
            ),
            ("{{if .Config.Labels.absent}}x{{else}}y{{end}}", "y"),
            ("{{len .Config.Env}} {{len .Name}}", "2 4"),
            ("{{range .Config.Env}}[{{.}}]{{end}}", "[A=1][B=2]"),
            (
                "{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}",
                "0=A=1;1=B=2;",
            ),
            (
                "{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}",
                "com.example.team:core tier:front ",
            ),
            ("{{range .Mounts}}x{{else}}none{{end}}", "none"),
            (
                "{{range .Config.Env}}{{if eq . \"B=2\"}}{{break}}{{end}}{{.}}{{end}}",
                "A=1",
            ),
            (
                "{{range .Config.Env}}{{if eq . \"A=1\"}}{{continue}}{{end}}{{.}}{{end}}",
                "B=2",
            ),
            ("{{if .State.Health}}yes{{else}}no{{end}}", "no"),
            (
                "{{if .Mounts}}a{{else if .State.Running}}b{{else}}c{{end}}",
                "b",
            ),
            ("{{with .Config}}{{len .Labels}}{{end}}", "2"),
            (
                "{{with .State.Health}}x{{else}}unchecked{{end}}",
                "unchecked",
            ),
            ("{{with $x := .Name}}{{$x}}{{$.Size}}{{end}}", "/web1.5"),
            ("{{$n := .Name}}{{$n = \"other\"}}{{$n}}", "other"),
            ("{{.Name | printf \"%-6s|\"}}", "/web  |"),
            (
                r#"{{printf "%s %q %d %v %5.2f%%" .Name .Name 7 true 1.5}}"#,
                r#"/web "/web" 7 true  1.50%"#,
            ),
            (
                r#"{{printf "%05d %x %X %t %c" 42 255 255 true 65}}"#,
                "00042 ff FF true A",
            ),
            (r#"{{join .Config.Env ","}}"#, "A=1,B=2"),
            (r#"{{range split "a/b/c" "/"}}{{.}}.{{end}}"#, "a.b.c."),
            (
                r#"{{upper "aB"}}{{lower "aB"}}{{title "word and word"}}"#,
                "ABabWord And Word",
            ),
            (r#"{{truncate "abcdef" 3}}{{pad "x" 2 1}}|"#, "abc  x |"),
            (r#"{{slice .Name 1}} {{slice .Name 1 3}}"#, "web we"),
            ("{{slice .Config.Env 0 1}}", "[A=1]"),
            (
                "{{eq .State.ExitCode 0}} {{ne 1 2}} {{lt 1 2}} {{ge 2 2}}",
                "true true true true",
            ),
            (r#"{{eq "a" "b" "a"}}"#, "true"),
            (
                "{{and .State.Running .Name}} {{or .Mounts .Name}} {{not .Mounts}}",
                "/web /web true",
            ),
            ("{{print 1 2 \"x\" \"y\" 3}}", "1 2xy3"),
            ("{{println .Name 1}}", "/web 1\n"),
            ("a {{- 1 -}} b", "a1b"),
            ("a{{/* note */}}b {{- /* trims */ -}} c", "abc"),
            ("{{`raw \"text\"`}}{{'a'}}", "raw \"text\"97"),
            ("{{(index .Config.Env 0)}} {{(.State).Running}}", "A=1 true"),
            (
                "{{if and .State.Running (eq .State.ExitCode 0)}}ok{{end}}",
                "ok",
            ),
            ("{{.Name}}{{\"\\n\"}}", "/web\n"),
            ("{{.Config.Env | len | printf \"%d\"}}", "2"),
            ("{{1.50}} {{-3}} {{0x1f}} {{true}}", "1.5 -3 31 true"),
            ("{{range 3}}{{.}}{{end}}", "012"),
            (
                "{{urlquery \"a b&c\"}} {{html \"<a>\"}}",
                "a+b%26c &lt;a&gt;",
            ),
        ] {
            assert_eq!(render(template, &instance()), expected, "{template}");
        }
    }

    #[test]
    fn and_and_or_do_not_evaluate_what_they_do_not_need() {
        let template = "{{if and .State.Health .State.Health.Status}}x{{else}}y{{end}}";
        assert_eq!(render(template, &instance()), "y");
    }

    #[test]
    fn what_is_not_a_template_is_refused_with_place_and_reason() {
        for (template, reason) in [
            ("{{.Name", "unclosed action"),
            ("{{.Name}", "unexpected"),
            ("{{if .Name}}", "unclosed if"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{else}}", "unexpected {{else}}"),
            ("{{range .A}}{{else}}{{else}}{{end}}", "unexpected {{else}}"),
            ("{{nosuch .Name}}", "function \"nosuch\" is not known"),
            ("{{$x}}", "variable $x is not declared"),
            ("{{\"open}}", "unterminated"),
            ("{{(.Name}}", "unclosed"),
            ("{{template \"x\"}}", "not supported"),
            ("{{}}", "missing value"),
            ("{{.Name | }}", "missing value"),
            ("{{3 | 4}}", "cannot take"),
            ("{{break}}", "outside of {{range}}"),
            ("{{/* open", "unclosed comment"),
        ] {
            let error = Template::parse(template).expect_err(template).to_string();
            assert!(error.contains(reason), "{template}: {error}");
            assert!(error.starts_with("template parsing error"), "{error}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let parentheses = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
        let blocks = "{{if 1}}".repeat(100_000);
        for template in [parentheses, blocks] {
            let error = Template::parse(&template).unwrap_err();
            assert!(error.to_string().contains("nested too deeply"));
        }
    }

    #[test]
    fn a_field_that_is_not_there_is_an_error_that_names_those_that_are() {
        let template = Template::parse("{{.State.Exitcode}}").unwrap();
        let error = template.render(&instance()).unwrap_err().to_string();
        assert!(error.contains("no field \"Exitcode\""), "{error}");
        assert!(error.contains("ExitCode"), "{error}");
        for bad in [
            "{{.State.Health.Status}}",
            "{{index .Config.Env 9}}",
            "{{len 3}}",
            "{{range .Name}}{{end}}",
            "{{slice .Name 9}}",
            "{{lt 1 \"a\"}}",
            "{{.Name.Foo}}",
            "{{json}}",
            "{{.Name 3}}",
        ] {
            Template::parse(bad)
                .unwrap()
                .render(&instance())
                .expect_err(bad);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}. $a-z|()\"`'/*=:,0-9-]{0,40}", inner in "[ .$a-z|()\"=:,0-9-]{0,20}") {
            for template in [text, format!("{{{{{inner}}}}}"), format!("{{{{range {inner}}}}}{{{{.}}}}{{{{end}}}}")] {
                if let Ok(parsed) = Template::parse(&template) {
                    let _ = parsed.render(&instance());
                }
            }
        }
    }
}
