//! What is printed of a reference reads as the same reference again.
#![no_main]

use isle_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else {
        return;
    };
    for printed in [reference.to_string(), reference.familiar()] {
        assert_eq!(printed.parse::<Reference>().as_ref(), Ok(&reference), "{printed}");
    }
    // It becomes part of a path of the registry, and of nothing else.
    assert!(!reference.repository().split('/').any(|part| part.is_empty() || part == ".."));
    assert!(reference.tag().is_some() || reference.digest().is_some());
});
