//! Which level a container gets: `vm` where the program is called so, or `--isolation` or an annotation says so.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, bail};
use isle_types::Isolation;
use oci_spec::runtime::Spec;

/// The annotation of a container.
pub(crate) const ANNOTATION: &str = "dev.isle.isolation";
/// The name of the program whose containers are all virtual machines.
const PROGRAM: &str = "isle-oci-vm";

/// The level of a container. An annotation can ask for more isolation than the operator of the engine has chosen, never for less: it
/// comes from whoever has made the container.
///
/// # Errors
/// When the annotation names no level, or asks for less.
pub(super) fn of(
    spec: &Spec,
    program: Option<&OsStr>,
    flag: Isolation,
) -> anyhow::Result<Isolation> {
    let name = program.and_then(|program| Path::new(program).file_name());
    let chosen = match name == Some(OsStr::new(PROGRAM)) {
        true => Isolation::Vm,
        false => flag,
    };
    let annotations = spec.annotations().as_ref();
    let Some(text) = annotations.and_then(|annotations| annotations.get(ANNOTATION)) else {
        return Ok(chosen);
    };
    let asked: Isolation = text
        .parse()
        .with_context(|| format!("cannot follow annotation {ANNOTATION}"))?;
    match (chosen, asked) {
        (Isolation::Vm, Isolation::Container) => bail!(
            "annotation {ANNOTATION} is {text:?}, and this runtime is to make virtual machines: leave it out, or use \
             a runtime whose level is container"
        ),
        (_, asked) => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn level(annotation: Option<&str>, program: &str, flag: Isolation) -> Option<Isolation> {
        let mut spec = Spec::default();
        spec.set_annotations(
            annotation.map(|text| HashMap::from([(ANNOTATION.to_owned(), text.to_owned())])),
        );
        of(&spec, Some(OsStr::new(program)), flag).ok()
    }

    #[test]
    fn name_flag_and_annotation_can_each_ask_for_a_machine() {
        use Isolation::{Container, Vm};
        assert_eq!(level(None, "/usr/bin/isle-oci", Container), Some(Container));
        assert_eq!(level(None, "/usr/bin/isle-oci-vm", Container), Some(Vm));
        assert_eq!(level(None, "isle-oci", Vm), Some(Vm));
        assert_eq!(level(Some("vm"), "isle-oci", Container), Some(Vm));
        assert_eq!(
            level(Some("container"), "isle-oci", Container),
            Some(Container)
        );
    }

    #[test]
    fn an_annotation_cannot_weaken_and_nobody_guesses_what_it_means() {
        use Isolation::{Container, Vm};
        assert_eq!(level(Some("container"), "isle-oci-vm", Container), None);
        assert_eq!(level(Some("container"), "isle-oci", Vm), None);
        for unknown in ["", "VM", "sandbox", "none"] {
            assert_eq!(
                level(Some(unknown), "isle-oci", Container),
                None,
                "{unknown}"
            );
        }
    }
}
