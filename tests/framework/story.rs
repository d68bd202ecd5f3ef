//! Runs the tests of one feature, at every level, and counts what was skipped and why.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Level, Need, World, leaks, user};

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// A sentence.
    pub name: &'static str,
    /// Without which it is skipped.
    pub needs: &'static [Need],
    /// What happens in it.
    pub tell: fn(&World),
}

impl Story {
    /// Whether it can be told of a level at all.
    fn is_about(&self, level: Level) -> bool {
        self.needs.iter().all(|need| match need {
            Need::Only(only) => *only == level,
            _ => true,
        })
    }
}

/// Makes the `main` of a test program from the names of its tests, each with what it needs. `only LEVEL;` before them
/// has all of them told once, at that level.
#[macro_export]
macro_rules! stories {
    (only $level:expr; $($name:ident $([$($need:expr),+])?),+ $(,)?) => {
        $crate::stories! { $($name [$crate::Need::Only($level) $($(, $need)+)?]),+ }
    };
    ($($name:ident $([$($need:expr),+])?),+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::main(&[$($crate::Story {
                name: stringify!($name),
                needs: &[$($($need),+)?],
                tell: $name,
            }),+])
        }
    };
}

/// Runs the stories as the command line says (that of libtest).
#[must_use]
pub fn main(stories: &[Story]) -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let mut skipped = Vec::new();
    // `ISLE_TEST_LEVEL=vm` looks at one level alone.
    let wanted = std::env::var("ISLE_TEST_LEVEL").ok();
    let levels = Level::ALL.into_iter();
    for level in levels.filter(|level| wanted.as_ref().is_none_or(|word| word == level.word())) {
        let of_level: &[Need] = match level {
            Level::Container => &[],
            Level::Vm => &[Need::GuestKernel],
        };
        for story in stories.iter().filter(|story| story.is_about(level)) {
            let reason = if rustix::process::geteuid().is_root() {
                let mut needs = of_level.iter().chain(story.needs);
                needs.find_map(|need| need.missing(level))
            } else {
                Some("not root".to_owned())
            };
            if let Some(reason) = &reason {
                skipped.push(format!("{} [{}]: {reason}", story.name, level.word()));
            }
            let story = *story;
            let trial = Trial::test(story.name, move || tell(story, level))
                .with_kind(level.word())
                .with_ignored_flag(reason.is_some());
            trials.push(trial);
        }
    }
    if !arguments.list {
        report_skipped(&skipped);
    }
    let before = leaks::cgroups();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left = leaks::cgroups_left_since(&before);
    if left.is_empty() {
        return conclusion.exit_code();
    }
    for cgroup in left {
        eprintln!("left behind: control group {}", cgroup.display());
    }
    ExitCode::FAILURE
}

/// Skips are seen: on standard error, and in the file that `cargo xtask test` prints at its end.
fn report_skipped(skipped: &[String]) {
    for line in skipped {
        eprintln!("skipped: {line}");
    }
    if let Some(path) = std::env::var_os("ISLE_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        if let Ok(mut file) = file {
            for line in skipped {
                let _ = writeln!(file, "{line}");
            }
        }
    }
}

fn tell(story: Story, level: Level) -> Result<(), Failed> {
    let is_rootless = user::is_wanted() || story.needs.contains(&Need::OrdinaryUser);
    let world = World::new(level, is_rootless);
    let told = catch_unwind(AssertUnwindSafe(|| (story.tell)(&world)));
    let left = world.end();
    match told {
        Err(panic) => resume_unwind(panic),
        Ok(()) if left.is_empty() => Ok(()),
        Ok(()) => Err(format!("left behind:\n  {}", left.join("\n  ")).into()),
    }
}
