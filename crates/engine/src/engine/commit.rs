//! Makes an image of an instance.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use isle_archive::{Archive, Style};
use isle_image::{CommitOptions, Image};
use isle_types::InstanceId;

use super::{CommitRequest, Engine, EngineError};
use crate::backend;
use crate::backend::container::upper;
use crate::backend::inside::Carry;
use crate::state::{Instance, Status};
use crate::store::NewEvent;

impl Engine {
    /// Makes an image of its root file system; returns the image's id.
    ///
    /// # Errors
    /// When the layer cannot be read or stored.
    pub fn commit(&self, id: &InstanceId, request: &CommitRequest) -> Result<String, EngineError> {
        let instance = self.current(id)?;
        let base = self.images.find(&instance.image_id)?;
        let reference = request.reference.as_ref().map(|text| text.parse());
        let reference = reference
            .transpose()
            .map_err(|error| EngineError::FindImage(isle_image::FindError::Reference(error)))?;
        let words = instance.config.process.entrypoint.iter().flatten();
        let words = words.chain(instance.config.process.command.iter().flatten());
        let options = CommitOptions {
            author: request.author.clone(),
            message: request.message.clone(),
            created_by: Some(words.cloned().collect::<Vec<_>>().join(" ")),
            config: Some((config_of(&instance, &base), base.docker.clone())),
            changes: request.changes.clone(),
            reference,
            platform: None,
        };
        let is_frozen = request.pause && instance.state.status == Status::Running;
        // Where the layer has to be asked for inside, what answers must go on: it lets the rest stand still by itself.
        let held = match is_frozen && backend::host_sees_files(&instance) {
            true => self.hold(&instance)?,
            false => None,
        };
        let image = self.read_layer(&instance, is_frozen, |reader| {
            self.images.commit_layer(Some(&base), reader, &options)
        });
        if let Some(held) = held {
            held.release()?;
        }
        let image = image?;
        let event = NewEvent::of_instance(&instance, "commit").with("imageID", &image.id);
        self.store().record_event(&event)?;
        Ok(image.id.to_string())
    }

    /// Hands what an instance that does not run has changed to `take`, as a tar archive in the OCI layer format.
    ///
    /// # Errors
    /// When it cannot be read, or what `take` returns.
    pub fn with_layer<T>(
        &self,
        id: &InstanceId,
        take: impl FnOnce(&mut dyn Read) -> Result<T, isle_image::BuildError>,
    ) -> Result<T, EngineError> {
        self.read_layer(&self.current(id)?, false, take)
    }

    fn read_layer<T>(
        &self,
        instance: &Instance,
        is_frozen: bool,
        take: impl FnOnce(&mut dyn Read) -> Result<T, isle_image::BuildError>,
    ) -> Result<T, EngineError> {
        let directory = self.paths.instance(&instance.id);
        if !backend::host_sees_files(instance) {
            return self.read_layer_inside(instance, is_frozen, take);
        }
        let upper = upper(&directory);
        let fail = EngineError::io("read", &upper);
        let folder = match File::open(&upper) {
            // Never started: an empty layer.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            folder => Some(folder.map_err(fail)?),
        };
        let (mut reader, mut writer) =
            io::pipe().map_err(EngineError::io("make a pipe for", &directory))?;
        std::thread::scope(|scope| {
            let archiving = scope.spawn(move || {
                let style = Style {
                    is_layer: true,
                    leaves_mount_points_out: true,
                    ..Style::default()
                };
                let mut archive = Archive::new(&mut writer, style);
                if let Some(folder) = folder {
                    archive.folder_content(folder.as_fd())?;
                }
                archive.finish()
            });
            let taken = take(&mut reader);
            // Should who takes it have given up, the archive must not wait for a reader.
            drop(reader);
            let archived = archiving
                .join()
                .expect("the archive's thread does not panic");
            // A broken archive is the cause of what the taker says.
            match (archived, taken) {
                (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(EngineError::io("make an archive of", &upper)(error))
                }
                (_, Err(error)) => Err(EngineError::Commit(error)),
                (Err(error), Ok(_)) => Err(EngineError::io("make an archive of", &upper)(error)),
                (Ok(()), Ok(value)) => Ok(value),
            }
        })
    }

    /// The same where the host cannot see what was written.
    fn read_layer_inside<T>(
        &self,
        instance: &Instance,
        is_frozen: bool,
        take: impl FnOnce(&mut dyn Read) -> Result<T, isle_image::BuildError>,
    ) -> Result<T, EngineError> {
        let (mut reader, mut writer) =
            io::pipe().map_err(EngineError::io("make a pipe for", instance.name.as_str()))?;
        std::thread::scope(|scope| {
            // The store is not shared between threads; who writes to it stays in this one.
            let paths = self.paths.clone();
            let archiving = scope.spawn(move || {
                let engine = Engine::open(paths)?;
                engine.carry_out(instance, "/", &Carry::Layer { is_frozen }, &mut writer)
            });
            let taken = take(&mut reader);
            drop(reader);
            let archived = archiving
                .join()
                .expect("the archive's thread does not panic");
            match (archived, taken) {
                (Ok(()), Ok(value)) => Ok(value),
                (Err(error), _) => Err(error),
                (Ok(()), Err(error)) => Err(EngineError::Commit(error)),
            }
        })
    }
}

/// The image's configuration with what the instance was told over it, as Docker's commit has it.
fn config_of(instance: &Instance, base: &Image) -> oci_spec::image::Config {
    let asked = &instance.config;
    let mut config = base.config.config().clone().unwrap_or_default();
    config.set_user(asked.process.user.clone());
    config.set_env(Some(asked.process.env.clone()));
    config.set_entrypoint(
        asked
            .process
            .entrypoint
            .clone()
            .filter(|words| !words.is_empty()),
    );
    config.set_cmd(asked.process.command.clone());
    config.set_working_dir(asked.process.working_dir.clone());
    config.set_labels(Some(asked.labels.clone().into_iter().collect()));
    config.set_stop_signal(asked.stop_signal.map(|signal| signal.to_string()));
    config
}
