//! Instructions of `commit --change` and `import --change`.
#![no_main]

use isle_image::apply_changes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut config = serde_json::Map::new();
    if apply_changes(&mut config, &lines).is_ok() {
        let image = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        // What we write we can read.
        isle_image::parse_config(image.to_string().as_bytes()).expect("our own configuration");
    }
});
