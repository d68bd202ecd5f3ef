//! What has to be built: bases, platforms and needs of each stage. Pure.

use std::collections::{BTreeMap, BTreeSet};

use isle_image::Platform;
use isle_types::nearest;

use crate::language::{Dockerfile, Instruction, Lexer, Mount, Place, SyntaxError};
use crate::request::BuildRequest;

/// Where a stage begins, or files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// A context of `--build-context`.
    Named(String),
    /// An image.
    Image(String),
}

/// One stage.
#[derive(Clone, Debug)]
pub(crate) struct PlannedStage {
    pub(crate) base: Base,
    pub(crate) platform: Platform,
    /// Stages that it needs.
    pub(crate) needs: BTreeSet<usize>,
    /// `[build 2/4]`: its name, and how many steps it has.
    pub(crate) steps: usize,
}

/// All stages, and which are needed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// `ARG`s before the first `FROM`.
    pub(crate) globals: BTreeMap<String, String>,
    pub(crate) stages: Vec<PlannedStage>,
    pub(crate) target: usize,
    /// The target and what it needs.
    pub(crate) needed: BTreeSet<usize>,
    /// The platform variables, see [`platform_variables`].
    pub(crate) platforms: BTreeMap<String, String>,
}

/// Variables that every build has once they are declared.
fn platform_variables(
    build: &Platform,
    target: &Platform,
    stage: &str,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let mut set =
            |name: &str, value: String| variables.insert(format!("{prefix}{name}"), value);
        set("PLATFORM", platform.to_string());
        set("OS", platform.os.clone());
        set("ARCH", platform.architecture.clone());
        set("VARIANT", platform.variant.clone().unwrap_or_default());
    }
    variables.insert("TARGETSTAGE".to_owned(), stage.to_owned());
    variables
}

impl Plan {
    /// Plans a build.
    ///
    /// # Errors
    /// The first thing that cannot be: a base without a name, a stage that is not there, a circle.
    pub(crate) fn new(file: &Dockerfile, request: &BuildRequest) -> Result<Plan, SyntaxError> {
        let host = Platform::host();
        let platform = request.platform.clone().unwrap_or_else(|| host.clone());
        let target_name = request
            .target
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let platforms = platform_variables(&host, &platform, &target_name);
        let lexer = Lexer {
            escape: file.escape(),
            keeps_quotes: false,
        };
        let mut globals: BTreeMap<String, String> = BTreeMap::new();
        for (place, argument) in &file.arguments {
            let given = request.args.get(&argument.name).cloned();
            let value = match (given, &argument.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => {
                    let lookup =
                        |name: &str| globals.get(name).or_else(|| platforms.get(name)).cloned();
                    let value = lexer.word(default, &lookup).map_err(|problem| {
                        SyntaxError::new(*place, problem, "mend the default of this ARG")
                    })?;
                    Some(value)
                }
                (None, None) => platforms.get(&argument.name).cloned(),
            };
            if let Some(value) = value {
                globals.insert(argument.name.clone(), value);
            }
        }
        let lookup = |name: &str| globals.get(name).or_else(|| platforms.get(name)).cloned();
        let mut stages: Vec<PlannedStage> = Vec::new();
        for (index, stage) in file.stages.iter().enumerate() {
            let expand = |text: &str, what: &str| {
                let expansion = lexer
                    .expand(text, &lookup)
                    .map_err(|problem| SyntaxError::new(stage.place, problem, "mend this FROM"))?;
                match expansion.text.trim() {
                    "" => {
                        let unset: Vec<&str> = expansion.unset.iter().map(String::as_str).collect();
                        Err(SyntaxError::new(
                            stage.place,
                            format!("the {what} of FROM {text} is empty"),
                            match unset.is_empty() {
                                true => "name an image, a stage or scratch".to_owned(),
                                false => format!(
                                    "set {name} with ARG {name}=… before the first FROM, or with --build-arg",
                                    name = unset.join(", ")
                                ),
                            },
                        ))
                    }
                    text => Ok(text.to_owned()),
                }
            };
            let base = expand(&stage.base, "image")?;
            let own = match &stage.platform {
                None => platform.clone(),
                Some(text) => {
                    let text = expand(text, "platform")?;
                    text.parse().map_err(|_| {
                        SyntaxError::new(
                            stage.place,
                            format!("{text:?} is not a platform"),
                            "write --platform=linux/amd64",
                        )
                    })?
                }
            };
            let base = source(file, request, &base, index);
            let needs = match base {
                Base::Stage(other) => BTreeSet::from([other]),
                _ => BTreeSet::new(),
            };
            stages.push(PlannedStage {
                steps: 1,
                base,
                platform: own,
                needs,
            });
        }
        for (index, stage) in file.stages.iter().enumerate() {
            for item in &stage.items {
                let mut froms: Vec<String> = Vec::new();
                match &item.instruction {
                    Instruction::Copy(copy) | Instruction::Add(copy) => {
                        froms.extend(copy.from.clone());
                        stages[index].steps += 1;
                    }
                    Instruction::Run(run) => {
                        for text in &run.mounts {
                            let is_from = |field: &&str| field.starts_with("from=");
                            froms.extend(
                                text.split(',')
                                    .find(is_from)
                                    .map(|field| field[5..].to_owned()),
                            );
                            if !text.contains('$') {
                                Mount::parse(text).map_err(|(problem, fix)| {
                                    SyntaxError::new(item.place, problem, fix)
                                })?;
                            }
                        }
                        stages[index].steps += 1;
                    }
                    Instruction::Workdir(_) => stages[index].steps += 1,
                    _ => {}
                }
                for from in froms {
                    if from.contains('$') {
                        return Err(SyntaxError::new(
                            item.place,
                            format!("from={from} has a variable, and must not"),
                            "make a stage of it: FROM $VARIABLE AS name, with an ARG before the first FROM",
                        ));
                    }
                    match find_stage(file, request, &from) {
                        Some(other) if other == index => {
                            return Err(SyntaxError::new(
                                item.place,
                                format!("the stage {from} takes files from itself"),
                                "name another stage",
                            ));
                        }
                        Some(other) => {
                            stages[index].needs.insert(other);
                        }
                        None => {
                            if let Ok(number) = from.parse::<usize>() {
                                return Err(SyntaxError::new(
                                    item.place,
                                    format!("there is no stage {number}"),
                                    format!(
                                        "stages are counted from 0; there are {}",
                                        file.stages.len()
                                    ),
                                ));
                            }
                        }
                    }
                }
            }
        }
        let target = match &request.target {
            None => stages.len() - 1,
            Some(name) => find_stage(file, &BuildRequest::default(), name).ok_or_else(|| {
                let names = file.stages.iter().filter_map(|stage| stage.name.as_deref());
                let fix = match nearest(name, names.clone()) {
                    Some(name) => format!("did you mean {name}?"),
                    None => format!("there are: {}", names.collect::<Vec<_>>().join(", ")),
                };
                let problem = format!("there is no stage {name:?} to be the target");
                SyntaxError::new(Place { line: 1, column: 1 }, problem, fix)
            })?,
        };
        let mut needed = BTreeSet::new();
        visit(file, &stages, target, &mut Vec::new(), &mut needed)?;
        Ok(Plan {
            globals,
            stages,
            target,
            needed,
            platforms,
        })
    }
}

