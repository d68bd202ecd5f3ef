//! Loads an image archive into a store: `load <root> <archive>`. For measuring.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(archive)) = (arguments.next(), arguments.next()) else {
        return Err("usage: load <root> <archive>".into());
    };
    let root = Path::new(&root);
    std::fs::create_dir_all(root)?;
    let begin = Instant::now();
    let database = isle_database::Database::open(&root.join("isle.db"), &[isle_image::SCHEMA])?;
    let store = isle_image::Store::open(root, database)?;
    println!("opened in {:?}", begin.elapsed());
    let progress: Arc<dyn isle_image::Progress> = Arc::new(isle_image::Silent);
    let path = Path::new(&archive);
    let input = match path.is_dir() {
        true => isle_image::LoadInput::Directory(path),
        false => isle_image::LoadInput::File(std::fs::File::open(path)?),
    };
    for loaded in store.load(input, None, &progress)? {
        println!(
            "{} {:?} {}",
            loaded.image.id, loaded.names, loaded.image.size
        );
    }
    println!("loaded in {:?}", begin.elapsed());
    let begin = Instant::now();
    for image in store.images()? {
        let image = store.find(image.id.as_str())?;
        println!("{:?}", store.layers(&image)?);
    }
    println!("found in {:?}", begin.elapsed());
    Ok(())
}
