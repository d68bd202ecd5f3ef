//! `isle build`: Dockerfiles become images, at both levels.

#![forbid(unsafe_code)]

mod attestations;
mod cache;
mod comparison;
mod copies;
mod faults;
mod language;
mod outputs;

use isle_tests::{Invocation, Level, Need, World};

use attestations::*;
use cache::*;
use comparison::*;
use copies::*;
use faults::*;
use language::*;
use outputs::*;

isle_tests::stories! {
    a_dockerfile_becomes_an_image_that_runs [Need::Isle],
    only_the_stages_that_are_needed_are_built [Need::Isle, Need::Only(Level::Container)],
    the_configuration_is_what_the_instructions_say [Need::Isle, Need::Only(Level::Container)],
    arguments_have_scopes [Need::Isle, Need::Only(Level::Container)],
    heredocs_are_scripts_and_files [Need::Isle, Need::Only(Level::Container)],
    triggers_of_the_base_image_are_carried_out [Need::Isle, Need::Only(Level::Container)],
    a_second_build_runs_nothing [Need::Isle, Need::Only(Level::Container)],
    a_changed_file_runs_what_follows_it [Need::Isle, Need::Only(Level::Container)],
    caches_and_secrets_are_mounted_and_not_kept [Need::Isle],
    the_cache_is_listed_and_pruned [Need::Isle, Need::Only(Level::Container)],
    a_cache_is_carried_to_another_store [Need::Isle, Need::Only(Level::Container)],
    odd_things_are_told_by_check [Need::Isle, Need::Only(Level::Container)],
    attestations_tell_how_and_what [Need::Isle, Need::Only(Level::Container)],
    buildah_builds_the_same_files [Need::Isle, Need::Buildah, Need::Only(Level::Container)],
    the_same_time_gives_the_same_image [Need::Isle, Need::Only(Level::Container)],
    copies_have_owners_modes_and_exceptions [Need::Isle, Need::Only(Level::Container)],
    links_of_the_image_are_followed_and_folders_kept [Need::Isle, Need::Only(Level::Container)],
    archives_are_unpacked_by_add_alone [Need::Isle, Need::Only(Level::Container)],
    files_come_from_other_contexts [Need::Isle, Need::Only(Level::Container)],
    mistakes_are_placed_and_have_a_fix [Need::Isle, Need::Only(Level::Container)],
    a_step_that_fails_shows_its_last_lines_and_leaves_nothing [Need::Isle],
    a_build_that_is_stopped_leaves_nothing [Need::Isle],
    a_build_that_is_killed_is_cleared_up_by_the_next [Need::Isle, Need::Only(Level::Container)],
    results_go_to_folders_and_archives [Need::Isle, Need::Only(Level::Container)],
    progress_has_a_form_for_programs [Need::Isle, Need::Only(Level::Container)],
}

/// Writes a context's files; the first is the Dockerfile.
fn context(world: &World, name: &str, dockerfile: &str, files: &[(&str, &str)]) -> String {
    world.busybox();
    world.file(&format!("{name}/Dockerfile"), dockerfile);
    for (file, content) in files {
        world.file(&format!("{name}/{file}"), content);
    }
    world.files().join(name).to_string_lossy().into_owned()
}

/// `isle build`, at the world's level.
fn build(world: &World, flags: &[&str], context: &str) -> Invocation {
    world
        .isle([
            "build",
            "--isolation",
            world.level().word(),
            "--progress",
            "plain",
        ])
        .arguments(flags)
        .arguments([context])
}

/// What a shell script says in an image.
fn inside(world: &World, image: &str, script: &str) -> String {
    let said = world
        .isle(["run", "--rm", "--entrypoint", "sh", image, "-c", script])
        .succeeds();
    format!("{}\n", said.trim_end())
}

/// Nothing that a build makes on its way is left where users look.
fn nothing_is_left(world: &World) {
    assert_eq!(world.isle(["ps", "--all", "--quiet"]).succeeds(), "");
    assert_eq!(
        world
            .isle(["images", "--format", "{{.Repository}}"])
            .succeeds(),
        "busybox"
    );
}
