//! A Compose file: any text is a project or a complaint with a place; what is printed of a project reads as the same.
#![no_main]

use std::path::PathBuf;

use isle_compose::{Existing, Options, Project, Request, plan, sorted, words, yaml};
use libfuzzer_sys::fuzz_target;

fn load(text: &str) -> Result<Project, isle_compose::LoadError> {
    let file = PathBuf::from("/nowhere/compose.yaml");
    Project::load(Request {
        files: vec![file.clone()],
        given: [(file, text.to_owned())].into(),
        project_name: Some("p".into()),
        working_directory: "/nowhere".into(),
        environment: [("A".to_owned(), "a".to_owned())].into(),
        ..Request::default()
    })
}

fuzz_target!(|text: &str| {
    let project = match load(text) {
        Ok(project) => project,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for service in project.services.values() {
        let _ = words::instance(&project, service, 1, &Default::default()).command_line();
    }
    let _ = plan(&project, &Existing::default(), &Options::default(), &Default::default());
    let printed = yaml(&project.document, true);
    // What is found in files of the host is no part of the text.
    if let Ok(again) = load(&printed) {
        assert_eq!(sorted(&again.document), sorted(&project.document), "{printed}");
    } else {
        panic!("what is printed does not read:\n{printed}");
    }
});
