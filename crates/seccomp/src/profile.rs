//! Docker's profile format, see <https://docs.docker.com/engine/security/seccomp/>.

use std::borrow::Cow;
use std::str::FromStr;

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use crate::default_policy;

/// A profile in Docker's JSON format (`includes`, `excludes`, `archMap`, …).
#[derive(Clone, Debug)]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno: Option<u32>,
    architectures: Architectures,
    flags: Vec<LinuxSeccompFilterFlag>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    rules: Vec<Rule>,
}

/// Why a text is not a profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No JSON, or not of this shape.
    #[error("invalid seccomp profile at line {line}, column {column}: {reason}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Fields that contradict each other, or a value that means nothing.
    #[error("invalid seccomp profile: {field} {value:?}: {expected}")]
    Field {
        /// Where.
        field: String,
        /// What was given.
        value: String,
        /// What may be given.
        expected: &'static str,
    },
    /// The profile cannot become a program.
    #[error("invalid seccomp profile")]
    Compile(#[from] crate::CompileError),
}

#[derive(Clone, Debug)]
enum Architectures {
    /// These and no others.
    Listed(Vec<Arch>),
    /// By the machine's own.
    Map(Vec<(Arch, Vec<Arch>)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub names: Vec<Cow<'static, str>>,
    pub action: LinuxSeccompAction,
    pub errno: Option<u32>,
    pub arguments: Vec<Argument>,
    pub includes: Conditions,
    pub excludes: Conditions,
}

#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub index: usize,
    pub value: u64,
    pub value_two: Option<u64>,
    pub op: LinuxSeccompOperator,
}

/// When a rule counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    /// `CAP_…`
    pub capabilities: Vec<String>,
    /// In Go's words: `amd64`, `arm64`, …
    pub architectures: Vec<String>,
    /// Major and minor version.
    pub minimal_kernel: Option<(u32, u32)>,
}

/// What conditions are compared with.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    pub capabilities: Vec<String>,
    pub architecture: &'static str,
    pub kernel: (u32, u32),
}

impl Rule {
    fn counts(&self, situation: &Situation) -> bool {
        let has = |capability: &String| situation.capabilities.contains(capability);
        let is_here = |list: &[String]| list.iter().any(|name| name == situation.architecture);
        let excludes = &self.excludes;
        let is_excluded = is_here(&excludes.architectures)
            || excludes.capabilities.iter().any(has)
            || excludes
                .minimal_kernel
                .is_some_and(|kernel| situation.kernel >= kernel);
        let includes = &self.includes;
        !is_excluded
            && (includes.architectures.is_empty() || is_here(&includes.architectures))
            && includes.capabilities.iter().all(has)
            && includes
                .minimal_kernel
                .is_none_or(|kernel| situation.kernel >= kernel)
    }
}

impl Profile {
    /// Docker's default policy.
    #[must_use]
    pub fn docker_default() -> Profile {
        default_policy::profile()
    }

    pub(crate) fn from_rules(
        default_action: LinuxSeccompAction,
        default_errno: u32,
        rules: Vec<Rule>,
    ) -> Profile {
        Profile {
            default_action,
            default_errno: Some(default_errno),
            architectures: Architectures::Map(vec![
                (
                    Arch::ScmpArchX86_64,
                    vec![Arch::ScmpArchX86, Arch::ScmpArchX32],
                ),
                (Arch::ScmpArchAarch64, vec![Arch::ScmpArchArm]),
            ]),
            flags: Vec::new(),
            listener_path: None,
            listener_metadata: None,
            rules,
        }
    }

    /// Reads a profile, and tries whether it can be compiled.
    ///
    /// # Errors
    /// [`ProfileError`] with the place and the value that is wrong.
    pub fn parse(json: &str) -> Result<Profile, ProfileError> {
        let document: Document = serde_json::from_str(json).map_err(|error| {
            let reason = error.to_string();
            ProfileError::Json {
                line: error.line(),
                column: error.column(),
                // serde_json ends its text with the place, which is told already
                reason: match reason.rfind(" at line ") {
                    Some(end) => reason[..end].to_owned(),
                    None => reason,
                },
            }
        })?;
        let profile = document.check()?;
        // With every capability and with none: what is wrong must be told now, not at a start.
        crate::compile(&profile.resolve(&Capabilities::default()))?;
        Ok(profile)
    }

    /// The policy for a process with these capabilities on this architecture and kernel.
    #[must_use]
    pub fn resolve(&self, bounding: &Capabilities) -> LinuxSeccomp {
        let uname = rustix::system::uname();
        self.resolve_in(&Situation {
            capabilities: bounding
                .iter()
                .map(|capability| format!("CAP_{capability}"))
                .collect(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            kernel: version(&uname.release().to_string_lossy()).unwrap_or((0, 0)),
        })
    }

    pub(crate) fn resolve_in(&self, situation: &Situation) -> LinuxSeccomp {
        let mut policy = LinuxSeccomp::default();
        policy
            .set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno)
            .set_architectures(Some(self.architectures_in(situation)))
            .set_listener_path(self.listener_path.clone().map(Into::into))
            .set_listener_metadata(self.listener_metadata.clone());
        if !self.flags.is_empty() {
            policy.set_flags(Some(self.flags.clone()));
        }
        let calls = self
            .rules
            .iter()
            .filter(|rule| rule.counts(situation))
            .map(|rule| {
                let mut call = LinuxSyscall::default();
                call.set_names(
                    rule.names
                        .iter()
                        .map(|name| name.clone().into_owned())
                        .collect(),
                )
                .set_action(rule.action)
                .set_errno_ret(rule.errno);
                if !rule.arguments.is_empty() {
                    let arguments = rule.arguments.iter().map(|argument| {
                        let builder = LinuxSeccompArgBuilder::default()
                            .index(argument.index)
                            .value(argument.value)
                            .op(argument.op);
                        match argument.value_two {
                            Some(value) => builder.value_two(value),
                            None => builder,
                        }
                        .build()
                        .expect("all fields are set")
                    });
                    call.set_args(Some(arguments.collect()));
                }
                call
            })
            .collect();
        policy.set_syscalls(Some(calls));
        policy
    }

