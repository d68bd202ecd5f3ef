//! `--format`.
#![no_main]

use isle_format::Template;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|text: &str| {
    match Template::parse(text) {
        Ok(template) => {
            let data = json!({
                "ID": "abc", "Names": ["a", "b"], "Size": 12.5, "Labels": {"k": "v"}, "None": null,
                "Mounts": [{"Source": "/a", "RW": true}],
            });
            let _ = template.render(&data);
            let _ = template.mentions("ID");
        }
        Err(error) => drop(error.to_string()),
    }
});
