//! Wanted instances as requests to the engine: flags read, files written, images found.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use isle_compose::words::{File, Source, Wanted};
use isle_compose::{Project, Service};
use isle_engine::CreateRequest;
use isle_engine::config::{HealthTest, InstanceConfig, Mount, MountSource};
use isle_engine::state::Instance;
use isle_image::{FindError, Image, PullOptions, PullPolicy};
use sha2::{Digest, Sha256};

use super::session::Form;
use super::words::parse;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::instance::InstanceFlags;
use crate::images;
use crate::progress::ProgressFlags;

/// When images are pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Pull {
    /// As the service says; else when they are missing.
    #[default]
    Policy,
    /// Always.
    Always,
    /// When they are missing.
    Missing,
    /// Never.
    Never,
    /// They are built.
    Build,
}

/// How images come to be here.
pub struct Supply<'a> {
    /// The project.
    pub project: &'a Project,
    /// `--pull`
    pub pull: Pull,
    /// `--build`
    pub builds: bool,
    /// `--no-build`
    pub builds_none: bool,
    /// `--quiet-pull`
    pub quiet: bool,
    /// How a build is shown.
    pub form: Form,
}

/// Finds the image of a service; builds or pulls it when that is to be.
pub fn image(context: &Context, service: &Service, supply: &Supply<'_>) -> Result<Image> {
    let name = service.image_name(&supply.project.name);
    let of_service = match service.pull_policy.as_deref() {
        None | Some("" | "missing" | "if_not_present") => Pull::Missing,
        Some("always") => Pull::Always,
        Some("never") => Pull::Never,
        Some("build") => Pull::Build,
        Some(other) => {
            return Err(Failure::new(format!(
                "service {}: {other:?} is no pull policy that Isle has",
                service.name
            ))
            .hint("choose always, missing, never or build")
            .into());
        }
    };
    let pull = match supply.pull {
        Pull::Policy => of_service,
        pull => pull,
    };
    let builds = supply.builds || pull == Pull::Build;
    if builds && service.build.is_some() && !supply.builds_none {
        super::build::image(context, supply.project, service, supply.form, &[])?;
    }
    let platform = service.platform.as_deref().map(str::parse).transpose()?;
    if pull != Pull::Always || service.build.is_some() {
        match context.engine()?.images().find(&name) {
            Ok(image) => match &platform {
                Some(wanted) if isle_image::Platform::fit(wanted, &image.platform).is_none() => {}
                _ => return Ok(image),
            },
            Err(FindError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if service.build.is_some() && (pull != Pull::Always || service.image.is_none()) {
        if supply.builds_none {
            return Err(Failure::new(format!(
                "service {}: the image {name} is not here, and is not to be built",
                service.name
            ))
            .hint("leave out --no-build")
            .into());
        }
        super::build::image(context, supply.project, service, supply.form, &[])?;
        return Ok(context.engine()?.images().find(&name)?);
    }
    if pull == Pull::Never {
        return Err(Failure::new(format!(
            "service {}: the image {name} is not here, and is not to be pulled",
            service.name
        ))
        .hint("isle compose pull")
        .into());
    }
    let options = PullOptions {
        platform,
        policy: PullPolicy::Always,
    };
    let progress = ProgressFlags::only_quiet(supply.quiet).open();
    images::pull(context, &name.parse()?, &options, &progress).map_err(|error| {
        error.context(format!("cannot pull the image of service {}", service.name))
    })
}

/// Everything that can be found wrong before anything is made.
pub fn configuration(wanted: &Wanted, image: Option<&Image>) -> Result<InstanceConfig> {
    let flags: InstanceFlags = parse(&wanted.flags)?;
    let of_image = image
        .filter(|_| flags.health.need_image())
        .and_then(images::health_check);
    let mut config = flags.config(&wanted.image, &[], of_image.as_ref())?;
    config.process.entrypoint.clone_from(&wanted.entrypoint);
    config.process.command.clone_from(&wanted.command);
    if let (Some(words), Some(check)) = (&wanted.health, &mut config.health_check) {
        check.test = HealthTest::Command(words.clone());
    }
    Ok(config)
}

/// The request to the engine; files of secrets and configs are written.
pub fn request(
    context: &Context,
    project: &str,
    wanted: &Wanted,
    image: &Image,
) -> Result<CreateRequest> {
    let mut config = configuration(wanted, Some(image))?;
    let folder = folder(context, project);
    for file in &wanted.files {
        config.mounts.push(Mount {
            source: MountSource::Bind {
                path: written(&folder, file)?,
                create_source: false,
                propagation: None,
                non_recursive: false,
                writable_below: false,
            },
            target: file.target.clone(),
            read_only: true,
        });
    }
    Ok(CreateRequest {
        config,
        name: Some(wanted.name.parse()?),
        image_id: image.id.to_string(),
    })
}

/// Where the files of a project's secrets and configs are.
pub fn folder(context: &Context, project: &str) -> PathBuf {
    context.paths().root.join("compose").join(project)
}

/// The file that is mounted. One of the host as it is; what has to be written is written once, under a name that says what
/// is in it.
fn written(folder: &Path, file: &File) -> Result<PathBuf> {
    let is_changed = file.uid.is_some() || file.gid.is_some() || file.mode.is_some();
    let text = match &file.source {
        Source::Path(path) if !is_changed => {
            let path = PathBuf::from(path);
            return match path.exists() {
                true => Ok(path),
                false => Err(no_file(&file.title, &path)),
            };
        }
        Source::Path(path) => fs::read(path).map_err(|error| {
            anyhow::Error::from(error).context(no_file(&file.title, Path::new(path)))
        })?,
        Source::Text(text) => text.clone().into_bytes(),
        Source::Unset(name) => {
            return Err(
                Failure::new(format!("{}: the variable {name} is not set", file.title))
                    .hint(format!(
                        "set {name} in the environment, in .env or in an --env-file"
                    ))
                    .into(),
            );
        }
        Source::External(name) => {
            return Err(Failure::new(format!(
                "{}: nothing keeps {name:?} outside of projects",
                file.title
            ))
            .hint("say `file:`, `environment:` or `content:` instead of `external:`")
            .into());
        }
    };
    let id = |text: &Option<String>, what: &str| -> Result<Option<u32>> {
        text.as_deref()
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::new(format!("{}: {text:?} is no {what}", file.title))
                        .hint("write a number")
                        .into()
                })
            })
            .transpose()
    };
    let (uid, gid) = (id(&file.uid, "uid")?, id(&file.gid, "gid")?);
    let mode = file.mode.unwrap_or(0o444);
    let mut digest = Sha256::new();
    digest.update(format!("{uid:?} {gid:?} {mode} "));
    digest.update(&text);
    let name: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = folder.join(&name);
    if path.exists() {
        return Ok(path);
    }
    let write = || -> std::io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)?;
        let temporary = folder.join(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let mut open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        open.write_all(&text)?;
        if uid.is_some() || gid.is_some() {
            chown(&temporary, uid, gid)?;
        }
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
        open.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        anyhow::Error::from(error).context(format!("cannot write the file of {}", file.title))
    })?;
    Ok(path)
}

fn no_file(title: &str, path: &Path) -> anyhow::Error {
    Failure::new(format!("{title}: there is no file {}", path.display()))
        .hint("paths are relative to the folder of the first Compose file")
        .into()
}

/// Takes over the anonymous volumes of the instance whose place another one takes.
pub fn keep_volumes(
    config: &mut InstanceConfig,
    old: &Instance,
    image: &Image,
    anonymous: &[String],
) {
    let of_image = image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.volumes().clone())
        .unwrap_or_default();
    for mount in &old.config.mounts {
        let MountSource::Volume(volume) = &mount.source else {
            continue;
        };
        let is_anonymous = volume
            .name
            .as_ref()
            .is_some_and(|name| anonymous.contains(name));
        if !is_anonymous {
            continue;
        }
        match config
            .mounts
            .iter_mut()
            .find(|own| own.target == mount.target)
        {
            Some(own) => {
                if let MountSource::Volume(wanted) = &mut own.source
                    && wanted.name.is_none()
                {
                    wanted.name.clone_from(&volume.name);
                }
            }
            None if of_image.contains(&mount.target) => config.mounts.push(mount.clone()),
            None => {}
        }
    }
}
