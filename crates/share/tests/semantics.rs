//! What programs in a guest expect of files, tried on a real mount.

mod support;

use std::fs;

use support::Shared;

#[test]
fn files_are_read_and_written_on_both_sides() {
    if let Some(lacking) = support::lacks() {
        eprintln!("skipped: needs {lacking}");
        return;
    }
    let shared = Shared::new();
    assert_eq!(
        fs::read_to_string(shared.guest.join("before")).unwrap(),
        "before"
    );
    fs::write(shared.guest.join("new"), "from the guest").unwrap();
    assert_eq!(
        fs::read_to_string(shared.host.join("new")).unwrap(),
        "from the guest"
    );
    fs::write(shared.host.join("before"), "changed and longer").unwrap();
    assert_eq!(
        fs::read_to_string(shared.guest.join("before")).unwrap(),
        "changed and longer"
    );
}
