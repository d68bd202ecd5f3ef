//! `config.json` of an OCI bundle: planning is pure, and refuses what it cannot carry out.
#![no_main]

use isle_runtime::{Options, Plan};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::Spec;

fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<Spec>(bytes) else {
        return;
    };
    let options = Options {
        id: "fuzz".to_owned(),
        bundle: "/nowhere".into(),
        ..Options::default()
    };
    if let Err(error) = Plan::new(&spec, options) {
        drop(error.to_string());
    }
});
