//! `isle create`, and what `run` shares with it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use isle_engine::state::{Exit, ExitReason, Instance, MemoryOf};
use isle_engine::{Attachment, CreateRequest, Engine, EngineError, WaitCondition};

use crate::context::Context;
use crate::failure::{Failure, OutputClosed, Result};
use crate::flags::instance::InstanceFlags;
use crate::images;
use crate::output;
use crate::terminal::{Outcome, Relay};

pub const ABOUT: &str = "Make an instance of an image, without starting it";
pub const EXAMPLES: &str = "  isle create --name web --network host nginx
  isle start web";

/// Flags of `create`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    instance: InstanceFlags,
    /// Image, then the command and its arguments
    #[arg(required = true, value_names = ["IMAGE", "COMMAND"], num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let instance = create(&args.instance, &args.words, context)?;
    output::line(&instance.id.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Finds or pulls the image and makes the instance; writes the id file.
pub fn create(flags: &InstanceFlags, words: &[String], context: &Context) -> Result<Instance> {
    let (image, command) = words
        .split_first()
        .ok_or_else(|| Failure::new("no image given"))?;
    if let Some(path) = &flags.cidfile {
        check_id_file(path)?;
    }
    // Everything that is wrong with the flags is said before anything is pulled.
    let mut config = match flags.health.need_image() {
        false => Some(flags.config(image, command, None)?),
        true => None,
    };
    let found = images::resolve(context, image, flags)?;
    if config.is_none() {
        let check = images::health_check(&found);
        config = Some(flags.config(image, command, check.as_ref())?);
    }
    let config = config.ok_or_else(|| Failure::new("no configuration"))?;
    let engine = context.engine()?;
    let instance = engine.create(CreateRequest {
        config,
        name: flags.name.clone(),
        image_id: found.id.to_string(),
    })?;
    if let Some(path) = &flags.cidfile
        && let Err(error) = write_id_file(path, &instance)
    {
        let _ = engine.remove(&instance.id, true, true);
        return Err(error);
    }
    Ok(instance)
}

fn check_id_file(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(Failure::new(format!("the id file {} is there already", path.display()))
            .hint("make sure that the other instance does not run, then delete the file")
            .into()),
    }
}

fn write_id_file(path: &Path, instance: &Instance) -> Result<()> {
    let write = || {
        let mut file = std::fs::File::create_new(path)?;
        file.write_all(instance.id.to_string().as_bytes())
    };
    write().map_err(|error| {
        Failure::new(format!("cannot write the id file {}", path.display()))
            .hint("name a file in a directory that you can write")
            .because(error)
            .into()
    })
}

/// `run --rm` of what could not be started leaves nothing; without `--rm` it stays, as Docker's does.
pub fn forget(context: &Context, instance: &Instance, error: EngineError) -> anyhow::Error {
    if instance.config.auto_remove
        && let Ok(engine) = context.engine()
    {
        // The error that counts is why it did not start; it may also be gone already.
        let _ = engine.remove(&instance.id, true, true);
    }
    error.into()
}

/// Relays until the end, and turns that into our own exit code.
pub fn follow(
    engine: &Engine,
    instance: &Instance,
    session: Option<Attachment>,
    relay: Relay,
) -> Result {
    let has_tty = relay.tty;
    let outcome = match session {
        Some(mut session) => relay.attach(&mut session)?,
        None => Outcome::Lost,
    };
    match outcome {
        Outcome::Exited(exit) => Ok(exit_code(&exit)),
        Outcome::Detached => {
            if has_tty {
                eprintln!();
            }
            Ok(ExitCode::SUCCESS)
        }
        Outcome::OutputClosed => Err(OutputClosed.into()),
        Outcome::Interrupted(signal) => Ok(ExitCode::from(128 + signal.number() as u8)),
        Outcome::Lost => match engine.wait(&instance.id, WaitCondition::NotRunning) {
            Ok(exit) => Ok(exit_code(&exit)),
            Err(EngineError::NoSuchInstance { .. }) => Err(Failure::new(format!(
                "{} was removed while it ran",
                instance.name
            ))
            .into()),
            Err(error) => Err(error.into()),
        },
    }
}

/// The workload's own code; says why where the code does not.
pub fn exit_code(exit: &Exit) -> ExitCode {
    match &exit.reason {
        ExitReason::CouldNotStart { message } | ExitReason::Crashed { message } => eprintln!("isle: {message}"),
        ExitReason::SupervisorLost => {
            eprintln!("isle: the supervisor was killed; the exit code is not known");
        }
        ExitReason::OutOfMemory { whose } => {
            let (what, remedy) = whose.map_or(("the kernel killed it", "raise --memory"), MemoryOf::explanation);
            eprintln!("isle: out of memory: {what}\nhint: {remedy}");
        }
        _ => {}
    }
    ExitCode::from((exit.code & 0xff) as u8)
}
