//! `run`: exit codes, standard streams, environment, names.

#![forbid(unsafe_code)]

use isle_tests::World;

isle_tests::stories! {
    the_exit_code_of_the_program_is_the_exit_code_of_run,
    a_program_that_is_not_there_gives_127,
}

fn the_exit_code_of_the_program_is_the_exit_code_of_run(world: &World) {
    let image = world.busybox();
    world.isle(["run", "--rm", &image, "true"]).exits_with(0);
    world
        .isle(["run", "--rm", &image, "sh", "-c", "exit 7"])
        .exits_with(7);
}

fn a_program_that_is_not_there_gives_127(world: &World) {
    let image = world.busybox();
    world
        .isle(["run", "--rm", &image, "no-such-program"])
        .exits_with(127)
        .complains("no-such-program");
}
