//! `RUN --mount=type=…`

use isle_types::nearest;

/// What is mounted while a `RUN` runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What it is.
    pub kind: MountKind,
    /// Where; a secret's default is below `/run/secrets`.
    pub target: Option<String>,
    /// `from`: a stage, an image, a named context.
    pub from: Option<String>,
    /// `source`: the path there.
    pub source: Option<String>,
    /// Not writable; the default of a bind.
    pub read_only: bool,
    /// `id` of a cache, secret or agent.
    pub id: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Sharing,
    /// `required` of a secret or agent.
    pub required: bool,
    /// `mode`, in octal digits.
    pub mode: Option<u32>,
    /// `uid`
    pub uid: u32,
    /// `gid`
    pub gid: u32,
    /// `size` of a tmpfs, as it was written.
    pub size: Option<String>,
    /// `env` of a secret: the variable that it is in.
    pub env: Option<String>,
}

/// Kinds of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of a context, a stage or an image.
    Bind,
    /// A folder that is kept from build to build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file, or variable, that the image does not keep.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All.
    #[default]
    Shared,
    /// Each has one of its own.
    Private,
    /// One after the other.
    Locked,
}

const KEYS: [&str; 16] = [
    "type",
    "target",
    "from",
    "source",
    "readonly",
    "readwrite",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "size",
    "env",
    "dst",
    "src",
];

impl Mount {
    /// Reads a mount whose variables are replaced.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Mount, (String, String)> {
        let fail = |problem: String, fix: &str| Err((problem, fix.to_owned()));
        let mut mount = Mount {
            kind: MountKind::Bind,
            target: None,
            from: None,
            source: None,
            read_only: true,
            id: None,
            sharing: Sharing::Shared,
            required: false,
            mode: None,
            uid: 0,
            gid: 0,
            size: None,
            env: None,
        };
        let mut writable: Option<bool> = None;
        for field in text.split(',') {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
                None => (field.trim().to_ascii_lowercase(), None),
            };
            let given = || match value {
                Some(value) if !value.is_empty() => Ok(value.to_owned()),
                _ => Err((
                    format!("{key} of --mount has no value"),
                    format!("write {key}=VALUE"),
                )),
            };
            let switch = || match value {
                None | Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                Some(other) => Err((
                    format!("{key} of --mount is true or false, not {other:?}"),
                    format!("write {key} or {key}=false"),
                )),
            };
            let number = || -> Result<u32, (String, String)> {
                given()?.parse().map_err(|_| {
                    (
                        format!("{key} of --mount is not a number"),
                        format!("write {key}=1000"),
                    )
                })
            };
            match &*key {
                "type" => {
                    mount.kind = match &*given()?.to_ascii_lowercase() {
                        "bind" => MountKind::Bind,
                        "cache" => MountKind::Cache,
                        "tmpfs" => MountKind::Tmpfs,
                        "secret" => MountKind::Secret,
                        "ssh" => MountKind::Ssh,
                        other => {
                            return fail(
                                format!("{other:?} is not a type of mount"),
                                "there are bind, cache, tmpfs, secret and ssh",
                            );
                        }
                    };
                }
                "target" | "dst" | "destination" => mount.target = Some(given()?),
                "from" => mount.from = Some(given()?),
                "source" | "src" => mount.source = Some(given()?),
                "readonly" | "ro" => writable = Some(!switch()?),
                "readwrite" | "rw" => writable = Some(switch()?),
                "id" => mount.id = Some(given()?),
                "required" => mount.required = switch()?,
                "size" => mount.size = Some(given()?),
                "env" => mount.env = Some(given()?),
                "uid" => mount.uid = number()?,
                "gid" => mount.gid = number()?,
                "mode" => {
                    let digits = given()?;
                    mount.mode = match u32::from_str_radix(&digits, 8) {
                        Ok(mode) if mode <= 0o7777 => Some(mode),
                        _ => {
                            return fail(
                                format!("{digits:?} is not a mode"),
                                "write it in octal digits: mode=0755",
                            );
                        }
                    };
                }
                "sharing" => {
                    mount.sharing = match &*given()?.to_ascii_lowercase() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        other => {
                            return fail(
                                format!("{other:?} is no way of sharing a cache"),
                                "there are shared, private and locked",
                            );
                        }
                    };
                }
                other => {
                    let fix = match nearest(other, KEYS) {
                        Some(key) => format!("did you mean {key}?"),
                        None => format!("there are {}", KEYS[..14].join(", ")),
                    };
                    return Err((format!("--mount has no key {other:?}"), fix));
                }
            }
        }
        mount.read_only = match (mount.kind, writable) {
            (MountKind::Bind, None) => true,
            (_, None) => false,
            (_, Some(writable)) => !writable,
        };
        mount.check()?;
        Ok(mount)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let needs_target = match self.kind {
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => self.target.is_none(),
            MountKind::Secret | MountKind::Ssh => false,
        };
        if needs_target {
            return Err((
                "--mount has no target".to_owned(),
                "say where with target=PATH".to_owned(),
            ));
        }
        if self.kind == MountKind::Secret
            && self.id.is_none()
            && self.target.is_none()
            && self.source.is_none()
        {
            return Err((
                "--mount=type=secret names no secret".to_owned(),
                "write id=NAME".to_owned(),
            ));
        }
        if self.env.is_some() && self.kind != MountKind::Secret {
            return Err((
                "env of --mount is for secrets".to_owned(),
                "leave it out".to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_and_slips_are_named() {
        let mount = Mount::parse("type=cache,dst=/c,sharing=locked,mode=0700,uid=5,ro").unwrap();
        assert_eq!(mount.kind, MountKind::Cache);
        assert_eq!((mount.mode, mount.uid), (Some(0o700), 5));
        assert!(mount.read_only);
        assert!(Mount::parse("target=/x").unwrap().read_only);
        assert!(!Mount::parse("target=/x,rw").unwrap().read_only);
        assert_eq!(
            Mount::parse("type=cache,targt=/c").unwrap_err().1,
            "did you mean target?"
        );
        assert!(
            Mount::parse("type=cache")
                .unwrap_err()
                .1
                .contains("target=")
        );
        assert!(Mount::parse("type=nfs,target=/x").is_err());
    }
}
