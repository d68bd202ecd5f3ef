//! Image configurations.
#![no_main]

use isle_image::parse_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse_config(bytes) {
        Ok((config, docker)) => drop(format!("{config:?} {docker:?}")),
        Err(error) => drop(error.to_string()),
    }
});