/// Goes through what a stage needs; a stage that needs itself by others is a circle.
fn visit(
    file: &Dockerfile,
    stages: &[PlannedStage],
    index: usize,
    path: &mut Vec<usize>,
    needed: &mut BTreeSet<usize>,
) -> Result<(), SyntaxError> {
    if let Some(at) = path.iter().position(|other| *other == index) {
        let names: Vec<String> = path[at..]
            .iter()
            .chain([&index])
            .map(|index| stage_name(file, *index))
            .collect();
        return Err(SyntaxError::new(
            file.stages[index].place,
            format!(
                "stages need each other in a circle: {}",
                names.join(" needs ")
            ),
            "take one of these --from out",
        ));
    }
    if needed.contains(&index) {
        return Ok(());
    }
    path.push(index);
    for other in &stages[index].needs {
        visit(file, stages, *other, path, needed)?;
    }
    path.pop();
    needed.insert(index);
    Ok(())
}

/// The stage's name, or its number.
pub(crate) fn stage_name(file: &Dockerfile, index: usize) -> String {
    let name = file.stages.get(index).and_then(|stage| stage.name.clone());
    name.unwrap_or_else(|| format!("stage-{index}"))
}

/// A stage by name or number. A context of the same name hides it.
pub(crate) fn find_stage(file: &Dockerfile, request: &BuildRequest, name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    if request.contexts.contains_key(&name) {
        return None;
    }
    let by_name = file
        .stages
        .iter()
        .rposition(|stage| stage.name.as_ref() == Some(&name));
    by_name.or_else(|| {
        name.parse()
            .ok()
            .filter(|number| *number < file.stages.len())
    })
}

/// What a `FROM` of the stage `before` means.
fn source(file: &Dockerfile, request: &BuildRequest, name: &str, before: usize) -> Base {
    if request.contexts.contains_key(name) {
        return Base::Named(name.to_owned());
    }
    if name == "scratch" {
        return Base::Scratch;
    }
    let lower = name.to_ascii_lowercase();
    let earlier = &file.stages[..before];
    match earlier
        .iter()
        .rposition(|stage| stage.name.as_ref() == Some(&lower))
    {
        Some(index) => Base::Stage(index),
        None => Base::Image(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan, SyntaxError> {
        let request = BuildRequest {
            target: target.map(str::to_owned),
            args: [("V".to_owned(), "9".to_owned())].into(),
            ..BuildRequest::default()
        };
        Plan::new(&Dockerfile::parse(text).unwrap(), &request)
    }

    #[test]
    fn only_what_the_target_needs_is_needed() {
        let text = "FROM a AS one\nFROM b AS two\nRUN x\nFROM one AS three\nCOPY --from=two /x /x\nFROM c\n";
        assert_eq!(plan(text, Some("three")).unwrap().needed, [0, 1, 2].into());
        assert_eq!(plan(text, None).unwrap().needed, [3].into());
        assert!(plan(text, Some("thre")).unwrap_err().fix.contains("three"));
    }

    #[test]
    fn bases_have_variables() {
        let text = "ARG V=1\nARG W=${V}-x\nFROM base:$W\n";
        assert_eq!(
            plan(text, None).unwrap().stages[0].base,
            Base::Image("base:9-x".to_owned())
        );
        let error = plan("FROM base$X", None).map(|plan| plan.stages[0].base.clone());
        assert_eq!(error, Ok(Base::Image("base".to_owned())));
        assert!(plan("FROM $X", None).unwrap_err().fix.contains("ARG X=…"));
    }

    #[test]
    fn circles_are_found() {
        let text = "FROM a AS one\nCOPY --from=two /x /x\nFROM b AS two\nCOPY --from=one /y /y\n";
        let error = plan(text, None).unwrap_err();
        assert!(
            error.problem.contains("two needs one needs two"),
            "{}",
            error.problem
        );
        assert!(plan("FROM a AS x\nCOPY --from=x a b", None).is_err());
        assert!(plan("FROM a\nCOPY --from=7 a b", None).is_err());
    }
}