    fn architectures_in(&self, situation: &Situation) -> Vec<Arch> {
        match &self.architectures {
            Architectures::Listed(list) => list.clone(),
            Architectures::Map(map) => {
                let native = match situation.architecture {
                    "amd64" => Arch::ScmpArchX86_64,
                    "arm64" => Arch::ScmpArchAarch64,
                    _ => Arch::ScmpArchNative,
                };
                let subordinate = map
                    .iter()
                    .find(|(architecture, _)| *architecture == native)
                    .map(|(_, subordinate)| subordinate.as_slice());
                std::iter::once(native)
                    .chain(subordinate.unwrap_or_default().iter().copied())
                    .collect()
            }
        }
    }
}

/// Major and minor version of a kernel release like `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

// The document as it is written. Unknown fields are errors: a misspelled one would change what is
// allowed.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    /// Podman's profiles give the errors by name too.
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<DocumentRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentRule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<DocumentArgument>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<DocumentConditions>,
    excludes: Option<DocumentConditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentArgument {
    index: usize,
    #[serde(default)]
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentConditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Document {
    fn check(self) -> Result<Profile, ProfileError> {
        let architectures = match (self.architectures, self.arch_map) {
            (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => {
                return Err(ProfileError::Field {
                    field: "architectures".to_owned(),
                    value: format!("{} entries", list.len()),
                    expected: "architectures or archMap, not both",
                });
            }
            (Some(list), _) if !list.is_empty() => Architectures::Listed(list),
            (_, map) => Architectures::Map(
                map.into_iter()
                    .flatten()
                    .map(|entry| {
                        let subordinate = entry.sub_architectures.unwrap_or_default();
                        (entry.architecture, subordinate)
                    })
                    .collect(),
            ),
        };
        let rules = self
            .syscalls
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, rule)| rule.check(index))
            .collect::<Result<_, _>>()?;
        Ok(Profile {
            default_action: self.default_action,
            default_errno: errno(self.default_errno_ret, self.default_errno, "defaultErrno")?,
            architectures,
            flags: self.flags.unwrap_or_default(),
            listener_path: self.listener_path.filter(|path| !path.is_empty()),
            listener_metadata: self.listener_metadata.filter(|data| !data.is_empty()),
            rules,
        })
    }
}

impl DocumentRule {
    fn check(self, index: usize) -> Result<Rule, ProfileError> {
        let names = match (self.name, self.names) {
            (Some(name), Some(names)) if !name.is_empty() && !names.is_empty() => {
                return Err(ProfileError::Field {
                    field: format!("syscalls[{index}].name"),
                    value: name,
                    expected: "name or names, not both",
                });
            }
            (Some(name), _) if !name.is_empty() => vec![name],
            (_, names) => names.unwrap_or_default(),
        };
        let errno_field = format!("syscalls[{index}].errno");
        Ok(Rule {
            names: names.into_iter().map(Cow::Owned).collect(),
            action: self.action,
            errno: errno(self.errno_ret, self.errno, &errno_field)?,
            arguments: self
                .args
                .into_iter()
                .flatten()
                .map(|argument| Argument {
                    index: argument.index,
                    value: argument.value,
                    value_two: argument.value_two,
                    op: argument.op,
                })
                .collect(),
            includes: self.includes.unwrap_or_default().check(index, "includes")?,
            excludes: self.excludes.unwrap_or_default().check(index, "excludes")?,
        })
    }
}

impl DocumentConditions {
    fn check(self, index: usize, list: &str) -> Result<Conditions, ProfileError> {
        let minimal_kernel = match self.min_kernel.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let parsed = text.split_once('.').and_then(|(major, minor)| {
                    Some((u32::from_str(major).ok()?, u32::from_str(minor).ok()?))
                });
                let expected = "a kernel version like 4.8";
                Some(parsed.ok_or_else(|| ProfileError::Field {
                    field: format!("syscalls[{index}].{list}.minKernel"),
                    value: text,
                    expected,
                })?)
            }
        };
        Ok(Conditions {
            capabilities: self.caps.unwrap_or_default(),
            architectures: self.arches.unwrap_or_default(),
            minimal_kernel,
        })
    }
}

/// An error by number, else by name.
fn errno(
    number: Option<u32>,
    name: Option<String>,
    field: &str,
) -> Result<Option<u32>, ProfileError> {
    match (number, name.filter(|name| !name.is_empty())) {
        (Some(number), _) => Ok(Some(number)),
        (None, None) => Ok(None),
        (None, Some(name)) => (1..=133)
            .find(|&number| syscalls::Errno::new(number).name() == Some(name.as_str()))
            .map(|number| Some(number.cast_unsigned()))
            .ok_or_else(|| ProfileError::Field {
                field: field.to_owned(),
                value: name,
                expected: "the name of an error like EPERM",
            }),
    }
}

#[cfg(test)]
mod tests;
