//! Makes the block image of every image in a store: `block <root>`. For measuring.

use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args().nth(1).ok_or("usage: block <root>")?;
    let root = Path::new(&root);
    let database = isle_database::Database::open(&root.join("isle.db"), &[isle_image::SCHEMA])?;
    let store = isle_image::Store::open(root, database)?;
    for image in store.images()? {
        let begin = Instant::now();
        let block = store.block_image(&image, &isle_image::Silent)?;
        let made = begin.elapsed();
        let begin = Instant::now();
        store.block_image(&image, &isle_image::Silent)?;
        println!(
            "{:?}: {} layers, {} bytes of layers, {} of its block image, made in {made:?}, found in {:?}",
            image.repo_tags,
            store.layers(&image)?.len(),
            image.size,
            block.bytes,
            begin.elapsed(),
        );
    }
    Ok(())
}
