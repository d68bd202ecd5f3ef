//! Dockerfiles: read without panic; places are in the text; expansion ends.
#![no_main]

use isle_build::language::{Dockerfile, Lexer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines = text.lines().count().max(1) + 1;
    match Dockerfile::parse(text) {
        Err(error) => {
            assert!((1..=lines).contains(&error.place.line), "{error:?}");
            assert!(error.place.column >= 1 && !error.problem.is_empty() && !error.fix.is_empty(), "{error:?}");
        }
        Ok(file) => {
            assert!(!file.stages.is_empty());
            for item in file.stages.iter().flat_map(|stage| &stage.items) {
                assert!((1..=lines).contains(&item.place.line) && item.last_line >= item.place.line);
            }
        }
    }
    let lexer = Lexer {
        escape: '\\',
        keeps_quotes: text.len() % 2 == 0,
    };
    let _ = lexer.expand(text, &|name: &str| (name.len() % 2 == 0).then(|| name.to_owned()));
});
