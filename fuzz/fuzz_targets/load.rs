//! Whole image archives, of Docker's and of OCI's kind: what was not loaded leaves no image.
#![no_main]

use std::io::Cursor;
use std::sync::Arc;

use isle_database::Database;
use isle_image::{LoadInput, Progress, Silent, Store};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("memory");
    let database = Database::open(&folder.path().join("isle.db"), &[isle_image::SCHEMA]);
    let store = Store::open(folder.path(), database.expect("memory")).expect("memory");
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let loaded = store.load(LoadInput::Stream(&mut Cursor::new(bytes)), None, &progress);
    for image in store.images().expect("the state is whole") {
        store.find(image.id.as_str()).expect("what is listed is there");
    }
    drop(loaded);
});
