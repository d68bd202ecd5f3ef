//! A project called `demo` in a world: its file, and `isle compose` with it.

use isle_tests::{Invocation, World};

/// A folder with a file.
pub struct Project<'w> {
    world: &'w World,
    image: String,
    file: String,
}

impl<'w> Project<'w> {
    /// Services without an image get busybox; all get the world's level of isolation.
    pub fn new(world: &'w World, text: &str) -> Project<'w> {
        // Every project has networks.
        world.use_own_host("");
        let mut project = Project {
            world,
            image: world.busybox(),
            file: String::new(),
        };
        project.file = project.write(text);
        project
    }

    fn write(&self, text: &str) -> String {
        let defaults = format!(
            "image: {}, isolation: {}",
            self.image,
            self.world.level().word()
        );
        let mut in_services = false;
        let mut written = String::new();
        for line in text.lines() {
            if !line.starts_with(' ') {
                in_services = line == "services:";
            }
            let is_service = in_services && line.starts_with("  ") && !line.starts_with("   ");
            match line.split_once(": {") {
                Some((name, rest)) if is_service => {
                    written.push_str(&format!("{name}: {{{defaults}, {rest}\n"))
                }
                None if is_service => written.push_str(&format!(
                    "{line}\n    {}\n",
                    defaults.replace(", ", "\n    ")
                )),
                _ => written.push_str(&format!("{line}\n")),
            }
        }
        self.world.file("demo/compose.yaml", written)
    }

    /// The file says something else from now on.
    pub fn change(&self, text: &str) {
        self.write(text);
    }

    /// The file says this, as it is.
    pub fn change_to(&self, text: &str) {
        self.world.file("demo/compose.yaml", text);
    }

    /// `isle compose` with the project's file.
    pub fn isle<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Invocation {
        self.world
            .isle(["compose", "--file", &self.file])
            .arguments(arguments)
    }
}
