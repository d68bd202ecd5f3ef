//! Images as instances need them: found, pulled when missing, looked into.

use std::sync::Arc;
use std::time::Duration;

use isle_engine::config::{HealthCheck, HealthTest, OnUnhealthy};
use isle_image::{FindError, Image, Platform, Progress, PullOptions, PullPolicy, Reference};
use isle_registry::{Client, Config};
use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::instance::{InstanceFlags, Pull};
use crate::progress::ProgressFlags;

/// Finds the image, or pulls it, as the flags say.
pub fn resolve(context: &Context, name: &str, flags: &InstanceFlags) -> Result<Image> {
    let platform: Option<Platform> = flags.platform.as_deref().map(str::parse).transpose()?;
    if flags.pull != Pull::Always {
        match context.engine()?.images().find(name) {
            Ok(image) => match &platform {
                // Another platform of the same name is what is asked for.
                Some(wanted) if wanted.fit(&image.platform).is_none() => {}
                _ => return Ok(image),
            },
            Err(FindError::NotFound { .. }) if flags.pull == Pull::Missing => {}
            Err(error) => return Err(error.into()),
        }
    }
    if flags.pull == Pull::Never {
        return Err(Failure::new(format!("no image {name} of that platform"))
            .hint("leave out --pull never")
            .into());
    }
    if flags.pull == Pull::Missing && !flags.quiet {
        eprintln!("Unable to find image '{name}' locally");
    }
    let options = PullOptions {
        platform,
        policy: PullPolicy::Always,
    };
    let progress = ProgressFlags::only_quiet(flags.quiet).open();
    pull(context, &name.parse()?, &options, &progress)
}

/// The repository that a name without tag and digest tells, for `--all-tags`.
pub fn repository(name: &str) -> Result<Reference> {
    let reference: Reference = name.parse()?;
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.contains([':', '@']) {
        false => Ok(reference),
        true => Err(Failure::new(format!(
            "{name} has a tag or a digest, and --all-tags means all tags"
        ))
        .hint(format!(
            "name the repository alone: {}",
            reference.familiar_name()
        ))
        .into()),
    }
}

/// Gets an image from its registry.
pub fn pull(
    context: &Context,
    reference: &Reference,
    options: &PullOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Image> {
    let engine = context.engine()?;
    let client = Client::new(Config::of_host()?);
    let image = engine
        .images()
        .pull(&client, reference, options, progress)?;
    engine.record_image_event("pull", image.id.as_str(), &reference.familiar())?;
    Ok(image)
}

/// The health check that an image asks for.
pub fn health_check(image: &Image) -> Option<HealthCheck> {
    let check = image.docker.healthcheck.as_ref()?;
    let test = match check.test.split_first()? {
        (kind, _) if kind == "NONE" => HealthTest::Disabled,
        (kind, words) if kind == "CMD" => HealthTest::Command(words.to_vec()),
        (kind, words) if kind == "CMD-SHELL" => HealthTest::Shell(words.join(" ")),
        _ => return None,
    };
    let or = |duration: Duration, default: u64| match duration.is_zero() {
        true => Duration::from_secs(default),
        false => duration,
    };
    Some(HealthCheck {
        test,
        interval: or(check.interval, 30),
        timeout: or(check.timeout, 30),
        start_period: check.start_period,
        start_interval: or(check.start_interval, 5),
        retries: if check.retries == 0 { 3 } else { check.retries },
        on_unhealthy: OnUnhealthy::None,
    })
}

/// An image as `docker image inspect` shows it; `None` when there is none of that name.
pub fn inspect(context: &Context, name: &str) -> Result<Option<Value>> {
    match context.engine()?.images().find(name) {
        Ok(image) => Ok(Some(isle_docker_model::image::inspect(&image))),
        Err(FindError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Bytes of an image's files.
pub fn size(context: &Context, id: &str) -> Result<u64> {
    Ok(context.engine()?.images().find(id)?.size)
}

/// The names of all images.
pub fn names(context: &Context) -> Result<Vec<String>> {
    let images = context.engine()?.images().images()?;
    Ok(images
        .into_iter()
        .flat_map(|image| image.repo_tags)
        .collect())
}

/// How many images there are.
pub fn count(context: &Context) -> Result<usize> {
    Ok(context.engine()?.images().images()?.len())
}
