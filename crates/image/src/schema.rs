//! The store's tables in the state file.
//!
//! What is on disk counts only when a row names it: a blob file without a row of `blob`, or a
//! directory without a row of `layer`, is left over from something that was interrupted.

use isle_database::Schema;

/// The store's tables. Whoever opens the state file for a [`Store`](crate::Store) lists this.
pub const SCHEMA: Schema = Schema {
    name: "image",
    migrations: &[FOUNDATION, BLOCK_IMAGES, INTERMEDIATE_IMAGES],
};

const FOUNDATION: &str = "
CREATE TABLE blob (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An unpacked layer. The key is its diff id, or its chain id where directories that the layer has
-- no entry for have taken their owner and mode from the layers below it.
CREATE TABLE layer (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    diff_id TEXT NOT NULL,
    directory TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    is_opaque INTEGER NOT NULL,
    implicit BLOB NOT NULL,
    -- The boot in which it was unpacked, until it is known to be on the disk: NULL from then on.
    boot TEXT
) STRICT;

CREATE TABLE image (
    id TEXT PRIMARY KEY,
    manifest TEXT NOT NULL REFERENCES blob (digest),
    config BLOB NOT NULL,
    size INTEGER NOT NULL,
    created INTEGER,
    added INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE image_layer (
    image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer INTEGER NOT NULL REFERENCES layer (id),
    blob TEXT NOT NULL REFERENCES blob (digest),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layer_layer ON image_layer (layer);

-- Manifest, configuration and layers: every blob that the image needs.
CREATE TABLE image_blob (
    image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    blob TEXT NOT NULL REFERENCES blob (digest),
    PRIMARY KEY (image, blob)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_blob_blob ON image_blob (blob);

-- In full: docker.io/library/alpine:latest.
CREATE TABLE image_name (
    name TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX image_name_image ON image_name (image);

-- docker.io/library/alpine, sha256:…: what a registry calls the image.
CREATE TABLE image_digest (
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_digest_image ON image_digest (image);

-- Who needs the image: instances.
CREATE TABLE image_hold (
    image TEXT NOT NULL REFERENCES image (id),
    owner TEXT NOT NULL,
    PRIMARY KEY (image, owner)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_hold_owner ON image_hold (owner);

-- What a pull or load in progress relies on: the name of its working folder, and a blob or layer.
CREATE TABLE image_lease (
    workspace TEXT NOT NULL,
    blob TEXT REFERENCES blob (digest),
    layer INTEGER REFERENCES layer (id)
) STRICT;
";

const BLOCK_IMAGES: &str = "
-- An image's root as a disk for virtual machines, made again whenever it is not what it should be.
CREATE TABLE block_image (
    image TEXT PRIMARY KEY REFERENCES image (id) ON DELETE CASCADE,
    file TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    digest TEXT NOT NULL,
    -- The boot in which its content was last known to have this digest.
    boot TEXT NOT NULL,
    -- How it was made.
    recipe INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const INTERMEDIATE_IMAGES: &str = "
-- Steps of builds: images that are there to be built upon, and that nobody else lists.
CREATE TABLE intermediate_image (
    image TEXT PRIMARY KEY REFERENCES image (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
";
